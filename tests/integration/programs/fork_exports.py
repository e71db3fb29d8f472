"""Exports over OTLP and forks after a stage; argument 1 states whether the child opens a stage.

The child lives for some export intervals. Prints the joules of the parent.
"""

import os
import sys
import time

import carbon_otel


def work(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sum(range(1000))


carbon_otel.instrument(zone="FR", interval_s=0.05)
with carbon_otel.stage("training"):
    work(0.3)
carbon_otel.flush()
pid = os.fork()
if pid == 0:
    if sys.argv[1] == "measures":
        with carbon_otel.stage("inference"):
            work(0.3)
        carbon_otel.flush()
    time.sleep(0.5)
    os._exit(0)
os.waitpid(pid, 0)
carbon_otel.uninstrument()
