"""Scores a batch with a registered model, outside of runs and stages."""

import sys

import mlflow

import carbon_otel

uri, root = sys.argv[1:]
mlflow.set_tracking_uri(uri)
carbon_otel.instrument(zone="FR", powercap_root=root, interval_s=0.05, checkpoint_interval_s=0.2, pue=1.2)
model = mlflow.pyfunc.load_model("models:/clicks-model@champion")
print("ready", flush=True)
for _ in sys.stdin:
    model.predict([1] * 100)
