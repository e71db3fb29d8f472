"""scikit-learn: each outermost call on an estimator is a stage.

==========================================================  =================
`fit`, `partial_fit` of a predictor                         `training`
`fit`, `partial_fit` of a transformer without `predict`     `data_processing`
`transform`, `fit_transform`                                `data_processing`
`predict`, `predict_proba`                                  `inference`
`score`                                                     `evaluation`
==========================================================  =================

Pipelines, searches and ensembles call methods of their parts; these calls belong to the stage of the outermost
call. Calls inside a lifecycle stage of the user belong to that stage. If an MLflow run begins inside a call
(autologging may start one), the next call inside the run is a stage of the run.

The methods are replaced on the classes, by functions of the same name, signature and docstring. Estimators are not
changed, so cloning and pickling work as before.
"""

from __future__ import annotations

import functools
import importlib
import types
from collections.abc import Callable
from contextvars import ContextVar
from types import ModuleType
from typing import Any, Final, cast

from carbon_otel.guard import contain
from carbon_otel.instrumentation.base import Undo, replace, undo_all
from carbon_otel.stages.api import LIFECYCLE, covered, stage

_KINDS: Final = {
    "fit": "training",
    "partial_fit": "training",
    "transform": "data_processing",
    "fit_transform": "data_processing",
    "predict": "inference",
    "predict_proba": "inference",
    "score": "evaluation",
}

# True in scikit-learn's worker threads, which do not inherit the context of the caller.
_in_worker: ContextVar[bool] = ContextVar("carbon_otel_sklearn_worker", default=False)


class SklearnIntegration:
    """Instruments every existing estimator class, and each later one at its definition."""

    module = "sklearn.base"

    def connect(self, module: ModuleType) -> Undo:
        base: Any = module.BaseEstimator
        undos: list[Undo] = []
        seen: set[type] = set()

        def instrument(cls: type) -> None:
            for owner in cls.__mro__:
                if owner not in seen and owner is not object:
                    seen.add(owner)
                    undos.extend(_instrument_class(owner))

        def instrument_below(cls: type[Any]) -> None:
            instrument(cls)
            for below in cls.__subclasses__():
                instrument_below(below)

        original: Callable[..., None] = base.__init_subclass__.__func__

        @functools.wraps(original)
        def __init_subclass__(cls: type[Any], /, **kwargs: Any) -> None:  # noqa: N807 - the name of the replaced method
            original(cls, **kwargs)
            contain("instrumenting an estimator class", None, instrument, cls)

        undos.append(_mark_workers())
        undos.append(replace(base, "__init_subclass__", classmethod(cast(Any, __init_subclass__))))
        instrument_below(base)
        return undo_all(undos)


def _mark_workers() -> Undo:
    """Let the work in scikit-learn's worker threads belong to the call that started it."""
    parallel = importlib.import_module("sklearn.utils.parallel")
    original = parallel._FuncWrapper.__call__

    @functools.wraps(original)
    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N807 - the name of the replaced method
        token = _in_worker.set(True)
        try:
            return original(self, *args, **kwargs)
        finally:
            _in_worker.reset(token)

    return replace(parallel._FuncWrapper, "__call__", __call__)


def _instrument_class(owner: type) -> list[Undo]:
    own = vars(owner)
    undos = []
    for method in _KINDS:
        attribute = own.get(method)
        if isinstance(attribute, types.FunctionType):
            undos.append(replace(owner, method, _measured(method, attribute)))
        elif attribute is not None and hasattr(type(attribute), "__get__") and hasattr(attribute, "fn"):
            undos.append(replace(owner, method, _MeasuredIfAvailable(method, attribute)))
    return undos


def _measured(method: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if _in_worker.get() or covered(LIFECYCLE):
            return function(self, *args, **kwargs)
        with stage(_kind(method, self), f"{type(self).__name__}.{method}"):
            return function(self, *args, **kwargs)

    return call


class _MeasuredIfAvailable:
    """A measured method behind scikit-learn's `available_if`, which decides whether the method exists."""

    def __init__(self, method: str, descriptor: Any) -> None:
        self._method = method
        self._descriptor = descriptor
        functools.update_wrapper(self, descriptor)  # type: ignore[arg-type] # a descriptor is no function

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        bound = self._descriptor.__get__(instance, owner)
        if instance is None:
            return _measured(self._method, bound)
        return types.MethodType(_measured(self._method, bound.__func__), instance)


def _kind(method: str, estimator: Any) -> str:
    kind = _KINDS[method]
    if kind == "training" and hasattr(estimator, "transform") and not hasattr(estimator, "predict"):
        return "data_processing"
    return kind
