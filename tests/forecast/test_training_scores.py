"""How well the hours of published training runs are forecast, each by a prior without a run of its family."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

import carbon_otel
from carbon_otel.compat.llmcarbon import throughput
from carbon_otel.forecast.fit.training import Judged, Run, judge, runs

RUNS = runs()
# The regression is of A100s: its TFLOP/s over their peak is taken for other chips.
A100_TFLOPS = 312


@pytest.fixture(scope="module")
def judged() -> list[Judged]:
    return judge(RUNS)


def constant(share: float) -> Callable[[Run], float]:
    return lambda run: abs(run.mfu / share - 1)


def mlcarbon(run: Run) -> float:
    return abs(run.mfu / (throughput(run.active_params / 1e9).tflops / A100_TFLOPS) - 1)


def percent(share: float) -> str:
    return f"{share:.1%}"


def median(errors: Sequence[float]) -> float:
    return statistics.median(errors)


SETS: dict[str, Callable[[Run], bool]] = {
    "language models, all": lambda run: True,
    "of these, exact hours": lambda run: run.exact,
    "A100 class": lambda run: run.chip.startswith(("A100", "A800")),
    "H100 class": lambda run: run.chip.startswith(("H100", "H800", "H200", "GH200")),
}


def test_the_table(judged, table):
    rows = []
    for name, member in SETS.items():
        chosen = [each for each in judged if member(each.run)]
        errors = sorted(abs(each.error) for each in chosen)
        rows.append(
            (
                name,
                len(chosen),
                percent(median([constant(0.40)(each.run) for each in chosen])),
                percent(median([constant(0.35)(each.run) for each in chosen])),
                percent(median([mlcarbon(each.run) for each in chosen])),
                percent(median(errors)),
                percent(errors[int(0.9 * len(errors))]),
                percent(sum(each.covered for each in chosen) / len(chosen)),
                f"x{statistics.median(each.mfu.width for each in chosen):.2f}",
                f"{statistics.mean(each.interval_score for each in chosen):.2f}",
            )
        )
    title = "GPU-hours of training: median |error|, the run's family left out of the fit and of its interval"
    header = ("runs", "n", ".40", ".35", "MLCarbon", "prior", "p90", "p10-p90", "width", "interval score")
    table(title, header, rows)
    assert all(row[1] for row in rows)


def test_the_page_has_these_figures(judged):
    page = (Path(carbon_otel.__file__).parent / "forecast" / "README.md").read_text("utf-8")
    warm = judge(RUNS, earlier=True)
    hopper = [each for each in judged if SETS["H100 class"](each.run)]
    for label, errors in (
        ("GPU-hours of 71 language models, the family", [abs(each.error) for each in judged]),
        ("of these on H100 and its kin", [abs(each.error) for each in hopper]),
        ("with an earlier run of the same laboratory", [abs(each.error) for each in warm]),
    ):
        assert f"| {label} | {median(errors):.0%} |".replace("%", " %") in page


def test_the_goals_of_a_cold_start(judged):
    assert len(judged) == 71
    error = median([abs(each.error) for each in judged])
    assert error <= 0.23
    assert error <= median([constant(0.35)(run) for run in RUNS]) - 0.06
    assert error <= median([mlcarbon(run) for run in RUNS]) - 0.10
    assert 0.75 <= sum(each.covered for each in judged) / len(judged) <= 0.85
    assert statistics.median(each.mfu.width for each in judged) <= 2.6


def test_the_goal_on_the_h100_class(judged):
    chosen = [each for each in judged if SETS["H100 class"](each.run)]
    assert len(chosen) == 23
    error = median([abs(each.error) for each in chosen])
    assert error <= 0.25
    assert error < median([constant(0.40)(each.run) for each in chosen]) / 1.5


def test_the_goal_with_an_earlier_run_of_the_same_laboratory(table):
    warm, cold = judge(RUNS, earlier=True), {each.run.model: each for each in judge(RUNS)}
    error = median([abs(each.error) for each in warm])
    before = median([abs(cold[each.run.model].error) for each in warm])
    covered = sum(each.covered for each in warm) / len(warm)
    table(
        "GPU-hours where the same laboratory has an earlier run in the table, exact hours",
        ("n", "without it", "with it", "p10-p90"),
        [(len(warm), percent(before), percent(error), percent(covered))],
    )
    assert len(warm) >= 30
    assert error <= 0.18
    assert error < before
    assert 0.75 <= covered <= 0.85


def test_the_interval_beats_one_of_constant_utilisation(judged):
    """The interval score of a constant with the quantiles of all other families' utilisation about it."""
    scores = []
    for run in RUNS:
        others = sorted(math.log(other.mfu) for other in RUNS if other.family != run.family)
        low, high, true = others[len(others) // 10], others[-1 - len(others) // 10], math.log(run.mfu)
        scores.append(high - low + 10 * (max(low - true, 0) + max(true - high, 0)))
    assert statistics.mean(each.interval_score for each in judged) < statistics.mean(scores)


def test_a_run_never_helps_to_judge_itself():
    """A run that took ten times as long changes the forecast of other families, and not its own."""
    family = "MPT"
    changed = [
        run if run.family != family else Run(**{**fields(run), "gpu_hours": 10 * run.gpu_hours})
        for run in RUNS
    ]
    before = {each.run.model: each.mfu for each in judge(RUNS)}
    after = {each.run.model: each.mfu for each in judge(changed)}
    assert after["MPT-7B"] == before["MPT-7B"]
    assert after["LLaMA-7B"] != before["LLaMA-7B"]


def fields(run: Run) -> dict:
    return {name: getattr(run, name) for name in Run.__slots__}
