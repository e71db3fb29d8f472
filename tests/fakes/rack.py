"""Hosts on one switch, simulated by Linux's namespaces: for each a network, mounts and a host name.

Nothing remains of it: the kernel removes a namespace, and the cables into it, with its last process.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType

_CAP_SYS_ADMIN = 1 << 21


def missing() -> str:
    """What this machine lacks for a rack; empty if nothing."""
    programs = [name for name in ("ip", "nsenter", "unshare") if not shutil.which(name)]
    if programs:
        return f"the programs {', '.join(programs)} (Debian: iproute2, util-linux)"
    status = Path("/proc/self/status").read_text()
    (effective,) = [line.split()[1] for line in status.splitlines() if line.startswith("CapEff:")]
    return "" if int(effective, 16) & _CAP_SYS_ADMIN else "CAP_SYS_ADMIN, for namespaces"


class Rack:
    """A switch, in a namespace of its own. This machine is connected to it, and has `address`."""

    def __init__(self) -> None:
        self._network = f"10.213.{os.getpid() & 255}"
        self._name = f"rack{os.getpid()}"
        self.address = f"{self._network}.1"

    def __enter__(self) -> Rack:
        self._switch = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
        own = Path("/proc/self/ns/net").readlink()
        while Path(f"/proc/{self._switch.pid}/ns/net").readlink() == own:
            assert self._switch.poll() is None
            time.sleep(0.01)
        self._in(self._switch.pid, "ip link add br0 type bridge")
        self._in(self._switch.pid, "ip link set br0 up")
        self._cable("uplink", os.getpid(), self._name)
        self._in(os.getpid(), f"ip address add {self.address}/24 dev {self._name}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._switch.kill()
        self._switch.wait()

    def attach(self, pid: int, number: int) -> None:
        """Connect the host whose network namespace this process has."""
        self._cable(f"port{number}", pid, "eth0")
        self._in(pid, f"ip address add {self._network}.{number + 2}/24 dev eth0")

    def _cable(self, port: str, pid: int, name: str) -> None:
        switch = self._switch.pid
        self._in(switch, f"ip link add {port} type veth peer name {name} netns {pid}")
        self._in(switch, f"ip link set {port} master br0 up")
        self._in(pid, f"ip link set {name} up")

    def _in(self, pid: int, command: str) -> None:
        subprocess.run(["nsenter", f"--net=/proc/{pid}/ns/net", *command.split()], check=True)
