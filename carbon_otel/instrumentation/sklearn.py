"""scikit-learn: each outermost call on an estimator is a stage, and each cross-validation.

==============================================================  =================
`fit`, `partial_fit`, `fit_predict` of a predictor              `training`
`fit`, `partial_fit` of a transformer without `predict`         `data_processing`
`transform`, `fit_transform`, `inverse_transform`               `data_processing`
`fit_resample` (imbalanced-learn)                               `data_processing`
`predict`, `predict_proba`, `predict_log_proba`,                `inference`
`decision_function`, `score_samples`, `kneighbors`,
`radius_neighbors`
`score`                                                         `evaluation`
`cross_validate`, `cross_val_score`, `cross_val_predict`,       `training`
`learning_curve`, `validation_curve`, `permutation_test_score`
`permutation_importance`                                        `evaluation`
==============================================================  =================

A cross-validation is `training`, as a search is: it fits a model on each fold, which costs more than the scores,
and its processes do not tell the two apart. The same folds in a loop of yours are `training` and `evaluation`.

Predictions and transformations that come often share what the stage around them pays (`stages/frequent.py`).

Pipelines, searches and ensembles call methods of their parts; these calls belong to the stage of the outermost
call. Calls inside a lifecycle stage of the user belong to that stage. If an MLflow run begins inside a call
(autologging may start one), the next call inside the run is a stage of the run.

The code of the functions is changed, see `in_place.py`: classes, functions and estimators stay the same objects,
so pickling, cloning and patches of others work as before. Nothing is asked of an estimator: its class is looked up
statically, because an attribute or an operator of a user's class may do anything.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import weakref
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, Final, cast

from carbon_otel.guard import contain, log_fault
from carbon_otel.instrumentation import lightgbm, xgboost
from carbon_otel.instrumentation.base import Undo
from carbon_otel.instrumentation.calls import Call, Calls, name_of_type
from carbon_otel.instrumentation.in_place import After, Around, AroundOutermost, Changed, Entered
from carbon_otel.instrumentation.sizes import samples
from carbon_otel.stages.arguments import Lifecycle
from carbon_otel.stages.automatic import around
from carbon_otel.stages.frequent import FREQUENT, around_frequent

_METHODS: Final[Mapping[str, Lifecycle]] = {
    "fit": "training",
    "partial_fit": "training",
    "fit_predict": "training",
    "transform": "data_processing",
    "fit_transform": "data_processing",
    "inverse_transform": "data_processing",
    "fit_resample": "data_processing",
    "predict": "inference",
    "predict_proba": "inference",
    "predict_log_proba": "inference",
    "decision_function": "inference",
    "score_samples": "inference",
    "kneighbors": "inference",
    "radius_neighbors": "inference",
    "score": "evaluation",
}
# Libraries whose estimators know the rounds of their last fit.
_ROUNDS: Final[Mapping[str, Callable[[Any, Mapping[str, Any]], int]]] = {
    "lightgbm": lightgbm.rounds_of,
    "xgboost": xgboost.rounds_of,
}
_DEEPEST: Final = 20

# As `type` reads them, whatever a metaclass says about them.
_parents_of: Final = type.__dict__["__mro__"].__get__
_attributes_of: Final = type.__dict__["__dict__"].__get__


class SklearnIntegration:
    """Instruments every existing estimator class, and each later one when it is defined or first unpickled."""

    module = "sklearn.base"
    calls = tuple(Call(method, kind, f"estimator.{method}") for method, kind in _METHODS.items())

    def connect(self, module: ModuleType) -> Undo:
        changed = Changed()
        _Classes(module.BaseEstimator, changed).connect()
        return changed.undo


def _samples(arguments: Mapping[str, Any], result: Any) -> dict[str, float]:
    return samples(arguments["X"])


FUNCTIONS: Final = (
    Calls(
        "sklearn.model_selection._validation",
        Call("cross_validate", "training", "cross_validate", _samples),
        Call("cross_val_score", "training", "cross_val_score", _samples),
        Call("cross_val_predict", "training", "cross_val_predict", _samples),
        Call("learning_curve", "training", "learning_curve", _samples),
        Call("validation_curve", "training", "validation_curve", _samples),
        Call("permutation_test_score", "training", "permutation_test_score", _samples),
    ),
    Calls(
        "sklearn.inspection._permutation_importance",
        Call("permutation_importance", "evaluation", "permutation_importance", _samples),
    ),
)


class _Classes:
    """The estimator classes, and what happens when another one appears."""

    def __init__(self, base: type, changed: Changed) -> None:
        self._base = base
        self._changed = changed
        self._around = {method: AroundOutermost(_enter_method, base, method) for method in _METHODS}
        self._descriptors: dict[type, str] = {property: "fget", _available_if(): "fn"}
        self._defined = _Seen()
        self._unpickled = _Seen()

    def connect(self) -> None:
        pending: list[type] = [self._base]
        while pending:
            cls = pending.pop()
            pending += type.__subclasses__(cls)
            self._instrument(cls, self._defined)
        base: Any = self._base
        self._changed.put(base.__init_subclass__.__func__, Around(_define, self))
        self._changed.put(base.__setstate__, Around(self.unpickle))

    def define(self, cls: type) -> None:
        # Subclasses of a parent of the base call this, too.
        if issubclass(cls, self._base):
            self._instrument(cls, self._defined)

    def unpickle(self, estimator: Any = None, /, *_: Any) -> None:
        """A class that is pickled by value gets its methods after its definition, but before its objects."""
        cls = type(estimator)
        if cls not in self._unpickled:
            contain("instrumenting an estimator class", None, self._instrument, cls, self._unpickled)

    def _instrument(self, cls: type, seen: _Seen) -> None:
        for owner in _parents_of(cls):
            if owner is not object and owner not in seen:
                seen.add(owner)
                own = _attributes_of(owner)
                for method, around in self._around.items():
                    if method in own:
                        self._changed.put(own[method], around, self._descriptors)


class _Seen:
    """A set of classes, which keeps none of them alive. By id, because a metaclass may define `==` and a hash."""

    def __init__(self) -> None:
        self._classes: dict[int, weakref.ref[type]] = {}

    def __contains__(self, cls: type) -> bool:
        seen = self._classes.get(id(cls))
        return seen is not None and seen() is cls

    def add(self, cls: type) -> None:
        self._classes[id(cls)] = weakref.ref(cls, functools.partial(self._forget, id(cls)))

    def _forget(self, key: int, reference: weakref.ref[type]) -> None:
        if self._classes.get(key) is reference:
            del self._classes[key]


def _define(classes: _Classes, cls: Any = None, /, *_: Any, **__: Any) -> Entered | None:
    """A class is instrumented at the end of its `__init_subclass__`."""
    return After("instrumenting an estimator class", classes.define, cls)


def _enter_method(
    base: type, method: str, estimator: Any = None, /, *args: Any, **kwargs: Any
) -> Entered | None:
    # Not `contain`, because inner calls come by the thousand.
    try:
        # A function that became a method may be called with anything.
        if not issubclass(type(estimator), base):
            return None
        units = functools.partial(_units, estimator, method, args[0] if args else kwargs.get("X"), kwargs)
        name = f"{name_of_type(type(estimator))}.{method}"
        kind = _kind(method, estimator)
        return around_frequent(kind, name, units) if kind in FREQUENT else around(kind, name, units)
    except Exception as fault:  # noqa: BLE001 - no internal fault may reach the user's program
        log_fault("opening a stage", fault)
        return None


def _units(
    estimator: Any, method: str, data: Any, keywords: Mapping[str, Any], result: Any
) -> dict[str, float]:
    units = samples(data)
    if method == "fit":
        libraries = {owner.__module__.partition(".")[0] for owner in _parents_of(type(estimator))}
        for library in libraries & _ROUNDS.keys():
            units["rounds"] = _ROUNDS[library](estimator, keywords)
    return units


def _kind(method: str, estimator: Any) -> Lifecycle:
    if method in ("fit", "partial_fit") and _has(estimator, "transform") and not _has(estimator, "predict"):
        return "data_processing"
    return _METHODS[method]


def _has(estimator: Any, method: str, depth: int = 0) -> bool:
    """Whether the estimator has the method; a pipeline or a search may have it from its part."""
    if type(estimator) is str:
        return method == "transform"  # "passthrough", a step of a pipeline
    for owner in _parents_of(type(estimator)):
        if method in _attributes_of(owner):
            conditional = type(_attributes_of(owner)[method]) is _available_if()
            part = _part(estimator) if conditional and depth < _DEEPEST else None
            return part is None or _has(part, method, depth + 1)
    return False


def _part(estimator: Any) -> Any:
    """The estimator to which a pipeline or a search delegates; None if it is not known."""
    steps = inspect.getattr_static(estimator, "steps", None)
    if type(steps) is list and steps and type(steps[-1]) is tuple and len(steps[-1]) > 1:
        return steps[-1][1]
    return inspect.getattr_static(estimator, "estimator", None)


def _available_if() -> type:
    """The type of methods that exist under a condition."""
    return cast(type, importlib.import_module("sklearn.utils._available_if")._AvailableIfDescriptor)
