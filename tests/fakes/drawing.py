"""Powercap counters that increase during a `with` block."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.fakes.powercap import Tree, Zone

# A package may draw this in less time than there is between two readings of its counter.
_MOST_J: Final = 5.0


@contextlib.contextmanager
def trickle(zone: Zone) -> Iterator[None]:
    """Add a microjoule from time to time: a counter that stands still on a slow machine would count as stuck."""
    end = threading.Event()

    def idle() -> None:
        while not end.wait(0.05):
            zone.add(1e-6)

    thread = threading.Thread(target=idle)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


class Drawing:
    """The first `zones` packages of `tree` draw `watts` each, which may change.

    Their counters are written every 10 ms. On a busy machine they are written late, and draw less: a counter of
    the hardware is never so late that it rises by more than a processor can have drawn since it was last read.
    """

    def __init__(self, tree: Tree, zones: int, watts: float) -> None:
        self._zones = tree.package[:zones]
        self.watts = watts
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._draw)
        self.root: Path = tree.root

    @property
    def joules(self) -> float:
        """The sum of the counters."""
        return sum(int(zone.file.read_text()) for zone in self._zones) / 1e6

    def __enter__(self) -> Drawing:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end.set()
        self._thread.join()

    def _draw(self) -> None:
        before = time.monotonic()
        joules = [zone.joules for zone in self._zones]
        while not self._end.wait(0.01):
            now = time.monotonic()
            drawn, before = min(self.watts * (now - before), _MOST_J), now
            for at, zone in enumerate(self._zones):
                joules[at] += drawn
                zone.set(joules[at])
