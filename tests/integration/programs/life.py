"""One step of a model's life: a run that waits for a line, and logs the model if there is one.

The line says how the stage ends, and how many joules its package has drawn. On a busy machine, the last reading
may be older than these; the stage ends when it has paid them.
"""

import sys
import time

import mlflow
import pandas

import carbon_otel

uri, root, experiment, name, kind, model = sys.argv[1:]
mlflow.set_tracking_uri(uri)
carbon_otel.instrument(zone="FR", powercap_root=root, interval_s=0.05, checkpoint_interval_s=0.2, pue=1.2)
dataset = mlflow.data.from_pandas(pandas.DataFrame({"x": range(10)}), name="clicks")
with mlflow.start_run(run_name=name, experiment_id=experiment) as run:
    mlflow.log_input(dataset)
    with carbon_otel.stage(kind) as stage:
        print(run.info.run_id, flush=True)
        end, joules = sys.stdin.readline().split()
        while carbon_otel.footprint().stages[kind].energy_j < float(joules) - 0.5:
            time.sleep(0.01)
        if end == "fail":
            raise RuntimeError("diverged")
        stage.units(samples=1000)
    if model:
        mlflow.pyfunc.log_model(name="model", python_model=model, registered_model_name="clicks-model")
