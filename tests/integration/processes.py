"""Programs run as processes, ports for them, and waiting for a condition."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

PROGRAMS = Path(__file__).with_name("programs")
T = TypeVar("T")

# Below the range of ports for clients. Each process starts at a different port.
_FIRST_PORT, _LAST_PORT = 15_000, 31_000
_next_port = random.Random(os.getpid()).randrange(_FIRST_PORT, _LAST_PORT)


def free_port() -> int:
    """A free port, which this process returns only once."""
    global _next_port
    while True:
        _next_port = _next_port + 1 if _next_port < _LAST_PORT else _FIRST_PORT
        with socket.socket() as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                s.bind(("127.0.0.1", _next_port))
            except OSError:
                continue
            return _next_port


def wait_for(condition: Callable[[], T], timeout_s: float = 120, poll_s: float = 0.05) -> T:
    """Wait until `condition` returns a true value, and return it. Fails after `timeout_s`, far beyond any need."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not true within {timeout_s} s"
        time.sleep(poll_s)
    return value


class Program:
    """A program of the folder `programs`, run as a process."""

    def __init__(self, name: str, *arguments: str, **variables: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(PROGRAMS / name), *arguments],
            env={**os.environ, **variables},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.pid = self.process.pid
        self.out = self.err = ""

    def line(self) -> str:
        """The next line of its output; empty if it ends first."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def say(self, line: str) -> None:
        """Send a line to its standard input."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def go(self) -> None:
        """Let it continue after its `input()`."""
        self.say("go")

    def finish(self, timeout: float = 120) -> str:
        """The output since the last `line()`. Fails if it does not end with status 0."""
        self.out, self.err = self.process.communicate(timeout=timeout)
        assert self.process.returncode == 0, self.out + self.err
        return self.out

    def kill(self) -> None:
        """SIGKILL, and wait for its end."""
        self.process.kill()
        self.out, self.err = self.process.communicate()

    def exit_s(self) -> float:
        """Seconds from the last printed time, the end of its work, to the end of the process."""
        worked_until = float(self.finish().split()[-1])
        return time.time() - worked_until
