"""Model of a processor without a counter: a concave power curve between SPECpower's idle and full load.

Watts per hardware thread at idle and at full load are the medians of published SPECpower_ssj2008 results of the
processor's family, the band their 5th and 95th percentiles. They are wall watts of whole servers and include
memory, fans and power supply, so no memory model is added.

The shape between the two is `g(u) = u (1 + k) / (u + k)` with k = 0.75, which meets Teads' published ratios of
RAPL power to TDP (0.12, 0.32, 0.75, 1.02 at 0, 10, 50, 100 % load) within 2 points: real packages rise steeply
up to about 40 % load, then flatten. On eight machines its error is 12 % of full power (tests/calibration).
"""

from __future__ import annotations

import csv
import threading
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from typing import Final, Literal

from carbon_otel import clock
from carbon_otel.fork import renew_after_fork
from carbon_otel.provenance import Band
from carbon_otel.sensors.base import Device, SensorError
from carbon_otel.sensors.constant_power import ConstantPower
from carbon_otel.sensors.cpu_info import Processor
from carbon_otel.sensors.proc_stat import BusyTime
from carbon_otel.units import S_PER_NS

CURVE_K: Final = 0.75
# In a longer time, /proc/stat counts at least one hundredth of a second for every thread.
_SILENT_AFTER_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class ThreadPower:
    """Watts per hardware thread of one family, with the row's provenance."""

    family: str
    name: str
    idle_w: float
    full_w: float
    band: Band
    source: str


def load_curve(utilisation: float) -> float:
    """The share of the range from idle to full power at a utilisation in [0, 1]."""
    return utilisation * (1 + CURVE_K) / (utilisation + CURVE_K)


def families() -> tuple[str, ...]:
    """The families in the table."""
    return tuple(_rows())


def thread_power(family: str) -> ThreadPower:
    """The row of the table for a family, else the row `unknown`."""
    rows = _rows()
    row = rows.get(family, rows["unknown"])
    idle, full = float(row["idle_w"]), float(row["full_w"])
    source = f"{row['source']}, {row['name']} ({row['results']} results), {row['year']}"
    band = Band(
        low=min(float(row["idle_low_w"]) / idle, float(row["full_low_w"]) / full),
        high=max(float(row["idle_high_w"]) / idle, float(row["full_high_w"]) / full),
        source=f"p5-p95 of {source}",
        coverage="p5-p95",
    )
    return ThreadPower(row["family"], row["name"], idle, full, band, source)


def _rows() -> dict[str, dict[str, str]]:
    table = files("carbon_otel.sensors").joinpath("data/cpu_watts_per_thread.csv").read_text("utf-8")
    return {row["family"]: row for row in csv.DictReader(table.splitlines())}


class CpuModel:
    """Counts modelled joules of all threads of the host, from one reading to the next."""

    kind: Literal["counter"] = "counter"
    joules_per_unit = 1.0
    wrap = None
    # /proc/stat counts in hundredths of a second per thread.
    update_period_s = 0.01
    quantum_s = 0.0
    edge_interval_s = 0.1
    tick_interval_s = 0.1

    def __init__(
        self,
        processor: Processor,
        busy_time: BusyTime,
        clock_ns: Callable[[], int] = clock.monotonic_ns,
    ) -> None:
        power = thread_power(processor.family)
        self._idle_w = power.idle_w * processor.threads
        self._full_w = power.full_w * processor.threads
        self.power_bounds_w = (self._idle_w, self._full_w)
        self.device = Device(
            id="cpu-model",
            type="cpu",
            name=processor.model_name,
            method="modelled.utilisation",
            band=power.band,
            source=power.source,
            contains=frozenset({"memory"}),
        )
        self._busy_time = busy_time
        self._clock_ns = clock_ns
        self._then_ns: int | None = None
        self._busy = self._idle = 0.0
        self._joules = 0.0
        self._watts = self._idle_w
        # Each reading continues the sum of the last one, so readings of two threads must not overlap.
        self._lock = threading.Lock()
        renew_after_fork(self._renew)

    def _renew(self) -> None:
        """In a forked child: the thread that held the lock does not exist there."""
        self._lock = threading.Lock()

    def read(self) -> float:
        with self._lock:
            return self._advance()

    def _advance(self) -> float:
        now_ns = self._clock_ns()
        busy, idle = self._busy_time.read()
        if self._then_ns is None:
            self._then_ns, self._busy, self._idle = now_ns, busy, idle
            return self._joules
        elapsed_s = (now_ns - self._then_ns) * S_PER_NS
        ran, rested = busy - self._busy, idle - self._idle
        # The kernel may take idle time back by a tick, but not the sum of all times.
        stepped_back = ran + rested < 0
        if ran + rested == 0:
            # The next reading covers this time.
            if elapsed_s > _SILENT_AFTER_S:
                raise SensorError("the processor time of this host does not change")
            return self._joules
        if not stepped_back:
            utilisation = min(1.0, max(0.0, ran / (ran + rested)))
            self._watts = self._idle_w + (self._full_w - self._idle_w) * load_curve(utilisation)
        self._joules += self._watts * elapsed_s
        self._then_ns, self._busy, self._idle = now_ns, busy, idle
        if stepped_back:  # a container has moved to another host
            raise SensorError("the processor time of this host has stepped back")
        return self._joules

    def close(self) -> None:
        self._busy_time.close()


def constant_model(processor: Processor) -> ConstantPower:
    """The model of a processor whose load is unknown: the mean of idle and full power, from one to the other."""
    power = thread_power(processor.family)
    mean_w = (power.idle_w + power.full_w) / 2
    band = Band(
        low=power.idle_w * power.band.low / mean_w,
        high=power.full_w * power.band.high / mean_w,
        source=f"from idle to full load, {power.band.source}",
        coverage="spread",
    )
    device = Device(
        id="cpu-model",
        type="cpu",
        name=processor.model_name,
        method="modelled.constant",
        band=band,
        source=power.source,
        contains=frozenset({"memory"}),
    )
    return ConstantPower(device, mean_w * processor.threads)
