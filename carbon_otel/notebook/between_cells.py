"""The energy between the cells of a notebook, while it waits for its user.

A stage for that time would take energy from work that goes on in other threads. So this is a difference of what no
stage has paid for: the energy outside of all stages, and that of runs outside of their stages.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final, NamedTuple

from carbon_otel import runtime
from carbon_otel.carbon.life_cycle import Embodied
from carbon_otel.footprint import NOT_MEASURED, Cost, Footprint
from carbon_otel.footprint.shown import BETWEEN_CELLS
from carbon_otel.guard import contain
from carbon_otel.records import RUN, UNATTRIBUTED
from carbon_otel.runtime import Measurement

_KINDS: Final = (UNATTRIBUTED, RUN)


class _Paid(NamedTuple):
    """Joules, and grams of making the hardware, that a kind has paid for."""

    joules: float = 0.0
    embodied_g: float = 0.0

    def plus(self, other: _Paid, since: _Paid) -> _Paid:
        """The sum with the difference of two moments."""
        joules, grams = other.joules - since.joules, other.embodied_g - since.embodied_g
        return _Paid(self.joules + max(0.0, joules), self.embodied_g + max(0.0, grams))


class _Moment(NamedTuple):
    measurement: Measurement
    paid: dict[str, _Paid]


class BetweenCells:
    """What the present measurement has paid for between cells, by kind."""

    def __init__(self) -> None:
        self._since: _Moment | None = None
        self._of: Measurement | None = None
        self._paid = dict.fromkeys(_KINDS, _Paid())

    def begin(self) -> None:
        """No cell runs from now on."""
        self._since = contain("measuring between cells", None, _now)

    def end(self) -> None:
        """A cell begins to run."""
        since, self._since = self._since, None
        now = None if since is None else contain("measuring between cells", None, _now)
        if since is None or now is None or now.measurement is not since.measurement:
            return
        if self._of is not now.measurement:
            self._of, self._paid = now.measurement, dict.fromkeys(_KINDS, _Paid())
        for kind in _KINDS:
            self._paid[kind] = self._paid[kind].plus(now.paid[kind], since.paid[kind])

    def footprint(self) -> Footprint:
        """The footprint of the process, in which the time between cells is a kind of its own.

        Its emissions are by the mean intensity of what it is a part of.
        """
        measurement = runtime.begun()
        if measurement is None:
            return NOT_MEASURED
        whole = contain("computing a footprint", NOT_MEASURED, measurement.footprint)
        if self._of is not measurement:
            return whole
        stages, joules, grams = dict(whole.stages), 0.0, 0.0
        for kind in stages.keys() & _KINDS:
            cost = stages[kind]
            part = min(1.0, self._paid[kind].joules / cost.energy_j) if cost.energy_j > 0 else 0.0
            joules += part * cost.energy_j
            grams += part * cost.emissions_g
            stages[kind] = Cost((1 - part) * cost.energy_j, (1 - part) * cost.emissions_g)
        stages[BETWEEN_CELLS] = Cost(joules, grams)
        return replace(whole, stages=stages, embodied=self._embodied(whole.embodied))

    def _embodied(self, whole: Embodied | None) -> Embodied | None:
        if whole is None:
            return None
        by_kind, grams = dict(whole.by_kind), 0.0
        for kind in by_kind.keys() & _KINDS:
            part = min(by_kind[kind], self._paid[kind].embodied_g)
            by_kind[kind] -= part
            grams += part
        return whole._replace(by_kind={**by_kind, BETWEEN_CELLS: grams})


def _now() -> _Moment | None:
    measurement = runtime.begun()
    if measurement is None:
        return None
    whole = measurement.footprint()
    made = {} if whole.embodied is None else whole.embodied.by_kind
    return _Moment(
        measurement,
        {
            kind: _Paid(whole.stages[kind].energy_j if kind in whole.stages else 0.0, made.get(kind, 0.0))
            for kind in _KINDS
        },
    )
