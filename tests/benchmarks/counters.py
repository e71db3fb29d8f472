"""Powercap counters that move, as those of real processors do, written by a process of their own.

Zones that stand still would be taken for broken ones, and their edges would cost more.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.fakes.powercap import server

_WATTS = 50.0
_STEP_S = 0.01


@contextlib.contextmanager
def moving(folder: Path) -> Iterator[Path]:
    """The root of two sockets with a memory zone each, which draw power until the block ends."""
    with subprocess.Popen([sys.executable, "-m", __name__, folder], stdout=subprocess.PIPE) as writer:
        try:
            yield Path(writer.stdout.readline().decode().strip())
        finally:
            writer.terminate()


def _write(folder: Path) -> None:
    tree = server(folder)
    print(tree.root, flush=True)
    while True:
        time.sleep(_STEP_S)
        for zone in tree.zones.values():
            zone.add(_WATTS * _STEP_S)


if __name__ == "__main__":
    _write(Path(sys.argv[1]))
