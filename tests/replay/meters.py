"""The same trace through the engine of carbon_otel and through the counter readers of codecarbon and zeus."""

from __future__ import annotations

import importlib.util
import multiprocessing
import random
import threading
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

from carbon_otel.carbon.grid import EmissionFactor
from carbon_otel.footprint import Footprint, footprint_of
from carbon_otel.meter.meter import Meter
from carbon_otel.provenance import Band
from carbon_otel.sensors.base import Device, SensorError
from carbon_otel.stages.engine import Engine
from tests.fakes.clock import Clock
from tests.fakes.grid import grid_of
from tests.replay.trace import NS, Trace

EXACT = Band(1.0, 1.0, "a replayed counter")
FACTOR = EmissionFactor(grid_of(360.0))
TICK_S = 1.0
# An H200 in a guest, whose counter takes 2.4 ms to read (tests/hardware/README.md).
UNSURE_S = 0.003
HAS_CODECARBON = importlib.util.find_spec("codecarbon") is not None
HAS_ZEUS = importlib.util.find_spec("zeus") is not None


class Window(NamedTuple):
    """A stage from `start` to `end`, in seconds; `within` is the index of the window that it is nested in."""

    start: float
    end: float
    within: int | None = None


class ReplaySensor:
    """Reads the trace at the virtual clock's time."""

    kind = "counter"

    def __init__(self, trace: Trace, clock: Clock) -> None:
        self._trace, self._clock, self._start_ns = trace, clock, clock()
        self.joules_per_unit, self.wrap = trace.unit_j, trace.wrap
        self.update_period_s = self.quantum_s = trace.update_s
        self.edge_interval_s = max(0.002, trace.update_s)
        self.tick_interval_s = 0.95
        self.power_bounds_w = (0.0, trace.most_w)
        self.device = Device("replay", "cpu", "replay", "measured.counter", EXACT, "replay")

    def read(self) -> float:
        raw = self._trace.at(self._clock() - self._start_ns)
        if raw is None:
            raise SensorError("the trace has no reading here")
        return raw

    def close(self) -> None:
        pass


class SlowReplaySensor(ReplaySensor):
    """As slow to read as the counter of a GPU in a guest, and as late."""

    edge_pace_s = 0.26

    def __init__(self, trace: Trace, clock: Clock) -> None:
        super().__init__(trace, clock)
        self.edge_interval_s = trace.update_s / 2
        self._rng = random.Random(trace.update_s)

    def shown(self, began_ns: int, took_ns: int) -> tuple[int, int]:
        """As the clock of its updates finds it: unsure by some milliseconds, and nothing is known close to one."""
        period_ns, unsure_ns = round(self.update_period_s * NS), round(UNSURE_S * NS)
        age_ns = (began_ns - self._start_ns) % period_ns
        if not unsure_ns < age_ns < period_ns - unsure_ns:
            return began_ns - period_ns // 2, period_ns // 2
        wrong_ns = self._rng.randint(-unsure_ns, unsure_ns)
        return min(began_ns, began_ns - age_ns + wrong_ns), unsure_ns


def measured(
    trace: Trace,
    windows: Sequence[Window],
    until: float,
    *,
    stall=(),
    suspend_s: float | None = None,
) -> tuple[list[Footprint], Footprint]:
    """The footprint of every window, and of the process.

    `stall` is a time range without ticks; at `suspend_s` the host sleeps for an hour, which the monotonic clock
    does not count.
    """
    clock = Clock(1000.0)
    start_ns = clock()
    woke_ns = start_ns + round(suspend_s * NS) if suspend_s else None

    def asleep_ns() -> int:
        return 3600 * NS if woke_ns and clock() >= woke_ns else 0

    with mock.patch("carbon_otel.meter.meter._boot_minus_monotonic", asleep_ns):
        return _replay(trace, windows, until, clock, start_ns, stall)


def _replay(trace, windows, until, clock, start_ns, stall):
    sensor = (SlowReplaySensor if trace.update_s >= 0.1 else ReplaySensor)(trace, clock)
    engine = Engine(Meter([sensor], clock_ns=clock), FACTOR)
    events: list[tuple[int, int, int]] = []
    ticks = [
        t for t in range(1, int(until / TICK_S) + 1) if not (stall and stall[0] <= t * TICK_S < stall[1])
    ]
    events += [(round(t * TICK_S * NS), 1, 0) for t in ticks]
    for i, window in enumerate(windows):
        events += [(round(window.start * NS), 2, i), (round(window.end * NS), 0, -i)]
    stages: dict[int, Any] = {}
    for at_ns, event, i in sorted(events):
        clock.now_ns = start_ns + at_ns
        if event == 1:
            engine.tick()
        elif event == 2:
            within = windows[i].within
            stages[i] = engine.open("training", f"{i}", {}, None if within is None else stages[within])
        else:
            engine.close(stages[-i])
    made = [footprint_of(stages[i].end.figures.record, FACTOR) for i in range(len(windows))]
    return made, footprint_of(engine.so_far().record, FACTOR)


class Zone:
    """A powercap zone on disk that shows a trace at a settable time."""

    def __init__(self, trace: Trace, folder: Path) -> None:
        self.folder, self._trace = folder, trace
        folder.mkdir(exist_ok=True)
        (folder / "name").write_text("package-0\n")
        (folder / "max_energy_range_uj").write_text(f"{trace.wrap}\n")
        self.set(0.0)

    def set(self, t: float) -> None:
        raw = self._trace.at(round(t * NS))
        (self.folder / "energy_uj").write_text("" if raw is None else f"{raw}\n")


def codecarbon(trace: Trace, window: Window, folder: Path) -> float | None:
    """codecarbon's RAPL file over a window, read at its default interval of 15 s and at the end; joules."""
    if not HAS_CODECARBON:
        return None
    from codecarbon.core.rapl import RAPLFile
    from codecarbon.core.units import Time

    zone = Zone(trace, folder)
    zone.set(window.start)
    file = RAPLFile("replay", str(folder / "energy_uj"), str(folder / "max_energy_range_uj"))
    file.start()
    joules, then = 0.0, window.start
    while then < window.end:
        now = min(then + 15, window.end)
        zone.set(now)
        file.delta(Time.from_seconds(now - then))
        joules += file.energy_delta.kWh * 3.6e6
        then = now
    return joules


class _Poller:
    """The process of zeus that polls for wraps, as a thread on a virtual clock; its `time.sleep` blocks."""

    def __init__(self, rapl: Any, file: Any, zone: Zone) -> None:
        self.count = multiprocessing.get_context("spawn").Value("i", 0)
        self._zone, self._rapl, self._time = zone, rapl, rapl.time
        self._wake = 0.0
        self._go, self._parked, self._over = threading.Event(), threading.Event(), False
        rapl.time = SimpleNamespace(sleep=self._sleep)
        self._arguments = (file.energy_uj_path, file.max_energy_range_uj, self.count)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._parked.wait()

    def get_num_wraparounds(self) -> int:
        return int(self.count.value)

    def advance(self, t: float) -> None:
        while self._wake <= t and not self._over:
            self._zone.set(self._wake)
            self._parked.clear()
            self._go.set()
            self._parked.wait()
        self._zone.set(t)

    def end(self) -> None:
        self._over = True
        self._go.set()
        self._thread.join()
        self._rapl.time = self._time

    def _run(self) -> None:
        try:
            self._rapl._polling_process(*self._arguments)
        except ValueError:
            pass  # a failed reading has ended it, as it ends the process of zeus
        finally:
            self._over = True
            self._parked.set()

    def _sleep(self, seconds: float) -> None:
        self._wake += seconds
        self._parked.set()
        self._go.wait()
        self._go.clear()
        if self._over:
            raise KeyboardInterrupt  # zeus ends it in this way


def zeus(trace: Trace, window: Window, folder: Path) -> float | None:
    """zeus's RAPL file, read at both edges of a window, with its wrap tracker; joules."""
    if not HAS_ZEUS:
        return None
    from zeus.device.cpu import rapl

    zone = Zone(trace, folder)
    file = rapl.RAPLFile(str(folder))
    poller = _Poller(rapl, file, zone)
    file._wraparound_tracker = poller
    try:
        poller.advance(window.start)
        before = file.read()
        poller.advance(window.end)
        return (file.read() - before) / 1000
    finally:
        poller.end()
