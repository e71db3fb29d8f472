"""Forks in a stage while another thread keeps the books busy; each child looks at what the stage has cost.

Argument: the attribution. Prints the exit statuses of the children that did not come back: an alarm ends those
that hang.
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
