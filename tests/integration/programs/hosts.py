"""Hosts with two ranks each, all of one run. Arguments: the folder of each host.

Each host has a boot id, a host name, a network and a powercap tree of its own, and each rank a cgroup that
reserves half of the host, as batch systems do. A host prints a line with its name and process id. It waits for
the file `connected`, its ranks for `begin`, and then, in the stage of the run, for `end`. Each rank writes its
process id and its joules by kind of stage to `rank-<n>.json`. The hosts are forks, because one import of MLflow
takes seconds; they end with this program.
"""

import ctypes
import itertools
import json
import math
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import mlflow
import opentelemetry.exporter.otlp.proto.http.metric_exporter
import opentelemetry.exporter.otlp.proto.http.trace_exporter  # noqa: F401 - once for all ranks

import carbon_otel
from carbon_otel.meter import timeline

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWNET = 0x00020000, 0x04000000, 0x40000000
PR_SET_PDEATHSIG = 1
RANKS = 2
libc = ctypes.CDLL(None, use_errno=True)

# At the end, the counters stand still for as long as the machine takes to end all ranks.
timeline._STUCK_AFTER_S = math.inf


def host(folder: Path) -> None:
    unshare(CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWNET)
    boot_id = folder / "boot_id"
    boot_id.write_text(f"{uuid.uuid4()}\n")
    bind(boot_id, "/proc/sys/kernel/random/boot_id")
    subprocess.run(["hostname", folder.name], check=True)
    # One text, so that it is one write: the hosts write to one pipe at once.
    print(f"{folder.name} {os.getpid()}\n", end="", flush=True)
    wait_for(folder / "connected")
    for pid in [forked(rank, folder, number) for number in range(RANKS)]:
        assert os.waitpid(pid, 0)[1] == 0


def rank(folder: Path, number: int) -> None:
    unshare(CLONE_NEWNS)
    bind(reserving(folder / f"cgroup-{number}", os.cpu_count() / RANKS), "/sys/fs/cgroup")
    os.environ["CARBON_OTEL_POWERCAP_ROOT"] = str(folder / "class" / "powercap")
    os.environ["CARBON_OTEL_RUNTIME_DIR"] = str(folder / "runtime")
    os.environ["CARBON_OTEL_STATE_DIR"] = str(folder / "state")
    os.environ["CARBON_OTEL_JOURNAL"] = str(folder / f"journal-{number}.json")
    carbon_otel.instrument(zone="FR", interval_s=0.1, checkpoint_interval_s=0.5)
    turns = itertools.count(1)

    def tell_until(name: str) -> None:
        while not (folder / name).exists():
            # One look at the sensors: a second one right after it would extrapolate.
            stages = {kind: spent.energy_j for kind, spent in carbon_otel.footprint().stages.items()}
            state = {"pid": os.getpid(), "turn": next(turns), "stages_j": stages}
            write(folder / f"rank-{number}.json", state)
            time.sleep(0.06)  # longer than the time over which a timeline takes its power

    tell_until("begin")
    with mlflow.start_run(), carbon_otel.stage("training"):
        tell_until("end")
    carbon_otel.uninstrument()


def unshare(namespaces: int) -> None:
    if libc.unshare(namespaces):
        raise OSError(ctypes.get_errno(), "unshare")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)


def bind(source: Path, target: str) -> None:
    subprocess.run(["mount", "--bind", source, target], check=True)


def reserving(cgroup: Path, threads: float) -> Path:
    """A tree of cgroups, of version 1 and 2, with this quota for every process."""
    for folder in (cgroup, cgroup / "cpu"):
        folder.mkdir()
        (folder / "cpu.max").write_text(f"{round(threads * 100_000)} 100000\n")
    return cgroup


def write(path: Path, content: object) -> None:
    new = path.with_suffix(".new")
    new.write_text(json.dumps(content))
    new.replace(path)


def wait_for(path: Path) -> None:
    while not path.exists():
        time.sleep(0.02)


def forked(function, *arguments) -> int:
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            function(*arguments)
            status = 0
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            sys.stderr.flush()
            os._exit(status)
    return pid


hosts = [forked(host, Path(folder)) for folder in sys.argv[1:]]
statuses = [os.waitpid(pid, 0)[1] for pid in hosts]
print(json.dumps(statuses), flush=True)
