"""The comparison of two runs."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbon_otel.lifecycle.comparison import NotMeasured, RunCost, differences, pareto, verdict


def cost(name, wh, low=None, high=None, **tags):
    figures = {"carbon/energy_wh": wh, "carbon/energy_low_wh": low, "carbon/energy_high_wh": high}
    tags = {"carbon.status": "final"} | {f"carbon.{tag}": value for tag, value in tags.items()}
    return RunCost.of(name, name, {k: v for k, v in figures.items() if v is not None}, tags)


@pytest.mark.parametrize(
    ("first", "other", "line"),
    [
        ((10, 9, 11), (5, 4, 6), "used 50.0% less energy than a, beyond both bands"),
        ((10, 9, 11), (15, 14, 16), "used 50.0% more energy than a, beyond both bands"),
        ((10, 9, 11), (9.5, 8, 10), "not distinguishable"),
        ((10, 9, 11), (11, 11, 12), "not distinguishable"),
        ((1, 0.9, 1.1), (12, 11, 13), "b used 12 times the energy of a, beyond both bands"),
        ((10, 9, 11), (10, 9, 11), "b: as much energy as a, but the bands overlap"),
        ((10, None, None), (5, 4, 6), "without bands"),
        ((0, 0, 0), (0, 0, 0), "not distinguishable"),
    ],
)
def test_a_run_used_less_only_where_the_bands_do_not_overlap(first, other, line):
    assert line in verdict(cost("a", *first), cost("b", *other))


def shared(name, wh, reserved, process, attribution="reserved", gpu_wh=0.0):
    run = cost(name, wh, wh * 0.95, wh * 1.05, attribution=attribution)
    shares = {"carbon.share.reserved": str(reserved), "carbon.share.process": str(process)}
    return replace(run, tags={**run.tags, **shares}, gpu_wh=gpu_wh)


ALONE = shared("alone", 10, 1, 0.75)


@pytest.mark.parametrize(
    ("other", "line"),
    [
        # The same code beside a program that was busy all the time: the machine was charged, for both programs.
        (shared("beside", 23.75, 1, 0.316), "not distinguishable"),
        # A neighbour that is measured takes its part of what is reserved.
        (shared("measured beside", 13, 0.5, 0.288), "not distinguishable"),
        (shared("beside", 30, 1, 0.5), "used 200.0% more energy than alone, beyond both bands"),
        (shared("more threads", 20, 1, 1), "used 100.0% more energy than alone, beyond both bands"),
        (shared("alike", 23.75, 1, 0.74), "used 137.5% more energy than alone, beyond both bands"),
        # Its own part of the host alone, against all of the host.
        (
            shared("by process", 7.5, 1, 0.75, "process"),
            "their rules of attribution differ, and their own CPU",
        ),
        (shared("by process", 1, 1, 0.1, "process"), "used 90.0% less energy than alone, beyond both bands"),
        # A GPU has a share of its own.
        (shared("on a GPU", 23.75, 1, 0.316, gpu_wh=23), "used 137.5% more energy"),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_a_busy_neighbour_is_no_difference_of_the_runs(other, line):
    assert line in verdict(ALONE, other)


def test_shares_that_differ_are_a_way_in_which_runs_were_not_measured_alike():
    beside = shared("beside", 23.75, 1, 0.316)
    (line,) = differences([ALONE, beside])
    assert line.startswith("share.process (") and "alone: 0.75; beside: 0.316" in line
    assert differences([ALONE, shared("alike", 12, 1, 0.74)]) == []


def test_shares_that_were_not_used_do_not_matter():
    one, two = shared("a", 10, 1, 0.75, "process"), shared("b", 20, 0.5, 0.75, "process")
    assert "used 100.0% more" in verdict(one, two)
    assert differences([one, two]) == []


def test_a_figure_that_was_not_logged_is_not_zero():
    run = cost("a", 1.0)
    assert (
        math.isnan(run.low_wh)
        and math.isnan(run.low_g)
        and math.isnan(run.emissions_g)
        and math.isnan(run.duration_s)
    )
    with pytest.raises(NotMeasured, match=r"carbon_otel\.instrument"):
        RunCost.of("1", "a", {"accuracy": 1.0}, {})
    with pytest.raises(NotMeasured, match="first checkpoint"):
        RunCost.of("1", "a", {}, {"carbon.status": "running"})
    with pytest.raises(NotMeasured, match="carbon-otel doctor"):
        RunCost.of("1", "a", {"carbon/energy_wh": math.nan}, {"carbon.method": "missing"})


def test_differences_in_measuring_are_named():
    a = cost("a", 1, method="measured.counter", zone="FR", pue="1")
    b = cost("b", 1, method="modelled.utilisation", zone="FR", pue="1.2")
    method, pue = differences([a, b])
    assert method.startswith("method") and "a: measured.counter; b: modelled.utilisation" in method
    assert pue.startswith("pue")
    assert differences([a, a]) == []


def test_a_killed_run_is_a_lower_bound():
    killed = cost("b", 1, status="running")
    (line,) = differences([cost("a", 1), killed])
    assert line == "b has not ended in order; its figures are lower bounds"


@pytest.mark.parametrize(
    ("tag", "why"), [({"status": "running"}, "not ended"), ({"missing": "gpu"}, "lacks gpu")]
)
def test_a_lower_bound_never_used_less(tag, why):
    complete, bound = cost("a", 10, 9, 11), cost("b", 5, 4, 6, **tag)
    for line in (verdict(complete, bound), verdict(bound, complete)):
        assert f"b {'has ' if 'ended' in why else ''}{why}" in line and "not distinguishable" in line
    # Its lower end is above the upper end of the other run.
    assert "more energy than a, beyond both bands" in verdict(cost("a", 1, 0.9, 1.1), bound)


def test_a_change_from_zero_is_given_in_watt_hours():
    assert (
        verdict(cost("a", 0, 0, 0), cost("b", 5, 4, 6))
        == "b used 5.00 Wh more energy than a, beyond both bands"
    )


def test_nested_and_resumed_runs_are_named():
    outer = cost("outer", 2)
    inner = RunCost.of(
        "inner", "inner", {"carbon/energy_wh": 1.0}, {"carbon.status": "final", "mlflow.parentRunId": "outer"}
    )
    assert differences([outer, inner]) == ["inner is nested in outer, whose figures include it"]
    (resumed,) = differences([cost("a", 1, segments="2"), cost("b", 1)])
    assert resumed == "a was resumed; its tags are those of its last segment"


def emitting(name, grams, **tags):
    return replace(cost(name, 1.0, **tags), emissions_g=grams)


def test_the_pareto_front():
    runs = [emitting("small", 1), emitting("big", 9), emitting("worse", 9), emitting("dear", 10)]
    quality = {"small": 0.8, "big": 0.9, "worse": 0.85, "dear": 0.9}
    assert pareto(runs, quality) == {"small", "big"}
    assert pareto(runs, quality, lower_is_better=True) == {"small"}


def test_unknown_emissions_and_lower_bounds_are_not_on_the_front():
    runs = [emitting("complete", 5), emitting("killed", 1, status="running"), emitting("unknown", math.nan)]
    assert pareto(runs, {"complete": 0.5, "killed": 0.9, "unknown": 0.9}) == {"complete"}
    assert pareto([emitting("no metric", 1)], {}) == frozenset()


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=12))
def test_every_run_is_on_the_front_or_beaten_by_a_run_on_it(points):
    runs = [emitting(str(i), grams) for i, (_, grams) in enumerate(points)]
    front = pareto(runs, {str(i): float(good) for i, (good, _) in enumerate(points)})
    assert front
    for i, (good, grams) in enumerate(points):
        better = [points[int(f)] for f in front if points[int(f)][0] >= good and points[int(f)][1] <= grams]
        assert better and (str(i) in front or (good, grams) not in better)
