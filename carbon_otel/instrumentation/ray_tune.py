"""Ray Tune: a run is a training, and each trial in it a stage. The driver tells of them by a callback of Tune.

====================================  ============  ======
`tune.run`, which `Tuner.fit` calls   `training`    trials
each trial of it                      `training`
====================================  ============  ======

Trials run in actors at the same time, and share the energy of this host equally. What is a stage in an actor is
measured there, if carbon_otel is. A trial begins where Tune starts its actor, and ends with it; one that is paused
stays open. The callback is added to those that Tune makes itself: nothing of the user's is changed.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType, TracebackType
from typing import Any, Final

from carbon_otel.guard import contain
from carbon_otel.instrumentation.base import Undo
from carbon_otel.instrumentation.calls import Call, Calls
from carbon_otel.instrumentation.children import TRIAL
from carbon_otel.instrumentation.in_place import Around, Changed
from carbon_otel.stages.arguments import LIFECYCLE
from carbon_otel.stages.automatic import count_part, part_beside
from carbon_otel.stages.open_stage import OpenStage, current


class CallbackIntegration:
    """Adds the callback to those of a run."""

    module = "ray.tune.utils.callback"

    def connect(self, module: ModuleType) -> Undo:
        # A class of Tune's own kind: its list looks at the class.
        kind = type("Trials", (_Trials, module.Callback), {})
        changed = Changed()
        changed.put(vars(module).get("_create_default_callbacks"), Around(_Adding, kind))
        return changed.undo


RAY_TUNE: Final = (
    Calls("ray.tune.tune", Call("run", "training", "tune.run", admits=(*LIFECYCLE, TRIAL))),
    CallbackIntegration(),
)


class _Adding:
    """Around the call that makes the callbacks of a run."""

    __slots__ = ("_kind",)

    def __init__(self, kind: Callable[[OpenStage], _Trials], *_: Any, **__: Any) -> None:
        self._kind = kind

    def __enter__(self) -> Callable[[Any], Any]:
        return self._add

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def _add(self, callbacks: Any) -> Any:
        stage = current.get()
        if stage is not None:
            contain("watching the trials of Ray Tune", None, lambda: callbacks.append(self._kind(stage)))
        return callbacks


class _Trials:
    """The open trials of one run, by their ids. Tune calls the methods in the thread of `tune.run`."""

    def __init__(self, run: OpenStage) -> None:
        self._run = run
        self._open: dict[str, OpenStage | None] = {}

    def on_trial_start(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
        contain("opening the stage of a trial", None, self._begin, trial.trial_id)

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
        self._end(trial.trial_id)

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
        self._end(trial.trial_id, RuntimeError(f"trial {trial.trial_id} failed"))

    def on_trial_recover(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
        self._end(trial.trial_id, RuntimeError(f"trial {trial.trial_id} failed, and is tried again"))

    def on_experiment_end(self, trials: Any, **_: Any) -> None:
        for name in tuple(self._open):
            self._end(name)

    def _begin(self, name: str) -> None:
        if name not in self._open:  # else it goes on after a pause
            self._open[name] = part_beside(self._run, TRIAL, f"trial {name}")
            count_part(TRIAL, "training", {"trials": 1})

    def _end(self, name: str, error: BaseException | None = None) -> None:
        stage = self._open.pop(name, None)
        if stage is not None:
            contain("closing the stage of a trial", None, stage.engine.close, stage, error)
