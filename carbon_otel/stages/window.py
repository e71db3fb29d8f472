"""What the process uses between two moments, whichever of its stages pay for it."""

from __future__ import annotations

from operator import sub
from typing import TYPE_CHECKING

from carbon_otel.footprint import Footprint
from carbon_otel.records import UNATTRIBUTED, Cost
from carbon_otel.sinks import Figures
from carbon_otel.stages.accounts import Totals
from carbon_otel.stages.open_stage import record_at
from carbon_otel.stages.preparing import prepare

if TYPE_CHECKING:
    from carbon_otel.stages.engine import Engine


class Window:
    """Begins when it is made. It is no stage: it has no span, pays nothing, and windows may overlap in any way."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._whole = prepare(engine, None, UNATTRIBUTED, UNATTRIBUTED, {})
        self._end: Figures | None = None
        self._before = engine.at_moment(self._begin)

    @property
    def footprint(self) -> Footprint:
        """So far, or of the whole window after `close()`."""
        return (self._end or self._engine.at_moment(self._figures)).footprint

    def close(self) -> None:
        if self._end is None:
            self._end = self._engine.at_moment(self._figures)

    def _begin(self, now_ns: int) -> Totals:
        self._whole.opened_ns = now_ns
        self._whole.begin = self._engine.meter.edge(now_ns)
        return self._engine.books.totals(self._engine.root.account)

    def _figures(self, now_ns: int) -> Figures:
        engine = self._engine
        used = _difference(engine.books.totals(engine.root.account), self._before)
        record = record_at(self._whole, engine.sensors, engine.meter.edge(now_ns), used)
        return Figures(record, engine.to_footprint)


def _difference(after: Totals, before: Totals) -> Totals:
    nothing = Cost(0.0, 0.0)
    return Totals(
        tuple(map(sub, after.exclusive_j, before.exclusive_j)),
        after.exclusive_g - before.exclusive_g,
        tuple(map(sub, after.inclusive_j, before.inclusive_j)),
        after.inclusive_g - before.inclusive_g,
        {
            kind: Cost(*map(sub, cost, before.by_kind.get(kind, nothing)))
            for kind, cost in after.by_kind.items()
        },
    )
