"""One step of a model's life: a run that waits for a line, and logs the model if there is one."""

import sys

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
        if sys.stdin.readline() == "fail\n":
            raise RuntimeError("diverged")
        stage.units(samples=1000)
    if model:
        mlflow.pyfunc.log_model(name="model", python_model=model, registered_model_name="clicks-model")
