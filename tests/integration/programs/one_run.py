"""A run with a stage of one second; prints its id, waits for a line, then prints the time at the end.

Arguments: the tracking URI; `end` or `leave` for the run.
"""

import sys
import time

import carbon_otel

carbon_otel.instrument(zone="FR", interval_s=0.05, checkpoint_interval_s=0.2)
import mlflow  # noqa: E402 - after `instrument()`, as in many programs

mlflow.set_tracking_uri(sys.argv[1])
run = mlflow.start_run()
print(run.info.run_id, flush=True)
sys.stdin.readline()
with carbon_otel.stage("training") as s:
    end = time.monotonic() + 1
    while time.monotonic() < end:
        sum(range(1000))
assert s.footprint.energy_j > 0
if sys.argv[2] == "end":
    mlflow.end_run()
print(time.time(), flush=True)
