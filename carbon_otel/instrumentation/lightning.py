"""Lightning 2, in both packages: `lightning.pytorch` and `pytorch_lightning`.

=========================================  ============  ===============================
`Trainer.fit`                              `training`    epochs, steps, batches, samples
each epoch of it                           `training`
a validation of it                         `evaluation`  samples
`Trainer.validate`, `Trainer.test`         `evaluation`  samples
`Trainer.predict`                          `inference`   samples
=========================================  ============  ===============================

The loop of a fit has functions for the beginning and the end of an epoch. A callback of ours would be asked at
each batch, and would have to be pickled where a strategy starts processes. The programs that the strategy `ddp`
starts, and the processes of `ddp_spawn`, work for the stage and the run of the call that starts them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Final

from carbon_otel.instrumentation.calls import Call, Calls, Hook
from carbon_otel.instrumentation.children import EPOCH, Children, begins, children_of, ends
from carbon_otel.instrumentation.in_place import Entered, unseen
from carbon_otel.instrumentation.sizes import samples_in_batches
from carbon_otel.stages.api import inject


def _done(trainer: Any) -> dict[str, int]:
    """What the trainer has done so far, with what a checkpoint has brought."""
    batches = trainer.fit_loop.epoch_loop.batch_progress.total.completed
    return {"epochs": trainer.current_epoch, "steps": trainer.global_step, "batches": batches}


def _fitted(arguments: Mapping[str, Any], result: None) -> dict[str, float]:
    trainer = arguments["self"]
    children = children_of(trainer)
    if children is None or children.noted is None:
        return {}
    done = _done(trainer)
    units: dict[str, float] = {unit: done[unit] - before for unit, before in children.noted.items()}
    samples = samples_in_batches(trainer.train_dataloader, int(units["batches"]))
    return units if samples is None else {**units, "samples": samples}


def _samples(loaders: Any, batches: Any) -> dict[str, float]:
    """The samples of one loader, or of a list of them; nothing, if one of them does not tell."""
    if type(loaders) is not list:
        loaders = [loaders]
    counts = [
        samples_in_batches(loader, int(number)) for loader, number in zip(loaders, batches, strict=False)
    ]
    return {} if None in counts else {"samples": sum(filter(None, counts))}


def _in_fit(arguments: Mapping[str, Any], result: Any) -> dict[str, float]:
    loop = arguments["self"]
    return _samples(loop.trainer.val_dataloaders, loop.max_batches)


def _in(task: str) -> Callable[[Mapping[str, Any], Any], dict[str, float]]:
    def count(arguments: Mapping[str, Any], result: Any) -> dict[str, float]:
        trainer, loaders = arguments["self"], arguments["dataloaders"]
        if loaders is None:  # those of the module; a prediction has them in another form
            loaders = getattr(trainer, f"{task}_dataloaders")
        return _samples(loaders, getattr(trainer, f"num_{task}_batches"))

    return count


def _begins(loop: Any) -> tuple[Any, str]:
    return loop.trainer, f"epoch {loop.trainer.current_epoch + 1}"


def _ends(loop: Any) -> Any:
    return loop.trainer


def _launch(*_: Any, **__: Any) -> Entered | None:
    return _Launching()


class _Launching:
    """The programs of the other ranks get a copy of the environment: with the stage and the run of rank 0."""

    __slots__ = ("_before",)

    def __init__(self) -> None:
        self._before: dict[str, str | None] = {}

    def __enter__(self) -> Callable[[Any], Any]:
        variables = inject({})
        self._before = {name: os.environ.get(name) for name in variables}
        os.environ.update(variables)
        return unseen

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name, text in self._before.items():
            if text is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = text


def _package(name: str) -> tuple[Calls, ...]:
    return (
        Calls(
            f"{name}.trainer.trainer",
            Call(
                "Trainer.fit",
                "training",
                units=_fitted,
                admits=(EPOCH, "evaluation"),
                within=Children,
                counts_failed=True,
            ),
            Call("Trainer.validate", "evaluation", units=_in("val")),
            Call("Trainer.test", "evaluation", units=_in("test")),
            Call("Trainer.predict", "inference", units=_in("predict")),
            # What a process of `ddp_spawn` runs. Inside of the calls above, these are no stages.
            Call(
                "Trainer._fit_impl",
                "training",
                "Trainer.fit",
                _fitted,
                admits=(EPOCH, "evaluation"),
                within=Children,
                counts_failed=True,
            ),
            Call("Trainer._validate_impl", "evaluation", "Trainer.validate", _in("val")),
            Call("Trainer._test_impl", "evaluation", "Trainer.test", _in("test")),
            Call("Trainer._predict_impl", "inference", "Trainer.predict", _in("predict")),
        ),
        Calls(
            f"{name}.loops.fit_loop",
            Hook("_FitLoop.on_advance_start", begins(_begins, note=_done)),
            Hook("_FitLoop.on_advance_end", ends(_ends)),
        ),
        Calls(
            f"{name}.loops.evaluation_loop",
            Call("_EvaluationLoop.run", "evaluation", "validation", _in_fit),
        ),
        Calls(
            f"{name}.strategies.launchers.subprocess_script",
            Hook("_SubprocessScriptLauncher._call_children_scripts", _launch),
        ),
    )


LIGHTNING: Final = (*_package("lightning.pytorch"), *_package("pytorch_lightning"))
