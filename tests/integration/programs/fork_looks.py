"""Forks in a stage while another thread changes the books; each child reads the cost of the stage.

Argument: the attribution. Prints the exit statuses of the failed children; an alarm ends a child that hangs.
"""

import os
import signal
import sys
import threading

import carbon_otel

carbon_otel.instrument(zone="FR", interval_s=0.01, attribution=sys.argv[1])


def look_all_the_time():
    while True:
        carbon_otel.footprint()


threading.Thread(target=look_all_the_time, daemon=True).start()
failed = []
with carbon_otel.stage("training") as s:
    for _ in range(20):
        pid = os.fork()
        if pid == 0:
            signal.alarm(2)
            _ = s.footprint
            carbon_otel.footprint()
            os._exit(0)
        status = os.waitpid(pid, 0)[1]
        if status:
            failed.append(status)
            break
print(failed)
