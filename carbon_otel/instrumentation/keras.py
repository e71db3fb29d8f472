"""Keras 3, on PyTorch and on JAX.

=====================================  ============  ======================
`Model.fit`                            `training`    epochs, steps, samples
each epoch of it                       `training`
`Model.evaluate`, also inside `fit`    `evaluation`  samples
`Model.predict`                        `inference`   samples
=====================================  ============  ======================

Keras tells its list of callbacks where an epoch begins and ends. A callback of ours is not needed: one that is
told of batches would make each step twice as long.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping
from typing import Any, Final

from carbon_otel.instrumentation.calls import Call, Calls, Hook
from carbon_otel.instrumentation.children import EPOCH, Children, begins, children_of, ends
from carbon_otel.instrumentation.sizes import parts_in, samples_in, samples_in_batches


def _rows(x: Any) -> int | None:
    """The samples of an argument `x`: an array, or a list or a dict of arrays, one for each input of the model."""
    parts = parts_in(x)
    if parts is not None:
        x = next(iter(parts.values()), None)
    elif type(x) in (list, tuple) and len(x):
        x = x[0]
    return None if type(x) in (list, tuple) else samples_in(x)


def _fitted(arguments: Mapping[str, Any], history: Any) -> dict[str, float]:
    if history is None:  # an exception has ended it: its whole epochs count
        children = children_of(arguments["self"])
        if children is None or children.noted is None or not children.noted.epoch:
            return {}
        history = children.noted
    epochs = len(history.epoch)
    units: dict[str, float] = {"epochs": epochs}
    steps = history.params.get("steps")  # of an epoch; None if `x` does not tell
    if steps is not None:
        units["steps"] = steps * epochs
    rows = _rows(arguments["x"])
    if rows is not None:
        if arguments["validation_data"] is None:
            rows = int(rows * (1.0 - arguments["validation_split"]))
        batch = arguments["batch_size"] or _BATCH
        if arguments["steps_per_epoch"] is not None:
            rows = min(rows, arguments["steps_per_epoch"] * batch)
        units["samples"] = rows * epochs
    else:
        loaded = _loaded(arguments["x"], steps)
        if loaded is not None:
            units["samples"] = loaded * epochs
    return units


def _loaded(x: Any, steps: int | None) -> int | None:
    """The samples in so many batches of a `DataLoader`, or in all of them; None if `x` is none."""
    if steps is None and type(x) is getattr(sys.modules.get("torch.utils.data"), "DataLoader", None):
        steps = len(x)
    return None if steps is None else samples_in_batches(x, steps)


def _seen(steps: str, arguments: Mapping[str, Any], result: Any) -> dict[str, float]:
    rows = _rows(arguments["x"])
    if rows is None:
        loaded = _loaded(arguments["x"], arguments[steps])
        return {} if loaded is None else {"samples": loaded}
    if arguments[steps] is not None:
        rows = min(rows, arguments[steps] * (arguments["batch_size"] or _BATCH))
    return {"samples": rows}


# The size of a batch of arrays, if none is given.
_BATCH: Final = 32
_count: Final = functools.partial(_seen, "steps")


def _trainer(module: str, name: str) -> Calls:
    return Calls(
        module,
        Call(
            f"{name}.fit",
            "training",
            units=_fitted,
            admits=(EPOCH, "evaluation"),
            within=Children,
            counts_failed=True,
        ),
        Call(f"{name}.evaluate", "evaluation", units=_count),
        Call(f"{name}.predict", "inference", units=_count),
    )


def _begins(callbacks: Any, epoch: int, *_: Any) -> tuple[Any, str]:
    return callbacks.model, f"epoch {epoch + 1}"


def _history(model: Any) -> Any:
    """The history of the training that begins. Callbacks of the user may have none, but a fit always has one."""
    return getattr(model, "history", None)


def _ends(callbacks: Any, *_: Any) -> Any:
    return callbacks.model


KERAS: Final = (
    _trainer("keras.src.backend.torch.trainer", "TorchTrainer"),
    _trainer("keras.src.backend.jax.trainer", "JAXTrainer"),
    Calls(
        "keras.src.callbacks.callback_list",
        Hook("CallbackList.on_epoch_begin", begins(_begins, note=_history)),
        Hook("CallbackList.on_epoch_end", ends(_ends)),
    ),
)
