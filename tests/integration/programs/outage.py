"""A run with a stage that lasts until the line `end`; prints its run id, then at each line its joules so far."""

import sys

import mlflow

import carbon_otel

uri, root, state = sys.argv[1:]
mlflow.set_tracking_uri(uri)
carbon_otel.instrument(
    zone="FR",
    powercap_root=root,
    interval_s=0.1,
    checkpoint_interval_s=0.5,
    state_dir=state,
    efficiency_metric="accuracy",
)
run = mlflow.start_run()
mlflow.log_metric("accuracy", 0.75)
print(run.info.run_id, flush=True)
with carbon_otel.stage("training") as training:
    for line in sys.stdin:
        if line == "end\n":
            break
        print(training.footprint.energy_j, flush=True)
print(training.footprint.energy_j, flush=True)
sys.stdin.readline()
mlflow.end_run()
