"""Energy that a median pruner would have saved in a search: a replay of its rule on the histories of the trials.

The rule of Optuna's `MedianPruner`, looked at once, at half of a trial's steps: stop a trial if its best value so
far is worse than the median of the values that the trials which have ended before had at the same step; the first
five trials are never stopped, and stopped trials are not in the median.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence
from typing import Final, NamedTuple

from carbon_otel.advice.amounts import energy_of, part, total, whole
from carbon_otel.advice.attempts import Attempt
from carbon_otel.advice.histories import Curve, Point
from carbon_otel.advice.quality import LEAST_POINTS, Metric
from carbon_otel.advice.subject import Subject
from carbon_otel.advice.words import Advice, NothingFound
from carbon_otel.lifecycle.total import Total

NAME: Final = "poor trials"
_STARTUP: Final = 5
_SHOWN: Final = 3
_TRIALS: Final = "/trials"


class _Trial(NamedTuple):
    attempt: Attempt
    points: Sequence[Point]
    curve: Curve

    @property
    def half(self) -> int:
        """The place of the point at which the trial is judged."""
        return (len(self.points) - 1) // 2

    @property
    def end_ms(self) -> int:
        return self.attempt.end_ms or self.points[-1].at_ms

    def after_half(self) -> Total:
        """The energy of the second half, to the end of the run."""
        spent = self.curve.at(self.points[self.half].at_ms)
        whole_wh = self.curve.total_wh
        rest = (whole_wh - spent.wh, whole_wh - spent.high_wh, whole_wh - spent.low_wh)
        return part(self.attempt.entry, *rest)


def look(subject: Subject) -> Advice | NothingFound:
    """Replay the rule on each search: the runs that are nested in one run."""
    searches = _searches(subject)
    trials = sum(map(len, searches))
    if subject.metric is None or not trials:
        return NothingFound(NAME, _lacking(subject), lacking=True)
    metric = subject.metric
    stopped = [each for search in searches for each in _stopped(search, metric)]
    saved = total(each.after_half() for each in stopped)
    if saved.energy_wh <= 0:
        return NothingFound(
            NAME, f"a median pruner would have stopped none of {trials} trials at half of its steps"
        )
    lost = [best for search in searches if (best := _best(search, metric)) in stopped]
    keeps = "the best trial of each search goes on"
    if lost:
        keeps = f"it would have stopped {lost[0].attempt.name}, the best trial: the search would have lost it"
    worst = sorted(stopped, key=lambda each: each.after_half().energy_wh, reverse=True)
    return Advice(
        name=NAME,
        lever="mechanization",
        title=f"prune trials whose {metric.name} is worse than the median at half of their steps",
        verdict="costs quality" if lost else "saves" if saved.low_wh > 0 else "cannot be told apart",
        saved=saved,
        of=total(whole(each.attempt.entry) for search in searches for each in search),
        finding=(
            f"a median pruner would have stopped {len(stopped)} of {trials} trials; {keeps}",
            *(
                f"{each.attempt.name}: {energy_of(each.after_half())} after step {each.points[each.half].step}"
                for each in worst[:_SHOWN]
            ),
        ),
        source=f"history of {metric.name} in the nested runs, and their energy over time",
        verify="the same search with optuna.pruners.MedianPruner(n_startup_trials=5)",
        command=subject.command("compare", *_pair(searches, metric)),
    )


def _pair(searches: Sequence[Sequence[_Trial]], metric: Metric) -> tuple[str, str]:
    """The best trial of the largest search, and the last one, as an example of two to compare."""
    search = max(searches, key=len)
    best = _best(search, metric)
    other = next(each for each in reversed(search) if each is not best)
    return best.attempt.run_id, other.attempt.run_id


def _lacking(subject: Subject) -> str:
    searched = any(unit.endswith(_TRIALS) for each in subject.attempts for unit in each.entry.units)
    if searched:
        return "the trials are stages of one run: open a nested run in each, and log its metric at each step"
    return (
        f"no run has more than {_STARTUP} nested runs with a history of one metric and of their energy, so there "
        "is no search to replay"
    )


def _searches(subject: Subject) -> list[list[_Trial]]:
    """The trials of each search, in the order of time."""
    by_parent: dict[str, list[_Trial]] = defaultdict(list)
    metric = subject.metric
    for attempt in subject.attempts:
        if metric is None or attempt.parent is None or metric.name not in attempt.metrics:
            continue
        points = subject.histories.of(attempt.run_id, metric.name)
        curve = subject.histories.energy(attempt) if len(points) >= LEAST_POINTS else None
        if curve is not None and attempt.has_ended_well:
            by_parent[attempt.parent].append(_Trial(attempt, points, curve))
    return [trials for trials in by_parent.values() if len(trials) > _STARTUP]


def _best(search: Sequence[_Trial], metric: Metric) -> _Trial:
    best = search[0]
    for each in search:
        if metric.better(metric.best(each.points).value, metric.best(best.points).value):
            best = each
    return best


def _stopped(search: Sequence[_Trial], metric: Metric) -> list[_Trial]:
    """The trials that the rule stops."""
    stopped: dict[str, _Trial] = {}
    for trial in search:
        at = trial.points[trial.half]
        ended = [each for each in search if each.end_ms <= at.at_ms and each.attempt.run_id not in stopped]
        values = [point.value for each in ended for point in each.points if point.step == at.step]
        best = metric.best(trial.points[: trial.half + 1]).value
        if len(ended) >= _STARTUP and values and metric.better(statistics.median(values), best):
            stopped[trial.attempt.run_id] = trial
    return list(stopped.values())
