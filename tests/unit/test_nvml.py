"""The NVML sensor with a library that returns any answer: a reading, or SensorError."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbon_otel.meter.timeline import Timeline
from carbon_otel.sensors.base import SensorError
from carbon_otel.sensors.nvidia.gpu import NvmlGpu
from tests.fakes.clock import NS, Clock
from tests.fakes.nvml_answers import HEALTHY, Error, Library

errors = st.builds(Error, st.sampled_from([1, 2, 3, 4, 6, 9, 10, 15, 999]))
numbers = st.one_of(
    st.integers(-(2**63), 2**64 - 1), st.sampled_from([0, 1000, 1500, 900, 2**64 - 1, 2**32 - 1])
)
answers = st.fixed_dictionaries(
    {
        "energy": errors | numbers,
        "power": errors | numbers,
        "limit": errors | numbers,
        "name": errors | st.just("H100"),
        "field_error": errors | st.just(0),
        "field": st.tuples(
            st.sampled_from([0, 3, 999]),
            st.integers(-2, 9),
            numbers | st.sampled_from([math.nan, math.inf, -math.inf]),
        ),
        "handle_error": errors | st.just(0),
    }
)


@given(st.lists(answers, min_size=1, max_size=12))
def test_any_answer_of_the_driver_is_a_reading_or_an_error(replies):
    clock = Clock()
    library = Library(clock, dict(replies[0]))
    try:
        gpu = NvmlGpu(library, "GPU-0", object())
    except SensorError:
        return
    least_w, most_w = gpu.power_bounds_w
    assert 0 == least_w < most_w < 1e5
    timeline = Timeline(gpu)
    joules, clean_j, clean_s = 0.0, 0.0, clock() / NS
    for reply in replies:
        clock.advance(1)
        library.answers = dict(reply)
        try:
            raw = gpu.read()
        except SensorError:
            timeline.miss(clock())
        else:
            assert 0 <= raw < math.inf
            assert gpu.kind == "counter" or 0 < raw <= most_w
            timeline.observe(clock(), raw)
        now_j = timeline.at(clock())
        assert joules <= now_j < math.inf
        joules = now_j
        # A power above that of the device is never returned.
        assert joules - clean_j <= 1.01 * most_w * (clock() / NS - clean_s + 1)
        if isinstance(reply["energy"], int) and gpu.kind == "counter" and reply["energy"] < 0:
            assert "gap" in timeline.flags


@pytest.mark.parametrize("raw", [-1, math.nan, math.inf])
def test_a_number_that_cannot_be_an_energy_is_an_error(raw):
    library = Library(Clock(), dict(HEALTHY))
    gpu = NvmlGpu(library, "GPU-0", object())
    library.answers["energy"] = raw
    with pytest.raises(SensorError, match="GPU-0: NVML returned"):
        gpu.read()


@pytest.mark.parametrize("milliwatts", [0, -5, 2**32 - 1])
def test_an_implausible_power_is_an_error_not_a_zero(milliwatts):
    library = Library(Clock(), {**HEALTHY, "energy": Error(3)})
    gpu = NvmlGpu(library, "GPU-0", object())
    assert (gpu.kind, gpu.read()) == ("power", 100)
    library.answers["power"] = milliwatts
    with pytest.raises(SensorError, match="out of range"):
        gpu.read()


class Renewed:
    """GPUs at 200 W whose counters are updated every `period_s` of a clock that only sleeping advances."""

    def __init__(self, period_s, names=("H100",)):
        self.clock = clock = Clock()
        self.slept_s = 0.0
        self.libraries = [
            Library(
                clock,
                {
                    **HEALTHY,
                    "name": name,
                    "energy": lambda: int(clock() / NS // period_s * period_s * 200_000),
                },
            )
            for name in names
        ]
        for library in self.libraries:
            library.learned = self.libraries[0].learned  # as in the only library of a host
        self.gpus = [
            NvmlGpu(library, f"GPU-{i}", object(), clock_ns=clock) for i, library in enumerate(self.libraries)
        ]
        for library in self.libraries:
            library.metered = len(self.gpus)

    def sleep(self, seconds):
        self.slept_s += seconds
        self.clock.advance(seconds)

    def learn(self):
        before = self.reads
        for gpu in self.gpus:
            gpu.prepare(self.sleep)
        return self.reads - before

    @property
    def reads(self):
        return sum(library.energy_reads for library in self.libraries)


@pytest.mark.parametrize("period_s", [0.02, 0.025, 0.05, 0.1, 0.15])
def test_the_period_is_learned_within_a_burst(period_s):
    host = Renewed(period_s)
    assert host.learn() <= 75
    assert host.slept_s <= 1.2
    assert host.gpus[0].update_period_s == pytest.approx(period_s, rel=0.1)
    assert 2 * host.gpus[0].edge_interval_s == host.gpus[0].update_period_s


@pytest.mark.parametrize(("names", "interval_s"), [(("H100",), 0.25), (("H100",) * 8, 2.0)])
def test_readings_at_edges_take_a_hundredth_of_the_time(names, interval_s):
    host = Renewed(0.1, names)
    for library in host.libraries:
        library.takes_s = 0.0025
    host.learn()
    assert [gpu.edge_pace_s for gpu in host.gpus] == [pytest.approx(interval_s)] * len(names)


def test_a_period_below_the_spacing_is_given_as_the_spacing():
    host = Renewed(0.001)
    host.learn()
    assert host.gpus[0].update_period_s == pytest.approx(0.01)


def test_a_period_beyond_the_burst_is_given_as_the_longest_standstill():
    host = Renewed(10.0)
    host.learn()
    assert host.gpus[0].update_period_s >= 0.4


def test_gpus_of_one_name_learn_from_one():
    host = Renewed(0.05, ("H100",) * 8 + ("L4",))
    assert host.learn() <= 2 * 75
    assert [gpu.update_period_s for gpu in host.gpus] == [pytest.approx(0.05, rel=0.1)] * 9
    assert [library.energy_reads > 1 for library in host.libraries] == [True] + [False] * 7 + [True]


def test_a_gpu_that_fails_during_learning_keeps_the_assumed_period():
    host = Renewed(0.05)
    host.libraries[0].answers["energy"] = Error(999)
    host.learn()
    assert host.gpus[0].update_period_s == 0.1


def test_without_a_counter_no_period_is_learned():
    library = Library(Clock(), {**HEALTHY, "energy": Error(3)})
    gpu = NvmlGpu(library, "GPU-0", object())
    gpu.prepare(lambda seconds: pytest.fail("slept"))
    assert not gpu.due
    assert gpu.update_period_s == 0.1
