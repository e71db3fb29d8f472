"""XGBoost, its native interface. The estimators of its scikit-learn interface are those of scikit-learn.

====================================================  =================  ================
`xgboost.train`, `xgboost.cv`                         `training`         rounds, samples
`Booster.predict`, `Booster.inplace_predict`          `inference`        samples
`DMatrix`, `QuantileDMatrix`, `ExtMemQuantileDMatrix`  `data_processing`  samples
====================================================  =================  ================
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from carbon_otel.instrumentation.calls import Call, Calls
from carbon_otel.instrumentation.sizes import samples


def rounds_of(estimator: Any, fit: Mapping[str, Any]) -> int:
    """The rounds of the last fit of an estimator of the scikit-learn interface, which had these keywords."""
    return _rounds(estimator.get_booster(), fit.get("xgb_model"), estimator.get_num_boosting_rounds())


def _rounds(booster: Any, before: Any, most: int) -> int:
    """The rounds that a training added to the model with which it began, if there is one."""
    total = int(booster.num_boosted_rounds())
    if before is None:
        return total
    before = before.get_booster() if hasattr(before, "get_booster") else before
    if hasattr(before, "num_boosted_rounds"):
        return max(0, total - int(before.num_boosted_rounds()))
    return min(total, most)  # a file or its bytes: only a training that stops early may have had fewer


def _trained(arguments: Mapping[str, Any], booster: Any) -> dict[str, float]:
    rounds = _rounds(booster, arguments["xgb_model"], arguments["num_boost_round"])
    return {"rounds": rounds, "samples": arguments["dtrain"].num_row()}


def _validated(arguments: Mapping[str, Any], history: Any) -> dict[str, float]:
    # A row of the history for each round, in a data frame or a dict of lists.
    rounds = len(next(iter(history.values()))) if isinstance(history, dict) else len(history)
    return {"rounds": rounds, "samples": arguments["dtrain"].num_row()}


def _made(arguments: Mapping[str, Any], result: None) -> dict[str, float]:
    return {"samples": arguments["self"].num_row()}


def _predicted(arguments: Mapping[str, Any], result: Any) -> dict[str, float]:
    return {"samples": arguments["data"].num_row()}


def _predicted_in_place(arguments: Mapping[str, Any], result: Any) -> dict[str, float]:
    return samples(arguments["data"])


XGBOOST: Final = (
    Calls(
        "xgboost.training",
        Call("train", "training", "xgboost.train", _trained),
        Call("cv", "training", "xgboost.cv", _validated),
    ),
    Calls(
        "xgboost.core",
        Call("DMatrix.__init__", "data_processing", units=_made),
        Call("QuantileDMatrix.__init__", "data_processing", units=_made),
        Call("ExtMemQuantileDMatrix.__init__", "data_processing", units=_made),
        Call("Booster.predict", "inference", units=_predicted),
        Call("Booster.inplace_predict", "inference", units=_predicted_in_place),
    ),
)
