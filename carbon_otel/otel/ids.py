"""Ids of spans that have nothing to do with the numbers that a program draws.

The SDK draws its ids from the generator of the module `random`. A program that seeds it, as trainers do, would get
spans of the same id again, in one trace; and each stage would change the numbers that the program draws next.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from carbon_otel import batch_job
from carbon_otel.ranks import group


def own_ids(tracer: Any) -> None:
    """Let the tracer make its ids so, if it would draw them from the program's generator."""
    sdk: Any = sys.modules.get("opentelemetry.sdk.trace.id_generator")
    if sdk is not None and type(getattr(tracer, "id_generator", None)) is sdk.RandomIdGenerator:
        tracer.id_generator = _Ids()


class _Ids:
    """The interface of the SDK's `IdGenerator`. A forked child goes on with other ids than its parent.

    All ranks of a training are in one trace, and so are the tasks of a step of a batch system.
    """

    def __init__(self) -> None:
        self._trace_id = batch_job.trace_id()

    def generate_span_id(self) -> int:
        return _drawn(8)

    def generate_trace_id(self) -> int:
        return group.trace_id or self._trace_id or _drawn(16)

    def is_trace_id_random(self) -> bool:
        return True


def _drawn(size: int) -> int:
    return int.from_bytes(os.urandom(size), "big") or _drawn(size)  # 0 is no id
