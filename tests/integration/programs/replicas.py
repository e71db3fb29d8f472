"""Replicas that serve one model at once: processes that predict for some seconds, and say what they have used."""

import json
import multiprocessing
import sys
import time

import mlflow
import mlflow.pyfunc

import carbon_otel
from carbon_otel.mlflow.standalone import inference

uri, root, state, model_uri, count, seconds = sys.argv[1:]


def replica(answers) -> None:
    inference._WINDOW_S = 2.0
    mlflow.set_tracking_uri(uri)
    model = mlflow.pyfunc.load_model(model_uri)
    carbon_otel.instrument(
        zone="FR", powercap_root=root, interval_s=0.1, checkpoint_interval_s=0.5, state_dir=state
    )
    deadline = time.monotonic() + float(seconds)
    calls = 0
    while time.monotonic() < deadline:
        model.predict([1, 2])
        calls += 1
        time.sleep(0.02)
    # Nothing is predicted any more; what the windows say from now on does not change.
    written = carbon_otel._runtime.active().farewell(120)
    joules = carbon_otel.footprint().stages["inference"][0]
    carbon_otel.uninstrument()
    answers.put((joules, calls, written))


if __name__ == "__main__":
    fork = multiprocessing.get_context("fork")
    answers = fork.Queue()
    replicas = [fork.Process(target=replica, args=(answers,)) for _ in range(int(count))]
    for each in replicas:
        each.start()
    print(json.dumps([answers.get() for _ in replicas]), flush=True)
    for each in replicas:
        each.join()
