"""The cost of a loop at the end of its progress bar: `3.20 Wh, 1.21 g`. Only with the setting `progress_bars`.

==========================  =========================================================================
tqdm, and what derives      after the postfix of the program, which stays its own: `bar.postfix` and
from it (Lightning, …)      `set_postfix` are not touched
rich (Lightning's, too)     in a further column
==========================  =========================================================================

The figures are those of the process since the bar began. They are read once a second, whatever the number of bars
and of their refreshes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import ModuleType
from typing import Any, Final, NamedTuple
from weakref import WeakKeyDictionary

from carbon_otel import clock, quantities, runtime
from carbon_otel.guard import contain
from carbon_otel.instrumentation.base import Undo, replace

_EVERY_S: Final = 1.0
# What was used before a bar began or after it has ended is not the bar's.
_AT_EDGE_S: Final = 0.02


class _Spent(NamedTuple):
    """What the measurement of the process has counted at a moment; `by` tells one measurement from another."""

    by: runtime.Measurement | None
    at_s: float
    energy_j: float
    emissions_g: float


_NOTHING: Final = _Spent(None, float("-inf"), 0.0, 0.0)


class _Bar:
    """A bar: when it began, what had been spent then, and its last text with the reading that it is of."""

    __slots__ = ("began", "ended", "of", "since", "text")

    def __init__(self, began: Any, since: _Spent) -> None:
        self.began = began
        self.since = since
        self.of: _Spent | None = None
        self.ended = False
        self.text = ""


class _Costs:
    """The costs of bars since they began. A bar that is reset begins again; one that has ended costs no more."""

    def __init__(self) -> None:
        self._now = _NOTHING
        # By bar, or by the display of several bars, and there by key.
        self._bars: WeakKeyDictionary[Any, dict[Any, _Bar]] = WeakKeyDictionary()

    def text(self, owner: Any, key: Any, began: Any, *, ended: bool = False) -> str:
        """The cost of a bar; empty while nothing is measured. `began` changes with each begin of the bar."""
        bars = self._bars.get(owner)
        if bars is None:
            bars = self._bars[owner] = {}
        bar = bars.get(key)
        if bar is not None and bar.ended and bar.began == began:
            return bar.text
        now = self._spent(_AT_EDGE_S if bar is None or ended else _EVERY_S)
        # A bar may be drawn before it notes when it begins.
        if bar is None or bar.began not in (None, began) or bar.since.by is not now.by:
            now = self._spent(_AT_EDGE_S)
            bar = bars[key] = _Bar(began, now)
        bar.began, bar.ended = began, ended
        if now is not bar.of and now.by is not None:
            joules, grams = now.energy_j - bar.since.energy_j, now.emissions_g - bar.since.emissions_g
            bar.of, bar.text = now, _text(joules, grams)
        return bar.text

    def _spent(self, every_s: float) -> _Spent:
        measurement, now_s = runtime.begun(), clock.monotonic()
        if measurement is not self._now.by or now_s - self._now.at_s >= every_s:
            if measurement is None or not measurement.options.settings.progress_bars:
                self._now = _NOTHING._replace(at_s=now_s)
            else:
                cost = measurement.footprint()
                self._now = _Spent(measurement, now_s, cost.energy_j, cost.emissions_g)
        return self._now


def _text(joules: float, grams: float) -> str:
    # Nothing for NaN, too: nothing could be read.
    return f"{quantities.energy(joules)}, {quantities.emissions(grams)}" if joules > 0 else ""


class TqdmBars:
    """Adds the cost to what a bar of tqdm is drawn of."""

    module = "tqdm.std"

    def connect(self, module: ModuleType) -> Undo:
        costs, before = _Costs(), vars(module.tqdm)["format_dict"]
        original = before.fget

        def format_dict(bar: Any) -> Any:
            drawn = original(bar)
            contain("showing a cost in a bar", None, _add_postfix, costs, bar, drawn)
            return drawn

        return replace(module.tqdm, "format_dict", property(format_dict, doc=before.__doc__))


def _add_postfix(costs: _Costs, bar: Any, drawn: Any) -> None:
    postfix = drawn["postfix"]
    if postfix is not None and not isinstance(postfix, str):
        return  # for a `bar_format` of the program
    cost = costs.text(bar, None, getattr(bar, "start_t", None), ended=bar.disable)
    if cost:
        drawn["postfix"] = f"{postfix}, {cost}" if postfix else cost


class RichBars:
    """Adds a column to the table that a display of rich is drawn of."""

    module = "rich.progress"

    def connect(self, module: ModuleType) -> Undo:
        column, original = _column(module, _Costs()), module.Progress.make_tasks_table

        def make_tasks_table(progress: Any, tasks: Any) -> Any:
            with_costs = contain("showing a cost in a bar", progress, _with_column, column, progress)
            return original(with_costs, tasks)

        return replace(module.Progress, "make_tasks_table", make_tasks_table)


def _column(module: ModuleType, costs: _Costs) -> Callable[[Any], Any]:
    """The class of the column; each is one of the display that it is made for."""

    class CostColumn(module.ProgressColumn):  # type: ignore[misc, name-defined] # a class of the library
        def __init__(self, progress: Any) -> None:
            super().__init__(table_column=module.Column(no_wrap=True))
            self._progress = progress

        def render(self, task: Any) -> Any:
            return module.Text(
                contain("showing a cost in a bar", "", self._text, task), "progress.data.speed"
            )

        def _text(self, task: Any) -> str:
            return costs.text(self._progress, task.id, task.start_time, ended=task.finished)

    return CostColumn


def _with_column(column: Callable[[Any], Any], progress: Any) -> Any:
    """A copy of the display with one column more: another thread may draw the same one, or change its columns."""
    shown = copy.copy(progress)
    shown.columns = (*progress.columns, column(progress))
    return shown


BARS: Final = (TqdmBars(), RichBars())
