"""ONNX Runtime: runs of a session share the energy of the stage around them, as inference.

A run may take some microseconds, so it is no stage; one that lasts is. Units are samples: the first dimension of
the first input. `run_async` returns before the work is done: it stays with the stage around it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from carbon_otel.instrumentation.calls import Call, Calls
from carbon_otel.instrumentation.sizes import parts_in, samples


def _fed(arguments: Mapping[str, Any], result: Any) -> dict[str, float]:
    feed = parts_in(arguments["input_feed"])
    return samples(next(iter(feed.values()))) if feed else {}


ONNXRUNTIME: Final = (
    Calls(
        "onnxruntime.capi.onnxruntime_inference_collection",
        Call("Session.run", "inference", "InferenceSession.run", _fed, often=True),
        Call("Session.run_with_iobinding", "inference", "InferenceSession.run_with_iobinding", often=True),
        Call("Session.run_with_ort_values", "inference", "InferenceSession.run_with_ort_values", often=True),
    ),
)
