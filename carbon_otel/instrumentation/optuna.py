"""Optuna: a study is a training, and each trial in it a stage, in which anything may be a stage.

=====================================  ============  ======
`Study.optimize`                       `training`    trials
each trial of it, `trial 0` and so on  `training`
=====================================  ============  ======

A trial begins when the study has a number for it, and ends with what is told of its result. A pruned trial is no
error; nor is one whose error is in `catch`. Callbacks of the study are not used: they read each trial again from
the storage, and are not called for an objective that raises.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any, Final

from carbon_otel.guard import contain
from carbon_otel.instrumentation.calls import Call, Calls, Hook
from carbon_otel.instrumentation.children import TRIAL, Children, children_of
from carbon_otel.stages.arguments import LIFECYCLE
from carbon_otel.stages.automatic import count_part


class _Asked:
    """Around `Study.ask`: the trial that it returns begins."""

    __slots__ = ("_study",)

    def __init__(self, study: Any) -> None:
        self._study = study

    def __enter__(self) -> Callable[[Any], Any]:
        return self._begin

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def _begin(self, trial: Any) -> Any:
        contain("opening the stage of a trial", None, self._opened, trial)
        return trial

    def _opened(self, trial: Any) -> None:
        children = children_of(self._study)
        # An objective may ask for other trials itself.
        if children is not None and children.noted is None:
            children.noted = trial.number
            count_part(TRIAL, "training", {"trials": 1})
            children.begin(TRIAL, f"trial {trial.number}")


def _ask(study: Any, *_: Any, **__: Any) -> _Asked:
    return _Asked(study)


def _run(study: Any, *_: Any, **__: Any) -> Children:
    # On the thread of the trial: with several jobs that is one of a pool, which has the stage of the study.
    return Children(study)


OPTUNA: Final = (
    Calls(
        "optuna.study.study",
        Call("Study.optimize", "training", admits=(*LIFECYCLE, TRIAL)),
        Hook("Study.ask", _ask),
    ),
    Calls("optuna.study._optimize", Hook("_run_trial", _run)),
)
