"""Shows the process to viewers while one of them asks: its devices now, its figures so far, its open stages.

`carbon-otel top` and `carbon-otel run --live` are the viewers; `host/showing.py` has the files.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final, NamedTuple

from carbon_otel.background import Worker
from carbon_otel.host.showing import Shown
from carbon_otel.records import Foresight, StageInfo
from carbon_otel.sinks import Checkpoint, Figures, Pending, Sink, StageEnd, Tick
from carbon_otel.text import command_line

# The stages that have ended last, for the costs of their units.
_ENDED: Final = 16


class _Ended(NamedTuple):
    """A stage that has ended. Not its `StageEnd`, whose exception would keep the locals of its block."""

    info: StageInfo
    figures: Figures
    duration_s: float
    failed: bool


class Live(Sink):
    """Writes a JSON object at each tick, while a viewer asks.

    `status` is `running` or `final`, `written_unix_s` the time, `command` the command line without secrets.
    `footprint` is that of the process. `devices` have `watts` now, the `share` of the process in them, and its
    `energy_j` so far. `stages` are those that are open, in the order of their opening, and some that have ended.
    """

    def __init__(self, shown: Callable[[], Shown | None], delivery: Worker) -> None:
        self._shown = shown
        self._delivery = delivery
        self._command = ""
        # Kept, because the process leaves the meeting place before its last state is written.
        self._asked_at: Shown | None = None
        self._last: Tick | None = None
        self._foreseen: dict[int, Foresight] = {}
        self._ended: deque[_Ended] = deque(maxlen=_ENDED)

    def is_asked(self) -> bool:
        """Whether a viewer asks now. What the process has shown is removed once none does."""
        shown = self._shown()
        if shown is not None and shown.is_asked():
            self._asked_at = shown
            return True
        if self._asked_at is not None and shown is not None:
            self._delivery.submit_latest(self, self._asked_at.remove)
            self._asked_at = self._last = None
        return False

    def foreseen(self, stage: StageInfo, foresight: Foresight) -> None:
        self._foreseen[stage.id] = foresight

    def stage_closed(self, stage: StageInfo, end: StageEnd) -> None:
        self._ended.append(_Ended(stage, end.figures, end.duration_s, end.error is not None))
        if self._foreseen:
            self._foreseen.pop(stage.id, None)

    def tick(self, tick: Tick) -> None:
        if tick.view is not None:
            self._last = tick
            self._delivery.submit_latest(self, partial(self._write, tick, tick.view, "running"))

    def close(self, timeout_s: float) -> Pending:
        tick = self._last
        if tick is None or tick.view is None:
            return self._delivery.submit(lambda: None).wait
        return self._delivery.submit(partial(self._write, tick, tick.view, "final")).wait

    def _write(self, tick: Tick, view: Checkpoint, status: str) -> None:
        shown = self._asked_at
        if shown is None:
            return
        # Not earlier: where the measurement begins by itself, the interpreter has no program yet.
        self._command = self._command or command_line(sys.orig_argv)
        footprint = view.process.footprint
        devices = zip(tick.devices.devices, tick.shares, strict=True)
        ended = [stage for stage in self._ended if stage.info not in view.open]
        shown.write(
            {
                "status": status,
                "written_unix_s": view.wall_ns / 1e9,
                "command": self._command,
                "footprint": footprint.as_dict(),
                "devices": [
                    {
                        "id": device.id,
                        "name": device.name,
                        "type": device.type,
                        "watts": watts,
                        "share": share,
                        "energy_j": footprint.devices_inclusive.get(device.id, 0.0),
                    }
                    for (device, _, watts), share in devices
                ],
                "stages": [*self._opened(view), *map(_ended, ended)],
            }
        )

    def _opened(self, view: Checkpoint) -> Iterator[dict[str, Any]]:
        for info, figures in view.open.items():
            foresight = self._foreseen.get(info.id)
            yield _row(info, figures, figures.record.duration_s) | {
                "open": True,
                "forecast": None if foresight is None else foresight._asdict(),
            }


def _ended(stage: _Ended) -> dict[str, Any]:
    return _row(stage.info, stage.figures, stage.duration_s) | {"open": False, "failed": stage.failed}


def _row(info: StageInfo, figures: Figures, duration_s: float) -> dict[str, Any]:
    cost = figures.footprint
    known = cost.method != "missing"
    return {
        "id": info.id,
        "parent": None if info.parent is None else info.parent.id,
        "kind": info.kind,
        "name": info.name,
        "duration_s": duration_s,
        "energy_j": cost.energy_j if known else None,
        "low_j": cost.low_j if known else None,
        "high_j": cost.high_j if known else None,
        "emissions_g": cost.emissions_g if known else None,
        "units": dict(cost.units),
    }
