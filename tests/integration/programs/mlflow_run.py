"""One MLflow run in the store of argument 1; what becomes of it is argument 2: `ended`, `left` open or `forever`.

Prints the run's id, waits for a line, works for a second, and prints when its work has ended.
"""

import itertools
import sys
import time

import carbon_otel

uri, becomes = sys.argv[1:]
carbon_otel.instrument(zone="FR", interval=0.05)
with carbon_otel.stage("data_processing"):
    pass
assert "mlflow" not in sys.modules

import mlflow  # noqa: E402

mlflow.set_tracking_uri(uri)
run = mlflow.start_run(experiment_id="0")
print(run.info.run_id, flush=True)
input()
with carbon_otel.stage("training"):
    end = time.monotonic() + 1
    for _ in itertools.count():
        if becomes != "forever" and time.monotonic() > end:
            break
        sum(range(1000))
if becomes == "ended":
    mlflow.end_run()
print(time.time(), flush=True)
