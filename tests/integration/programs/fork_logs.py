"""Forks in a run with a checkpoint every 50 ms; each child logs to the parent's run.

Prints the number of children that hung, and of those that failed.
"""

import os
import signal
import sys
import time

import mlflow

import carbon_otel

uri, root, state, experiment, forks = sys.argv[1:]
# A child waits for the store for 20 s, as MLflow has SQLite do.
HUNG_S = 15

mlflow.set_tracking_uri(uri)
carbon_otel.instrument(
    zone="FR", powercap_root=root, state_dir=state, interval_s=0.01, checkpoint_interval_s=0.05
)
hung = failed = 0
with mlflow.start_run(experiment_id=experiment) as run:
    mlflow.log_metric("parent", 1)
    for number in range(int(forks)):
        time.sleep(number % 8 / 100)  # at different moments of a checkpoint
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(HUNG_S)
            mlflow.log_metric("child", number, run_id=run.info.run_id)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        hung += status == -signal.SIGALRM
        failed += status not in (0, -signal.SIGALRM)
print(run.info.run_id)
print(hung, failed)
