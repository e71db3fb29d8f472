"""A loop that says, after 5 % of its steps, what all of them will use, and when they are done."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Generic, TypeVar, cast

from carbon_otel import clock, runtime
from carbon_otel.forecast.outlook import Pace
from carbon_otel.forecast.records import Interval
from carbon_otel.guard import contain, logger
from carbon_otel.quantities import emissions, energy
from carbon_otel.records import Foresight, StageInfo
from carbon_otel.stages.api import Recorder
from carbon_otel.stages.open_stage import OpenStage, current
from carbon_otel.units import J_PER_KWH, KILO

_T = TypeVar("_T")

# Shares of the steps after which the forecast is made and told. The first two only read the meter.
_SILENT: Final = (0.01, 0.025)
_TOLD: Final = (0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
# With a budget, the energy is read this often after the first forecast.
_LOOK_S: Final = 10.0
# Meters are read each second. In a shorter time, the power is that of what ran before the loop.
_LEAST_S: Final = 2.0
_APART_S: Final = 1.0
# How far the power of what is left may be from what it was. Our choice.
_POWER: Final = 0.05


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a loop will have used at its end, by the pace and the power of its steps.

    Attributes:
        done: share of the steps that are done, 0 to 1.
        energy_kwh: of the whole loop, as the machine's meters read it.
        emissions_kg: of the whole loop.
        left_s: seconds that are left.
        ends_at: seconds since the epoch, by the median.
    """

    done: float
    energy_kwh: Interval
    emissions_kg: Interval
    left_s: Interval
    ends_at: float

    def __repr__(self) -> str:
        return f"Outlook({self.text})"

    @property
    def text(self) -> str:
        """Such as `4.1 kWh in all, 88 % left, done at 17:20`."""
        joules = self.energy_kwh.p50 * J_PER_KWH
        at = time.localtime(self.ends_at)
        day = "" if at.tm_yday == time.localtime().tm_yday else f"{time.strftime('%Y-%m-%d', at)} "
        return f"{energy(joules)} in all, {1 - self.done:.0%} left, done at {day}{time.strftime('%H:%M', at)}"


class Progress(Generic[_T]):
    """A loop that `carbon_otel.progress` forecasts; iterate over it, or call `update` in a `with` block."""

    def __init__(
        self,
        iterable: Iterable[_T] | None = None,
        total: float | None = None,
        *,
        budget_kwh: float | None = None,
        budget_kg: float | None = None,
        on_budget: Callable[[Outlook], object] | None = None,
    ) -> None:
        if total is None and hasattr(iterable, "__len__"):
            total = len(cast("Sized", iterable))
        if total is None:
            raise ValueError("the number of steps is not known: write carbon_otel.progress(..., total=1000)")
        for name, budget in (("budget_kwh", budget_kwh), ("budget_kg", budget_kg)):
            if budget is not None and not budget > 0:
                raise ValueError(f"{name} is {budget}; write an amount above 0")
        self._iterable = iterable
        # An empty loop is over at once.
        self._pace = Pace(1.0 if iterable is not None and total == 0 else total, clock.monotonic())
        self._budgets = budget_kwh, budget_kg
        self._on_budget = on_budget
        self._restart()

    def __repr__(self) -> str:
        told = "" if self.outlook is None else f", {self.outlook.text}"
        return f"Progress({self._pace.done:g} of {self._pace.total:g} steps{told})"

    def _restart(self) -> None:
        """A loop may be gone through again, as in each epoch."""
        self._pace = Pace(self._pace.total, clock.monotonic())
        self._warned = False
        self._due = [share * self._pace.total for share in (*_SILENT, *_TOLD)]
        self._looked_s = self._pace.start_s
        # (time, joules, grams) of the readings so far.
        self._readings: list[tuple[float, float, float]] = []
        self._stage: OpenStage | None = None
        self._first: Foresight | None = None
        self._ended = False
        self.outlook: Outlook | None = None

    def __iter__(self) -> Iterator[_T]:
        if self._iterable is None:
            raise ValueError("nothing to go over: write carbon_otel.progress(range(100)), or call update()")
        with self:
            for item in self._iterable:
                yield item
                self.update()

    def __enter__(self) -> Progress[_T]:
        self._restart()
        contain("beginning a forecast in the run", None, self._begin)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        contain("ending a forecast in the run", None, self._end)

    def update(self, steps: float = 1) -> None:
        """So many more steps are done."""
        pace = self._pace
        pace.step(clock.monotonic(), steps)
        due = self._due and pace.done >= self._due[0]
        if (due and pace.elapsed_s >= _LEAST_S) or (self._watched and pace.now_s - self._looked_s >= _LOOK_S):
            contain("forecasting in the run", None, self._look)

    @property
    def _watched(self) -> bool:
        return self.outlook is not None and not self._warned and any(self._budgets)

    def _begin(self) -> None:
        active = cast("Recorder | None", runtime.active())
        if active is not None:
            engine = active.engine
            self._stage = engine.parent_of(current.get()) or engine.root
            self._read()

    def _read(self) -> bool:
        """Whether there is a measurement to read, still."""
        active = cast("Recorder | None", runtime.active())
        stage = self._stage
        if stage is None or active is None or active.engine is not stage.engine:
            self._stage = None
            return False
        figures = stage.engine.so_far(stage).footprint
        self._looked_s = clock.monotonic()
        self._readings.append((self._looked_s, figures.energy_j, figures.emissions_g))
        return True

    def _look(self) -> None:
        told = False
        while self._due and self._pace.done >= self._due[0]:
            told |= len(self._due) <= len(_TOLD)
            del self._due[0]
        if not self._read() or not (told or self._watched) or self._pace.done < 2:
            return
        outlook = self._expected()
        if outlook is None:
            return
        self.outlook = outlook
        if told:
            logger.info("%s", outlook.text)
            foresight = self._foresight(outlook)
            self._first = self._first or foresight
            self._tell(foresight)
        self._hold_to_budget(outlook)

    def _expected(self) -> Outlook | None:
        begun, now = self._readings[0], self._readings[-1]
        # The power of the settled steps; a slow beginning often draws another one.
        settled_s = self._pace.settled_s
        known = (r for r in self._readings[:-1] if settled_s <= r[0] <= now[0] - _APART_S)
        since = next(known, begun)
        if now[0] <= since[0]:
            return None
        watts = (now[1] - since[1]) / (now[0] - since[0])
        spent_j, spent_g = now[1] - begun[1], now[2] - begun[2]
        left_s = self._pace.left_s()
        left_j = left_s.times(max(0.0, watts)) * Interval(1 - _POWER, 1.0, 1 + _POWER)
        joules = left_j + Interval.exact(max(0.0, spent_j))
        g_per_j = spent_g / spent_j if spent_j > 0 else 0.0
        return Outlook(
            done=min(1.0, self._pace.done / self._pace.total),
            energy_kwh=joules.times(1 / J_PER_KWH),
            emissions_kg=joules.times(g_per_j / KILO),
            left_s=left_s,
            ends_at=time.time() + left_s.p50,
        )

    def _foresight(self, outlook: Outlook) -> Foresight:
        joules, grams = outlook.energy_kwh.times(J_PER_KWH), outlook.emissions_kg.times(KILO)
        so_far = self._pace.elapsed_s
        left = outlook.left_s
        return Foresight(
            in_run=True,
            expected_j=(joules.p10, joules.p50, joules.p90),
            raw_j=joules.p50,
            expected_g=(grams.p10, grams.p50, grams.p90),
            expected_s=(so_far + left.p10, so_far + left.p50, so_far + left.p90),
            title="",
            done=outlook.done,
            left_s=left.p50,
        )

    def _tell(self, foresight: Foresight) -> None:
        stage = self._stage
        if stage is None:
            return
        told: list[StageInfo] = [stage.info]
        if stage.run is not None and stage.run is not stage:
            told.append(stage.run.info)
        for info in told:
            stage.engine.sinks.foreseen(info, foresight)

    def _hold_to_budget(self, outlook: Outlook) -> None:
        kwh, kg = self._budgets
        over_kwh = kwh is not None and outlook.energy_kwh.p50 > kwh
        over_kg = kg is not None and outlook.emissions_kg.p50 > kg
        if self._warned or not (over_kwh or over_kg):
            return
        self._warned = True
        if self._on_budget is not None:
            contain("calling on_budget", None, self._on_budget, outlook)
        elif kwh is not None and over_kwh:
            logger.warning("the budget of %s will not suffice: %s", energy(kwh * J_PER_KWH), outlook.text)
        elif kg is not None:
            budget, expected = (emissions(each * KILO, of="CO2e") for each in (kg, outlook.emissions_kg.p50))
            logger.warning("the budget of %s will not suffice: %s in all", budget, expected)

    def _end(self) -> None:
        if self._ended or self._first is None or self._stage is None:
            return
        self._ended = True
        if self._pace.done < self._pace.total * (1 - 1e-9):
            return  # left early: there is nothing to compare with
        if not self._read():
            return
        measured_j = self._readings[-1][1] - self._readings[0][1]
        self._tell(self._first._replace(done=1.0, left_s=0.0, measured_j=measured_j))
