"""Powercap counters that move for as long as a `with` block lasts."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from tests.fakes.powercap import Tree, Zone


@contextlib.contextmanager
def trickle(zone: Zone) -> Iterator[None]:
    """A microjoule now and then: a counter that stands still while a slow machine works counts as stuck."""
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
    """The first `zones` packages of `tree` draw `watts` each.

    Their counters are written every 10 ms or when the machine gets to it, always with what is due by then.
    """

    def __init__(self, tree: Tree, zones: int, watts: float) -> None:
        self._zones = tree.package[:zones]
        self._watts = watts
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._draw)
        self.root: Path = tree.root

    @property
    def joules(self) -> float:
        """What the counters say, in all."""
        return sum(int(zone.file.read_text()) for zone in self._zones) / 1e6

    def __enter__(self) -> Drawing:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end.set()
        self._thread.join()

    def _draw(self) -> None:
        begun = time.monotonic()
        first = [zone.joules for zone in self._zones]
        while not self._end.wait(0.01):
            for zone, joules in zip(self._zones, first, strict=True):
                zone.set(joules + self._watts * (time.monotonic() - begun))
