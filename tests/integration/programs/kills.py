"""For each line of input, a child that measures a run until it is killed.

Prints the process id of the child and its output: its run id, then repeatedly its joules and the time. MLflow is
imported only once, so that a child starts at once.
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
