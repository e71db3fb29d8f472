"""For each line it gets, a child that measures a run until it is killed; prints the child's process id, then what
it says: its run id, and the joules and the time again and again.

MLflow is imported once: a child is there in an instant.
"""

import os
import signal
import sys
import time

import mlflow.pyfunc
import mlflow.sklearn
import mlflow.store.tracking.sqlalchemy_store

import carbon_otel

uri, root, state, checkpoint_s = sys.argv[1:]


def measure() -> None:
    mlflow.set_tracking_uri(uri)
    carbon_otel.instrument(
        zone="FR",
        powercap_root=root,
        interval_s=0.05,
        checkpoint_interval_s=float(checkpoint_s),
        state_dir=state,
    )
    with mlflow.start_run() as run, carbon_otel.stage("training") as training:
        print(run.info.run_id, flush=True)
        while True:
            print(time.time(), training.footprint.energy_j, flush=True)
            time.sleep(0.01)


for _ in sys.stdin:
    pid = os.fork()
    if pid == 0:
        measure()
    print(pid, flush=True)
    _, status = os.waitpid(pid, 0)
    if os.waitstatus_to_exitcode(status) != -signal.SIGKILL:
        sys.exit("it ended by itself")
    print("gone", flush=True)
