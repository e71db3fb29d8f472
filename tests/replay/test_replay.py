"""Traces with a known truth through the meter: errors, bands, and the effect of wraps, resets and gaps."""

from __future__ import annotations

import random
from collections.abc import Iterable
from statistics import fmean

import pytest

from tests.replay.conftest import COVERAGE, ERRORS, percent
from tests.replay.meters import Window, codecarbon, measured, zeus
from tests.replay.trace import NS, Load, Power, Trace, record

SHAPES = ("constant", "square", "sine", "saw")
LENGTHS = {"20 ms": 0.02, "50 ms": 0.05, "0.5 s": 0.5, "5 s": 5.0, "60 s": 60.0}
END = 70.0
RAPL = {"update_s": 0.001}
GPU = {"update_s": 0.1, "unit_j": 1e-3, "wrap": None, "most_w": 200.0}


@pytest.fixture(scope="module")
def traces(tmp_path_factory):
    """One trace of each shape, from a file like a recorded one."""
    folder = tmp_path_factory.mktemp("traces")
    made = {}
    for shape in SHAPES:
        for name, device in (("rapl", RAPL), ("gpu", GPU)):
            path = folder / f"{name}-{shape}.csv"
            record(Power(shape), END, **device).save(path)
            made[name, shape] = Trace.load(path)
    return made


def truth(power: Power, window: Window) -> float:
    return power.joules(window.end) - power.joules(window.start)


def windows_of(length: float, count: int) -> list[Window]:
    rng = random.Random(f"{length}")
    lengths = [length * rng.uniform(0.97, 1.03) for _ in range(count)]
    starts = [rng.uniform(1.5, END - 1 - length) for length in lengths]
    return [Window(round(s, 6), round(s + length, 6)) for s, length in zip(starts, lengths, strict=True)]


@pytest.mark.parametrize("label", LENGTHS)
def test_windows_of_any_length_are_within_the_band(label, traces, tmp_path):
    length = LENGTHS[label]
    errors: dict[str, list] = {"measured": [], "codecarbon": [], "zeus": []}
    inside, widths = 0, []
    for shape in SHAPES:
        power = Power(shape)
        for window in windows_of(length, 10 if length > 10 else 25):
            true_j = truth(power, window)
            ((f,), _) = measured(traces["rapl", shape], [window], END)
            errors["measured"].append(f.energy_j / true_j - 1)
            inside += f.low_j * (1 - 1e-9) <= true_j <= f.high_j * (1 + 1e-9)
            widths.append((f.high_j - f.low_j) / 2 / true_j)
            for name, meter in (("codecarbon", codecarbon), ("zeus", zeus)):
                joules = meter(traces["rapl", shape], window, tmp_path / "zone")
                errors[name].append(None if joules is None else joules / truth(power, window) - 1)
    covered, width = inside / len(widths), sum(widths) / len(widths)
    ERRORS.append((f"RAPL, {label} windows", [percent(e) for e in errors.values()]))
    COVERAGE.append((f"RAPL, {label} windows", len(widths), covered, width))
    assert covered >= 0.95
    # Twice the quantum of a 1 ms counter and not more, because a band that is too wide is useless.
    assert width <= 2 * 0.001 / length


@pytest.mark.parametrize(("label", "most"), [("0.5 s", 0.4), ("5 s", 0.04), ("60 s", 0.004)])
def test_a_counter_that_is_slow_to_read_is_within_its_band(label, most, traces):
    length = LENGTHS[label]
    errors, inside, widths = [], 0, []
    for shape in SHAPES:
        power = Power(shape)
        for window in windows_of(length, 10 if length > 10 else 25):
            true_j = truth(power, window)
            ((f,), _) = measured(traces["gpu", shape], [window], END)
            errors.append(f.energy_j / true_j - 1)
            inside += f.low_j <= true_j <= f.high_j
            widths.append((f.high_j - f.low_j) / 2 / true_j)
    covered, width = inside / len(widths), sum(widths) / len(widths)
    ERRORS.append((f"GPU counter (0.1 s), {label}", [percent(errors), "-", "-"]))
    COVERAGE.append((f"GPU counter (0.1 s), {label}", len(widths), covered, width))
    assert covered >= 0.95
    assert width <= most


def stages_on_a_gpu(
    label: str, rounds: Iterable[tuple[Load, list[Window]]]
) -> tuple[list[float], float, float]:
    """Replay stages on a GPU: their relative errors, the part of them in the band, and its mean half width."""
    errors, both_edges, inside, widths = [], [], 0, []
    for load, windows in rounds:
        at = windows[-1].end
        trace = record(load, at + 2, **{**GPU, "most_w": 1400.0})
        footprints, _ = measured(trace, windows, at + 1)
        for window, f in zip(windows, footprints, strict=True):
            true_j = load.joules(window.end) - load.joules(window.start)
            errors.append(f.energy_j / true_j - 1)
            units = trace.at(round(window.end * NS)) - trace.at(round(window.start * NS))
            both_edges.append(units * trace.unit_j / true_j - 1)
            inside += f.low_j <= true_j <= f.high_j
            widths.append((f.high_j - f.low_j) / 2 / true_j)
    covered, width = inside / len(widths), sum(widths) / len(widths)
    ERRORS.append((label, [percent(errors), "-", percent(both_edges)]))
    COVERAGE.append((f"{label}, mean {fmean(errors):+.1%}", len(widths), covered, width))
    return errors, covered, width


@pytest.mark.parametrize(
    ("length", "most", "mean"), [(0.3, 0.6, 0.07), (1.0, 0.15, 0.015), (5.0, 0.04, 0.003)]
)
def test_a_gpu_that_is_busy_in_the_stage_alone(length, most, mean):
    rng = random.Random(f"{length}")

    def rounds():
        for _ in range(4):
            windows, at = [], 2.0
            for _ in range(40):
                at += rng.uniform(0.2, 2.5)
                windows.append(Window(round(at, 6), round(at := at + length * rng.uniform(0.9, 1.1), 6)))
            yield Load([(w.start, w.end) for w in windows], 115.0, 690.0), windows

    errors, covered, width = stages_on_a_gpu(f"GPU, busy for {length:g} s", rounds())
    assert covered >= 0.95
    assert width <= most
    assert abs(fmean(errors)) <= mean


def test_a_gpu_at_rest_in_the_stage_that_was_busy_for_a_moment_before_it():
    rng = random.Random(0)

    def rounds():
        for _ in range(2):
            windows, loads, at = [], [], 2.0
            for _ in range(100):
                loads.append((at, at := round(at + rng.uniform(0.05, 0.15), 6)))
                windows.append(Window(at, at := round(at + rng.uniform(0.9, 1.1), 6)))
            yield Load(loads, 115.0, 690.0), windows

    _, covered, width = stages_on_a_gpu("GPU, at rest for 1 s", rounds())
    assert covered >= 0.9
    assert width <= 1.0


@pytest.mark.parametrize("shape", ["constant", "square"])
def test_the_figure_is_exact_if_the_readings_permit_it(shape, traces):
    power = Power(shape)
    windows = [Window(2, 62), Window(3.25, 5.75, within=0), Window(10.02, 10.04, within=0)]
    windows.append(Window(4.0, 4.5, within=1))
    footprints, _ = measured(traces["rapl", shape], windows, END)
    for window, f in zip(windows, footprints, strict=True):
        assert f.energy_j == pytest.approx(truth(power, window), rel=1e-9)
    outer, middle, short, inner = footprints
    assert middle.exclusive_j == pytest.approx(middle.energy_j - inner.energy_j, rel=1e-9)
    assert outer.exclusive_j == pytest.approx(outer.energy_j - middle.energy_j - short.energy_j, rel=1e-9)


def test_overlapping_stages_share_and_lose_nothing(traces):
    power = Power("square")
    windows = [Window(2, 6), Window(4, 9)]
    footprints, process = measured(traces["rapl", "square"], windows, END)
    both = truth(power, Window(4, 6)) / 2
    expected = [truth(power, Window(2, 4)) + both, truth(power, Window(6, 9)) + both]
    assert [f.exclusive_j for f in footprints] == pytest.approx(expected, rel=1e-9)
    assert process.energy_j == pytest.approx(power.joules(END), rel=1e-9)


FAULTS = {
    # name: (behaviour of the counter, stall of the ticks, required flags)
    "a wrap in the window": ({"start_j": 262_143.32885 - 250}, (), set()),
    "a wrap every 1.5 s": ({"wrap": 150_000_000, "most_w": 140.0}, (), set()),
    "wraps while nothing ticked": ({"wrap": 150_000_000, "most_w": 140.0}, (3, 7), {"ambiguous"}),
    "a reset": ({"resets": [4.3]}, (), {"reset"}),
    "a suspend that resets it": ({"resets": [4.3]}, "suspend", {"reset", "suspend"}),
    "still for 3 s of it": ({"stuck": (5.0, 8.0)}, (), set()),
    "still for 3 s at its begin": ({"stuck": (0.5, 5.0)}, (), set()),
    "still for 3 s at its end": ({"stuck": (9.0, 13.5)}, (), set()),
    "stuck for 8 s": ({"stuck": (3.0, 11.0)}, (), {"stuck"}),
    "unreadable for 3 s": ({"gap": (3.5, 6.5)}, (), set()),
    "unreadable to the end": ({"gap": (9.0, 99.0)}, (), {"gap"}),
    "jitter of the updates": ({"jitter": 0.9}, (), set()),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_within_the_band_or_flagged(name, tmp_path):
    device, stall, flags = FAULTS[name]
    power = Power("constant")
    path = tmp_path / "trace.csv"
    record(power, 20.0, **device).save(path)
    trace = Trace.load(path)
    window = Window(2.0005, 12.0005)
    true_j = truth(power, window)
    if stall == "suspend":
        ((f,), _) = measured(trace, [window], 20.0, suspend_s=4.3)
    else:
        ((f,), _) = measured(trace, [window], 20.0, stall=stall)
    peers = []
    for meter in (codecarbon, zeus):
        try:
            joules = meter(trace, window, tmp_path / "zone")
            peers.append(percent([None if joules is None else joules / true_j - 1]))
        except ValueError as error:
            peers.append(type(error).__name__)
    ERRORS.append((f"10 s, {name}", [percent([f.energy_j / true_j - 1]), *peers]))
    assert {flag.partition(":")[0] for flag in f.flags} >= flags
    assert f.energy_j > 0
    assert f.low_j <= true_j <= f.high_j
    if "reset" in flags:
        assert f.energy_j <= true_j


def test_a_saved_trace_is_loaded_unchanged(tmp_path):
    trace = record(Power("sine"), 1.0, gap=(0.2, 0.3))
    trace.save(tmp_path / "trace.csv")
    assert Trace.load(tmp_path / "trace.csv") == trace
    assert trace.at(NS // 4) is None


@pytest.mark.parametrize("shape", SHAPES)
def test_closed_forms_agree_with_their_powers(shape):
    power = Power(shape)
    steps = 200_000
    # The trapezoids of the derivative, by differences: the integral is the sum of its own increments.
    total = sum(
        power.joules((k + 1) * 7.3 / steps) - power.joules(k * 7.3 / steps) for k in range(0, steps, 1)
    )
    assert total == pytest.approx(power.joules(7.3), rel=1e-9)
    assert power.joules(14) == pytest.approx(7 * power.joules(2), rel=1e-9)
