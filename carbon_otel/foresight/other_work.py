"""Other programs on this machine, while an estimator is forecast: they widen the interval.

The small fits run beside them, so their time contains them; but they may end, or become more, before the training
is done. How much work there is says the load average, which lags behind by a minute, and the processor time that
others took in the small fits.
"""

from __future__ import annotations

import os
import time
from dataclasses import replace
from types import TracebackType
from typing import Final

from carbon_otel import clock
from carbon_otel.forecast.records import Assumption, Forecast, Interval, influences
from carbon_otel.sensors.base import SensorError
from carbon_otel.sensors.proc_stat import BusyTime

_MOST_LOAD: Final = 9.0
# Where others take all of the time of the processors, there are at least twice as many of them as show.
_PER_SHARE: Final = 2.0


class OtherWork:
    """What other programs want of this machine; a context around the small fits.

    Attributes:
        load: threads that want to run, for each that the machine has; 1 or less if there is room for all.
    """

    def __init__(self) -> None:
        self._processors = os.cpu_count() or 1
        # Before the small fits, which are load themselves.
        self.load = os.getloadavg()[0] / self._processors if hasattr(os, "getloadavg") else 1.0

    def __enter__(self) -> OtherWork:
        self._begun_s, self._begun_busy_s = clock.monotonic(), _others_s()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        lasted_s, now_s = clock.monotonic() - self._begun_s, _others_s()
        if self._begun_busy_s is not None and now_s is not None and lasted_s > 0:
            share = (now_s - self._begun_busy_s) / (lasted_s * self._processors)
            self.load = max(self.load, 1 + _PER_SHARE * min(1.0, max(0.0, share)))

    def widened(self, made: Forecast) -> Forecast:
        """The forecast, wider by the cube root of the load on either side: of 78 trials, 86 % were covered."""
        if self.load <= 1 or made.days is None:
            return made
        width = min(self.load, _MOST_LOAD) ** (1 / 3)
        doubt = Interval(1 / width, 1.0, width)
        source = f"load {self.load:.1f} for each thread of the machine"
        other = Assumption("other work on this machine", 1.0, 1 / width, width, "", source)
        assumptions = (*made.assumptions, other)
        names = {other.name, *(each.name for each in made.influences)}
        return replace(
            made,
            days=made.days * doubt,
            energy_kwh=made.energy_kwh * doubt,
            it_energy_kwh=made.it_energy_kwh * doubt,
            emissions_kg=made.emissions_kg * doubt,
            water_l=None if made.water_l is None else made.water_l * doubt,
            assumptions=assumptions,
            influences=influences(
                {a.name: Interval(a.low, a.value, a.high) for a in assumptions if a.name in names}
            ),
        )


def _others_s() -> float | None:
    """Processor seconds of all other programs since some time in the past; None where they are not known."""
    busy = BusyTime()
    try:
        return busy.read()[0] - time.process_time()
    except SensorError:
        return None
    finally:
        busy.close()
