"""Runs that hand work to processes. Prints as JSON the runs, the counters around them, and the books of all.

Arguments: the tracking URI, the powercap root, the state folder, and for each run the way to start the processes,
what they do (`computes` or `measures`), and how the pool ends (`closes`, or else it is terminated; `killed` kills
a process at work), such as `pool-fork-measures-closes`.
"""

import concurrent.futures
import contextlib
import json
import multiprocessing
import os
import sys
import time
from multiprocessing import util
from pathlib import Path

import carbon_otel
from carbon_otel import runtime
from carbon_otel.mlflow.schema import contributions

uri, root, state, *runs = sys.argv[1:]
TASK_S = 0.4


def joules() -> float:
    return int((Path(root) / "intel-rapl:0" / "energy_uj").read_text()) / 1e6


before = joules()
carbon_otel.instrument(
    zone="FR", powercap_root=root, interval_s=0.05, checkpoint_interval_s=0.2, state_dir=state
)
instrumented = joules()


def write_books() -> None:
    if runtime.begun() is not None:
        own = carbon_otel.footprint()
        books = {
            "all": own.energy_j,
            "unattributed": own.stages["unattributed"].energy_j,
            "mlflow": "mlflow" in sys.modules,
        }
        # In one step: a pool that is terminated may end this process meanwhile.
        written = Path(state) / f"{os.getpid()}.new"
        written.write_text(json.dumps(books))
        written.rename(Path(state) / f"books-{os.getpid()}.json")


def at_the_end() -> None:
    """Before carbon_otel ends its measurement, which has the priority 0."""
    util.Finalize(None, write_books, exitpriority=10)


def compute() -> None:
    until = time.monotonic() + TASK_S
    while time.monotonic() < until:
        sum(range(1000))


def only_compute(number: int) -> float:
    compute()
    return 0.0


def measure(number: int) -> float:
    """The joules of its stage."""
    with carbon_otel.stage("training", f"fit {number}") as stage:
        compute()
    return stage.footprint.energy_j


def process(task, number: int, answers) -> None:
    at_the_end()
    answers.put(task(number))


def sleep_in_a_stage() -> None:
    with carbon_otel.stage("training"):
        time.sleep(600)


def has_written(run_id: str) -> bool:
    """Whether another process has left joules of training for the run: its first states may have none."""
    for file in Path(state).glob("mlflow/joined-*.spool"):
        with contextlib.suppress(FileNotFoundError):
            batches = [json.loads(line)["batch"] for line in file.read_text().splitlines()]
            for batch in batches:
                if batch["run_id"] == run_id and batch["values"].get("carbon/training/energy_wh", 0.0) > 0:
                    return True
    return False


def run_tasks(run_id: str, kind: str, method: str, task, end: str) -> list[float]:
    if end == "killed":
        victim = multiprocessing.get_context(method).Process(target=sleep_in_a_stage)
        victim.start()
        while not has_written(run_id):
            time.sleep(0.01)
        victim.kill()
        victim.join()
        return []
    if kind == "pool":
        with multiprocessing.get_context(method).Pool(2, at_the_end) as pool:
            done = pool.map(task, range(4), 1)
            if end == "closes":
                pool.close()
                pool.join()
        return done
    if kind == "executor":
        context = multiprocessing.get_context(method)
        with concurrent.futures.ProcessPoolExecutor(2, context, at_the_end) as executor:
            return list(executor.map(task, range(4)))
    if kind == "process":
        context = multiprocessing.get_context(method)
        answers = context.SimpleQueue()
        processes = [context.Process(target=process, args=(task, number, answers)) for number in range(2)]
        for each in processes:
            each.start()
        for each in processes:
            each.join()
        return [answers.get() for _ in processes]
    import joblib

    with joblib.Parallel(2, method, pre_dispatch="all", batch_size=1) as parallel:
        return parallel(joblib.delayed(task)(number) for number in range(4))


if __name__ == "__main__":
    import mlflow

    mlflow.set_tracking_uri(uri)
    done = []
    for each in runs:
        kind, method, work, end = each.split("-")
        with mlflow.start_run() as run:
            task = measure if work == "measures" else only_compute
            stages = run_tasks(run.info.run_id, kind, method, task, end)
        done.append((each, run.info.run_id, sum(stages)))
    measured_until = joules()
    write_books()
    carbon_otel.uninstrument()
    after = joules()
    written = {}
    for each, run_id, stages_j in done:
        data = mlflow.MlflowClient().get_run(run_id).data
        written[each] = {
            "run": data.metrics["carbon/energy_wh"] * 3600,
            "training": data.metrics.get("carbon/training/energy_wh", 0) * 3600,
            "stages": stages_j,
            "status": data.tags["carbon.status"],
            "parts": len(contributions.read(data.tags)),
        }
    books = [json.loads(file.read_text()) for file in Path(state).glob("books-*.json")]
    total = {name: sum(book[name] for book in books) for name in ("all", "unattributed", "mlflow")}
    total["processes"] = len(books)
    device = [measured_until - instrumented, after - before]
    print(json.dumps({"runs": written, "books": total, "device": device}))
