"""A Slurm of one node for tests: Debian's package `slurm-wlm`, with all of its files in a temporary folder."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.integration.processes import free_port, wait_for

_CONFIG = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
MpiDefault=none
KillWait=2
ReturnToService=2
NodeName=node0 NodeAddr=127.0.0.1 NodeHostname={host} CPUs=16 State=UNKNOWN
PartitionName=all Nodes=node0 Default=YES State=UP
"""


def missing() -> str:
    """What this machine lacks; empty if nothing."""
    if not all(map(shutil.which, ("munged", "slurmctld", "slurmd", "sbatch"))):
        return "Debian's package slurm-wlm"
    return "" if os.geteuid() == 0 else "root, whom slurmd has to be run by"


class Slurm:
    """The commands of a cluster."""

    def __init__(self, config: Path) -> None:
        self._environment = {**os.environ, "SLURM_CONF": str(config)}

    def submit(self, script: str, variables: Mapping[str, str], *options: str) -> str:
        """The id of a new job, which runs this shell script."""
        command = ["sbatch", "--parsable", "--output=/dev/null", *options, f"--wrap={script}"]
        return self._run(command, variables).strip()

    def run(self, *command: str) -> str:
        """The output of a command of Slurm."""
        return self._run(command, {})

    def state(self, job: str) -> str:
        """The state of a job, such as `RUNNING`."""
        fields = self.run("scontrol", "show", "job", job).split()
        return next(field.partition("=")[2] for field in fields if field.startswith("JobState="))

    def is_idle(self) -> bool:
        return not self.run("squeue", "--noheader").strip()

    def _run(self, command: tuple[str, ...] | list[str], variables: Mapping[str, str]) -> str:
        environment = {**self._environment, **variables}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout


@contextlib.contextmanager
def running() -> Iterator[Slurm]:
    """A cluster whose only node is this machine. It ends its jobs with the block."""
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))  # the path of a socket must be short
    folder.chmod(0o755)  # munged asks for it
    for name in ("munge", "state", "spool"):
        (folder / name).mkdir(mode=0o755)
    key = folder / "munge" / "key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    config = folder / "slurm.conf"
    ports = {"controller_port": free_port(), "node_port": free_port()}
    config.write_text(_CONFIG.format(folder=folder, host=socket.gethostname().partition(".")[0], **ports))
    munge = [f"--{name}-file={folder / 'munge' / name}" for name in ("key", "pid", "log", "seed")]
    commands = (
        ["munged", "--foreground", "--force", f"--socket={folder / 'munge' / 'socket'}", *munge],
        ["slurmctld", "-D", "-c", "-f", str(config)],
        ["slurmd", "-D", "-N", "node0", "-f", str(config)],
    )
    daemons: list[subprocess.Popen[bytes]] = []
    slurm = Slurm(config)
    try:
        for command in commands:
            with (folder / f"{command[0]}.out").open("wb") as out:
                daemons.append(subprocess.Popen(command, stdout=out, stderr=out))
            wait_for(lambda: command[0] != "munged" or (folder / "munge" / "socket").exists())  # noqa: B023
        wait_for(lambda: "idle" in _answer(slurm))
        yield slurm
    finally:
        if len(daemons) == len(commands):
            with contextlib.suppress(AssertionError):
                slurm.run("scancel", "--user=root", "--signal=KILL", "--full")
                slurm.run("scancel", "--user=root")
                wait_for(slurm.is_idle)
        for daemon in reversed(daemons):
            daemon.kill()
            daemon.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _answer(slurm: Slurm) -> str:
    try:
        return slurm.run("sinfo", "--noheader")
    except AssertionError:  # the controller does not answer yet
        return ""
