"""Forks while four threads make annotated spans; each child makes one, then one more inside a new stage.

Prints the exit statuses of the failed children; an alarm ends a child that hangs.
"""

import os
import signal
import threading

from opentelemetry.sdk.trace import TracerProvider

import carbon_otel

FORKS = 30

provider = TracerProvider(shutdown_on_exit=False)
carbon_otel.instrument(zone="FR", interval_s=30, tracer_provider=provider, annotate_spans=True)
tracer = provider.get_tracer("application")
over = threading.Event()


def make_spans():
    while not over.is_set():
        with tracer.start_as_current_span("request"):
            pass


threads = [threading.Thread(target=make_spans) for _ in range(4)]
for thread in threads:
    thread.start()
failed = []
for _ in range(FORKS):
    inherited = tracer.start_span("inherited")
    pid = os.fork()
    if pid == 0:
        signal.alarm(20)
        before = tracer.start_span("outside of any stage")
        before.end()
        inherited.end()
        with carbon_otel.stage("inference"):
            inside = tracer.start_span("in a stage")
            inside.end()
        annotated = ["carbon_otel.window.energy_j" in s.attributes for s in (before, inherited, inside)]
        os._exit(0 if annotated == [False, False, True] else 1)
    inherited.end()
    status = os.waitpid(pid, 0)[1]
    if status:
        failed.append(status)
        break
over.set()
for thread in threads:
    thread.join()
print(failed)
