"""A powercap tree whose packages draw a constant power, for as long as a `with` block lasts."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from tests.fakes.powercap import Tree


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
