"""Energy after the best checkpoint, and what early stopping would have saved of it.

Early stopping ends a training when its metric has not improved for some steps in a row, its patience. It is
replayed on the histories of the runs, with the least patience, from 3 steps on, that keeps the best of each run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from carbon_otel.advice.amounts import NONE, counted, energy, energy_of, part, total, whole
from carbon_otel.advice.attempts import Attempt
from carbon_otel.advice.histories import Curve, Point
from carbon_otel.advice.quality import LEAST_POINTS, Metric
from carbon_otel.advice.subject import Subject
from carbon_otel.advice.words import Advice, NothingFound
from carbon_otel.lifecycle.total import Total

NAME: Final = "early stopping"
_LEAST_PATIENCE: Final = 3
# Of the energy of a run; less is used between the first and the last step only if all were logged at once.
_LEAST_SHARE: Final = 0.05
_SHOWN: Final = 3


class _Course(NamedTuple):
    """A run with its history; `best` is the place of the best point in it."""

    attempt: Attempt
    points: Sequence[Point]
    curve: Curve
    best: int

    def after(self, place: int) -> Total:
        """The energy from a point to the last one; none after that."""
        if place >= len(self.points) - 1:
            return NONE
        rest = self.curve.at(self.points[place].at_ms).until(self.curve.at(self.points[-1].at_ms))
        return part(self.attempt.entry, *rest)


def look(subject: Subject) -> Advice | NothingFound:
    """Replay early stopping."""
    metric = subject.metric
    if metric is None:
        reason = "no run has a metric of several steps whose name says what is better; log one in each epoch"
        return NothingFound(NAME, f"{reason}, such as val_loss, or name yours: --metric", lacking=True)
    courses, at_once = _courses(subject, metric)
    if not courses:
        reason = f"no run has a history of {metric.name} and of its energy"
        if at_once:
            reason = (
                f"{metric.name} was logged at once, not while the model was trained: its steps have no times"
            )
        return NothingFound(NAME, reason, lacking=True)
    patience = max(_LEAST_PATIENCE, *(_longest_wait(each, metric) for each in courses))
    saved = total(each.after(each.best + patience) for each in courses)
    after = total(each.after(each.best) for each in courses)
    runs = counted(len(courses), "run")
    if saved.energy_wh <= 0:
        used = f"{energy(after.energy_wh)} came after the best {metric.name} of {runs}"
        return NothingFound(NAME, f"{used}, and a patience of {patience} steps would have saved none of it")
    wasteful = sorted(courses, key=lambda each: each.after(each.best).energy_wh, reverse=True)
    return Advice(
        name=NAME,
        lever="mechanization",
        title=f"stop when {metric.name} has not improved for {patience} steps",
        verdict="saves" if saved.low_wh > 0 else "cannot be told apart",
        saved=saved,
        of=total(whole(each.attempt.entry) for each in courses),
        finding=(
            f"{energy_of(after)} came after the best {metric.name} of {runs}; a patience of {patience} steps "
            "keeps the best of each",
            *(_sentence(each, metric) for each in wasteful[:_SHOWN] if each.after(each.best).energy_wh > 0),
        ),
        source=f"history of {metric.name}, and energy of the runs over time",
        verify="a run with early stopping, against one without",
        command=subject.prove([wasteful[0].attempt]),
    )


def _sentence(course: _Course, metric: Metric) -> str:
    best, last = course.points[course.best], course.points[-1]
    return (
        f"{course.attempt.name}: {metric.name} was best at step {best.step} of {last.step} ({best.value:.4g}); "
        f"{energy_of(course.after(course.best))} came after it"
    )


def _courses(subject: Subject, metric: Metric) -> tuple[list[_Course], int]:
    """The runs with histories, and the number of those that have logged theirs at once."""
    found, at_once = [], 0
    for attempt in subject.attempts:
        points = subject.histories.of(attempt.run_id, metric.name) if metric.name in attempt.metrics else []
        curve = subject.histories.energy(attempt) if len(points) >= LEAST_POINTS else None
        if curve is None or curve.total_wh <= 0:
            continue
        used = curve.at(points[0].at_ms).until(curve.at(points[-1].at_ms))
        if used.wh < _LEAST_SHARE * curve.total_wh:
            at_once += 1
            continue
        found.append(_Course(attempt, points, curve, points.index(metric.best(points))))
    return found, at_once


def _longest_wait(course: _Course, metric: Metric) -> int:
    """The most steps from one improvement to the next, up to the best: the least patience that keeps it."""
    longest, improved, top = 0, 0, course.points[0].value
    for place, point in enumerate(course.points[: course.best + 1]):
        if metric.better(point.value, top):
            longest, improved, top = max(longest, place - improved), place, point.value
    return longest
