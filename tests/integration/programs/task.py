"""A task of a batch system that trains until there is a file `end`.

Arguments: the powercap root; a folder; `deaf` for one that goes on when it gets SIGTERM. It writes its joules, and
the counter before it began, to a file of its job and rank.
"""

import json
import os
import signal
import sys
from pathlib import Path

import mlflow

import carbon_otel

root, folder = map(Path, sys.argv[1:3])
name = f"{os.environ['SLURM_JOB_NAME']}-{os.environ['SLURM_JOB_ID']}-{os.environ.get('SLURM_PROCID', 0)}"
if sys.argv[3:] == ["deaf"]:
    signal.signal(signal.SIGTERM, lambda number, frame: (folder / "asked").touch())
os.environ["CARBON_OTEL_JOURNAL"] = str(folder / f"{name}.journal")
before_j = int((root / "intel-rapl:0" / "energy_uj").read_text()) / 1e6
carbon_otel.instrument(zone="FR", powercap_root=root, interval_s=0.1, checkpoint_interval_s=0.5)
with mlflow.start_run() as run, carbon_otel.stage("training") as training:
    while not (folder / "end").exists():
        sum(range(200_000))
        state = {"run_id": run.info.run_id, "before_j": before_j, "joules": training.footprint.energy_j}
        new = folder / f"{name}.new"
        new.write_text(json.dumps(state))
        new.replace(folder / f"{name}.json")
carbon_otel.uninstrument()
