"""CatBoost: its own interface, and its estimators, which are not those of scikit-learn.

==========================================================  =================  ================
`fit`, `catboost.train`, `catboost.cv`                      `training`         rounds, samples
`grid_search`, `randomized_search`                          `training`         samples
`predict`, `predict_proba`, `predict_log_proba`             `inference`        samples
`score`, `eval_metrics`                                     `evaluation`       samples
`Pool`                                                      `data_processing`  samples
==========================================================  =================  ================
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any, Final

from carbon_otel.instrumentation.calls import Call, Calls
from carbon_otel.instrumentation.sizes import samples


def _samples(data: Any) -> dict[str, float]:
    pool = sys.modules["catboost.core"].Pool
    return {"samples": data.num_row()} if isinstance(data, pool) else samples(data)


def _samples_of(parameter: str) -> Callable[[Mapping[str, Any], Any], dict[str, float]]:
    def count(arguments: Mapping[str, Any], result: Any) -> dict[str, float]:
        return _samples(arguments[parameter])

    return count


def _rounds(model: Any, before: Any) -> dict[str, float]:
    """The rounds that a training added to the model with which it began, if there is one."""
    if before is None:
        return {"rounds": model.tree_count_}
    if hasattr(before, "tree_count_"):
        return {"rounds": max(0, model.tree_count_ - before.tree_count_)}
    return {}  # a file does not tell


def _fitted(arguments: Mapping[str, Any], model: Any) -> dict[str, float]:
    return {**_rounds(model, arguments["init_model"]), **_samples(arguments["X"])}


def _trained(arguments: Mapping[str, Any], model: Any) -> dict[str, float]:
    pool, alias = arguments["pool"], arguments["dtrain"]
    return {**_rounds(model, arguments["init_model"]), **_samples(alias if pool is None else pool)}


def _validated(arguments: Mapping[str, Any], history: Any) -> dict[str, float]:
    pool, alias = arguments["pool"], arguments["dtrain"]
    return _samples(alias if pool is None else pool)


def _made(arguments: Mapping[str, Any], result: None) -> dict[str, float]:
    return {"samples": arguments["self"].num_row()}


_CLASSES: Final = "CatBoost", "CatBoostClassifier", "CatBoostRegressor", "CatBoostRanker"
# The name of the first parameter differs between the classes.
_PREDICTIONS: Final = (
    ("CatBoost.predict", "data"),
    ("CatBoostClassifier.predict", "data"),
    ("CatBoostClassifier.predict_proba", "X"),
    ("CatBoostClassifier.predict_log_proba", "data"),
    ("CatBoostRegressor.predict", "data"),
    ("CatBoostRanker.predict", "X"),
)

CATBOOST: Final = (
    Calls(
        "catboost.core",
        Call("train", "training", "catboost.train", _trained),
        Call("cv", "training", "catboost.cv", _validated),
        *(Call(f"{name}.fit", "training", units=_fitted) for name in _CLASSES),
        Call("CatBoost.grid_search", "training", units=_samples_of("X")),
        Call("CatBoost.randomized_search", "training", units=_samples_of("X")),
        *(Call(name, "inference", units=_samples_of(data)) for name, data in _PREDICTIONS),
        *(Call(f"{name}.score", "evaluation", units=_samples_of("X")) for name in _CLASSES[1:]),
        Call("CatBoost.eval_metrics", "evaluation", units=_samples_of("data")),
        Call("Pool.__init__", "data_processing", units=_made),
    ),
)
