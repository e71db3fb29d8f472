"""Reports the predictions of MLflow's models: `PyFuncModel.predict` and `predict_stream`.

Every kind of inference calls one of them: a loaded model, `mlflow models serve`, batch scoring, a Spark
worker.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextvars import Token
from types import ModuleType
from typing import Any, Final

from carbon_otel.guard import contain
from carbon_otel.instrumentation.base import Undo, replace
from carbon_otel.mlflow.standalone.inference import Predictions, Window
from carbon_otel.stages.open_stage import OpenStage

MODULE: Final = "mlflow.pyfunc"


def patch(module: ModuleType, predictions: Callable[[], Predictions | None]) -> Undo:
    """Patch MLflow. `predictions` returns the listener at each prediction, or None."""
    model: Any = module.PyFuncModel
    predict_once, predict_many = model.predict, model.predict_stream

    @functools.wraps(predict_once)
    def predict(self: Any, data: Any, *args: Any, **kwargs: Any) -> Any:
        listener = predictions()
        begun = contain("measuring a prediction", None, _begin, listener, self) if listener else None
        if listener is None or begun is None:
            return predict_once(self, data, *args, **kwargs)
        try:
            return predict_once(self, data, *args, **kwargs)
        finally:
            contain("measuring a prediction", None, _predicted, listener, *begun, data)

    @functools.wraps(predict_many)
    def predict_stream(self: Any, data: Any, *args: Any, **kwargs: Any) -> Iterator[Any]:
        listener = predictions()
        answers = predict_many(self, data, *args, **kwargs)
        first = True
        while True:
            begun = contain("measuring a prediction", None, _begin, listener, self) if listener else None
            try:
                answer = next(answers)
            except StopIteration:
                return
            finally:
                if listener is not None and begun is not None:
                    # A stream is one request, however many pieces it has.
                    contain(
                        "measuring a prediction", None, listener.predicted, *begun, int(first), int(first)
                    )
                first = False
            yield answer

    undos = [replace(model, "predict", predict), replace(model, "predict_stream", predict_stream)]

    def undo() -> None:
        for each in undos:
            each()

    return undo


def _begin(predictions: Predictions, model: Any) -> tuple[Window, Token[OpenStage | None]] | None:
    meta = model.metadata
    return predictions.predicting(model.model_id, getattr(meta, "run_id", None))


def _predicted(predictions: Predictions, window: Window, token: Token[OpenStage | None], data: Any) -> None:
    predictions.predicted(window, token, contain("counting the rows of a prediction", 1, _rows, data))


def _rows(data: Any) -> int:
    try:
        return 1 if isinstance(data, (str, bytes, dict)) else len(data)
    except TypeError:
        return 1
