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
        books = self._engine.books
        self._whole.opened_ns = now_ns
        self._whole.begin = self._engine.meter.edge(now_ns)
        self._worth = books.worth
        return books.totals(self._engine.root.account)

    def _figures(self, now_ns: int) -> Figures:
        engine = self._engine
        after = engine.books.totals(engine.root.account)
        # A place that was named meanwhile has given other grams to what was used before, too.
        used = _difference(after, self._before, engine.books.worth / self._worth)
        record = record_at(self._whole, engine.sensors, engine.meter.edge(now_ns), used)
        return Figures(record, engine.to_footprint)


def _difference(after: Totals, before: Totals, worth: float) -> Totals:
    """What was paid between two moments; a gram of the earlier one counts as `worth` grams."""
    kinds = dict.fromkeys(after.by_kind, Cost(0.0, 0.0)) | dict(before.by_kind)
    return Totals(
        tuple(map(sub, after.exclusive_j, before.exclusive_j)),
        after.exclusive_g - before.exclusive_g * worth,
        tuple(map(sub, after.inclusive_j, before.inclusive_j)),
        after.inclusive_g - before.inclusive_g * worth,
        {
            kind: Cost(
                cost.energy_j - kinds[kind].energy_j, cost.emissions_g - kinds[kind].emissions_g * worth
            )
            for kind, cost in after.by_kind.items()
        },
        after.exclusive_embodied_g - before.exclusive_embodied_g,
        after.inclusive_embodied_g - before.inclusive_embodied_g,
        {
            kind: grams - before.embodied_by_kind.get(kind, 0.0)
            for kind, grams in after.embodied_by_kind.items()
        },
    )
