"""Replicas that serve one model at the same time. Prints the joules and the predictions of each as JSON.

Arguments: the tracking URI, the powercap root, the state folder, the model, the number of replicas, the seconds.
"""

import json
import multiprocessing
import os
import sys
import time
from pathlib import Path

import mlflow
import mlflow.pyfunc

import carbon_otel
from carbon_otel.mlflow.standalone import inference

uri, root, state, model_uri, count, seconds = sys.argv[1:]


def replica(number: int, answers) -> None:
    inference._WINDOW_S = 2.0
    journal = Path(f"{state}-journal-{number}.json")
    os.environ["CARBON_OTEL_JOURNAL"] = str(journal)
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
    carbon_otel.uninstrument()
    stages = json.loads(journal.read_text())["footprint"]["stages"]
    answers.put((stages["inference"]["energy_j"], calls))


if __name__ == "__main__":
    fork = multiprocessing.get_context("fork")
    answers = fork.Queue()
    replicas = [fork.Process(target=replica, args=(number, answers)) for number in range(int(count))]
    for each in replicas:
        each.start()
    print(json.dumps([answers.get() for _ in replicas]), flush=True)
    for each in replicas:
        each.join()
