"""LightGBM, its native interface. The estimators of its scikit-learn interface are those of scikit-learn.

==================================  =================  ================
`lightgbm.train`, `lightgbm.cv`     `training`         rounds, samples
`Booster.refit`                     `training`         samples
`Booster.predict`                   `inference`        samples
`Dataset.construct`                 `data_processing`  samples
==================================  =================  ================

`Dataset(...)` does no work: that is done by `construct`, often in the training, which then pays for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from carbon_otel.instrumentation.calls import Call, Calls
from carbon_otel.instrumentation.sizes import samples


def rounds_of(estimator: Any, fit: Mapping[str, Any]) -> int:
    """The rounds of the last fit of an estimator of the scikit-learn interface, which had these keywords."""
    return _rounds(estimator.booster_, fit.get("init_model"))


def _rounds(booster: Any, before: Any) -> int:
    """The rounds that a training added to the model with which it began, if there is one."""
    total = int(booster.current_iteration())
    before = before.booster_ if hasattr(before, "booster_") else before
    if hasattr(before, "current_iteration"):
        return max(0, total - int(before.current_iteration()))
    # A file, or unknown here: only a training that goes on and stops early may have had fewer.
    return min(total, int(booster.params.get("num_iterations", total)))


def _trained(arguments: Mapping[str, Any], booster: Any) -> dict[str, float]:
    rounds = _rounds(booster, arguments["init_model"])
    return {"rounds": rounds, "samples": arguments["train_set"].num_data()}


def _validated(arguments: Mapping[str, Any], history: Any) -> dict[str, float]:
    # A list for each metric, with an entry for each round.
    rounds = next((len(values) for values in history.values() if type(values) is list), 0)
    return {"rounds": rounds, "samples": arguments["train_set"].num_data()}


def _data(arguments: Mapping[str, Any], result: Any) -> dict[str, float]:
    return samples(arguments["data"])


def _constructed(arguments: Mapping[str, Any], dataset: Any) -> dict[str, float]:
    return {"samples": dataset.num_data()}


LIGHTGBM: Final = (
    Calls(
        "lightgbm.engine",
        Call("train", "training", "lightgbm.train", _trained),
        Call("cv", "training", "lightgbm.cv", _validated),
    ),
    Calls(
        "lightgbm.basic",
        Call("Dataset.construct", "data_processing", units=_constructed),
        Call("Booster.refit", "training", units=_data),
        Call("Booster.predict", "inference", units=_data),
    ),
)
