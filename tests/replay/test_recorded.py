"""The energy counter of a real GPU, as it was read, through the sensor: stages that are busy, and that rest."""

from __future__ import annotations

import random
from bisect import bisect_right
from pathlib import Path
from statistics import fmean, median
from typing import NamedTuple

import pytest

from carbon_otel.footprint import footprint_of
from carbon_otel.meter.meter import Meter
from carbon_otel.sensors.nvidia.gpu import NvmlGpu
from carbon_otel.stages.engine import Engine
from tests.fakes.clock import NS, Clock
from tests.fakes.nvml_answers import HEALTHY, Library
from tests.replay.conftest import COVERAGE, ERRORS, percent
from tests.replay.meters import FACTOR, Window

RECORDED = Path(__file__).with_name("h200.csv")
# Their ratio tells how the joules of an interval of the counter lie in it.
IDLE_W, BUSY_W = 129.0, 750.0
READING_S = 0.0024


class Recording:
    """What the counter showed since each of its renewals, and when the GPU was busy; in seconds and joules.

    It begins at `at_s`: a card is renewed at any moment of a second.
    """

    def __init__(self, at_s: float) -> None:
        rows = [line.split(",") for line in RECORDED.read_text().splitlines() if not line.startswith("#")]
        self.renewed = [at_s + float(at) for kind, at, _ in rows if kind == "renewed"]
        self.joules = [int(mj) / 1000 for kind, _, mj in rows if kind == "renewed"]
        self.busy = [
            Window(at_s + float(begin), at_s + float(end)) for kind, begin, end in rows if kind == "busy"
        ]
        self.resting = [Window(a.end, b.start) for a, b in zip(self.busy, self.busy[1:], strict=False)]

    def shown(self, t: float) -> float:
        return self.joules[bisect_right(self.renewed, t) - 1]

    def drawn(self, t: float) -> float:
        """Up to a moment: between two renewals as much more as the GPU was busy in that part."""
        index = bisect_right(self.renewed, t) - 1
        begin, end = self.renewed[index], self.renewed[index + 1]
        part = self._load(begin, t) / self._load(begin, end)
        return self.joules[index] + part * (self.joules[index + 1] - self.joules[index])

    def _load(self, begin: float, end: float) -> float:
        busy_s = sum(max(0.0, min(end, w.end) - max(begin, w.start)) for w in self.busy)
        return IDLE_W * (end - begin) + (BUSY_W - IDLE_W) * busy_s


class Found(NamedTuple):
    """A stage: the error of our figure, and of the difference of two readings; and the band."""

    ours: float
    by_readings: float
    in_band: bool
    half_width: float


def replayed(recording: Recording, kind: str) -> list[Found]:
    """The stages of a kind that last for 0.1 s at least."""
    windows: list[Window] = getattr(recording, kind)
    clock = Clock(recording.renewed[1])
    library = Library(clock, {**HEALTHY, "energy": lambda: recording.shown(clock() / NS) * 1000})
    library.takes_s = READING_S
    gpu = NvmlGpu(library, "GPU-0", object(), clock_ns=clock)
    engine = Engine(Meter([gpu], clock_ns=clock), FACTOR)
    gpu.prepare(clock.advance)
    engine.renew_periods()
    begun_s, end_s = clock() / NS, recording.renewed[-2]
    known = [w for w in windows if begun_s < w.start and w.end + 1 < end_s and w.end - w.start > 0.1]
    events = [(w.start, 1, i) for i, w in enumerate(known)] + [(w.end, 0, i) for i, w in enumerate(known)]
    events += [(float(second), 2, 0) for second in range(int(begun_s) + 1, int(end_s))]
    stages, found = {}, []
    for at_s, event, i in sorted(events):
        clock.now_ns = max(clock(), round(at_s * NS))
        now_s = clock() / NS
        if event == 2:
            engine.tick()
            if gpu.due:  # on the thread of the sampler, which is not waited for
                gpu.follow(clock.advance)
                clock.now_ns = round(now_s * NS)
        elif event == 1:
            stages[i] = now_s, engine.open("training", f"{i}", {})
        else:
            began_s, stage = stages[i]
            engine.close(stage)
            f = footprint_of(stage.end.figures.record, FACTOR)
            true_j = recording.drawn(now_s) - recording.drawn(began_s)
            between_j = recording.shown(now_s + READING_S / 2) - recording.shown(began_s + READING_S / 2)
            found.append(
                Found(
                    f.energy_j / true_j - 1,
                    between_j / true_j - 1,
                    f.low_j <= true_j <= f.high_j,
                    (f.high_j - f.low_j) / 2 / true_j,
                )
            )
    return found


@pytest.mark.parametrize(("kind", "label", "most"), [("busy", "busy", 0.03), ("resting", "at rest", 0.12)])
def test_stages_on_a_recorded_card(kind, label, most):
    rng = random.Random(0)
    found = [each for _ in range(20) for each in replayed(Recording(rng.uniform(0, 1)), kind)]
    assert len(found) > 200
    name = f"H200, recorded, {label}"
    ours, by_readings = [each.ours for each in found], [each.by_readings for each in found]
    ERRORS.append((name, [percent(ours), "-", percent(by_readings)]))
    covered, width = fmean(each.in_band for each in found), fmean(each.half_width for each in found)
    COVERAGE.append((f"{name}, mean {fmean(ours):+.1%}", len(found), covered, width))
    assert median(map(abs, ours)) < most
    assert median(map(abs, ours)) < median(map(abs, by_readings)) / 3
    assert covered >= 0.95
