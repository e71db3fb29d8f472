"""Which states of a segment become points of metrics: MLflow keeps each point as a row for ever.

The exact sums of every state are in a tag, which is replaced. A point is written

- for a curve, when it is a hundredth of the run's age after the last point: at every checkpoint at first, later
  less often, so a curve has about 850 points in a month;
- for a bar, at some later state, whenever the age of the run has doubled, and at the end.

MLflow's databases list the metrics of a run in the order in which they were first written. So none is written at
the first checkpoints: the user's metrics, such as the accuracy of the first epoch, come first.
"""

from __future__ import annotations

from typing import Final

_POINTS_BY_AGE: Final = 100
# With more curves, as for sixteen GPUs, each gets fewer points: about 15,000 points a month in all.
_POINTS_OF_ALL_CURVES: Final = 1500
_FEWEST_POINTS_BY_AGE: Final = 10
# The first states with points: after a minute and ten, by default.
_FIRST_CURVES: Final = 4
_FIRST_BARS: Final = 40
# A run with more bars, as for hundreds of kinds of stage, gets them at its end.
_MOST_BARS: Final = 100


class Sampling:
    """The points of one segment. `age_s` is the age of the run at its start: 0, or more if it was resumed."""

    def __init__(self, age_s: float = 0.0) -> None:
        self._begin_s = age_s
        self._curves_s: float | None = age_s or None
        self._bars_s: float | None = age_s or None
        self._states = 0

    def curves_due(self, elapsed_s: float, curves: int) -> bool:
        """Whether this state, `elapsed_s` after the start of the segment, gets points on that many curves."""
        if self._curves_s is None and self._states < _FIRST_CURVES:
            return False
        age_s = self._begin_s + elapsed_s
        points = max(_FEWEST_POINTS_BY_AGE, min(_POINTS_BY_AGE, _POINTS_OF_ALL_CURVES // max(curves, 1)))
        if self._curves_s is not None and age_s - self._curves_s < age_s / points:
            return False
        self._curves_s = age_s
        return True

    def bars_due(self, elapsed_s: float, bars: int) -> bool:
        """Whether this state gets points of that many bars before the end. Asked before `curves_due`."""
        self._states += 1
        if self._bars_s is None and self._states < _FIRST_BARS:
            return False
        age_s = self._begin_s + elapsed_s
        if bars > _MOST_BARS or (self._bars_s is not None and age_s < 2 * self._bars_s):
            return False
        self._bars_s = age_s
        return True
