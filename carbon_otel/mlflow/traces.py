"""Stages in MLflow's own traces: spans below the user's span, and energy and emissions as tags of the trace.

A stage becomes a span only if a span of MLflow is active, so a program without traces gets none. Every call asks
MLflow for its tracer, because `set_tracking_uri`, `set_experiment` and other functions replace the provider. The
number of tokens is known when the trace has ended, and the trace may be exported late; so a thread adds the energy
per thousand tokens afterwards.
"""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from carbon_otel import clock
from carbon_otel.background import Worker
from carbon_otel.fork import renew_after_fork
from carbon_otel.guard import log_once, logger
from carbon_otel.mlflow import compat
from carbon_otel.records import StageInfo
from carbon_otel.semconv.attributes import footprint_attributes, stage_attributes
from carbon_otel.sinks import Pending, Sink, StageEnd, Tick, nothing_pending
from carbon_otel.units import KILO

ENERGY: Final = "carbon.energy_j"
EMISSIONS: Final = "carbon.emissions_g"
ENERGY_PER_1K_TOKENS: Final = "carbon.energy_j_per_1k_tokens"
EMISSIONS_PER_1K_TOKENS: Final = "carbon.emissions_g_per_1k_tokens"
_SPAN_TYPE: Final = "CARBON_OTEL"
_LIMIT: Final = 1000
# The thread looks for the trace from one second to two minutes after its end; later the trace counts as lost.
_PATIENCE_S: Final = 120.0
_CLOSE_S: Final = 1.0


@dataclass(slots=True)
class _Trace:
    """The use of the outermost stages in one trace; `uri` is MLflow's tracking URI at the end of the first."""

    uri: str
    joules: float = 0.0
    grams: float = 0.0
    due: float = 0.0
    pause_s: float = 1.0
    give_up: float = 0.0


@dataclass(slots=True)
class _Mark:
    span: Any
    trace_id: str
    token: Any = None
    outermost: bool = True


class MlflowTraces(Sink):
    """Mirrors stages that are entered within a span of MLflow."""

    def __init__(self, clock: Callable[[], float] = clock.monotonic) -> None:
        self.wanted = True
        self._clock = clock
        self._marks: dict[StageInfo, _Mark] = {}
        self._traces: dict[str, _Trace] = {}
        self._adding = threading.RLock()  # stages of one trace may end in several threads at once
        renew_after_fork(self._renew)
        self._worker: Worker | None = None

    def _renew(self) -> None:
        """In a forked child: the thread that held the lock does not exist there."""
        self._adding = threading.RLock()

    def stage_entered(self, stage: StageInfo) -> None:
        mlflow: Any = sys.modules.get("mlflow")
        if not self.wanted or mlflow is None or "mlflow.tracing.fluent" not in sys.modules:
            return
        mark = self._marks.get(stage)
        if mark is None:
            above = mlflow.get_current_active_span()
            if above is None:
                return
            span = mlflow.start_span_no_context(
                stage.name, span_type=_SPAN_TYPE, parent_span=above, attributes=stage_attributes(stage)
            )
            mark = self._marks[stage] = _Mark(span, span.trace_id)
            mark.outermost = not any(
                self._marks[outer].trace_id == mark.trace_id
                for outer in _above(stage)
                if outer in self._marks
            )
            self._worker = self._worker or Worker("carbon_otel mlflow traces")
        mark.token = compat.attach_span(mark.span)

    def stage_left(self, stage: StageInfo) -> None:
        mark = self._marks.get(stage)
        if mark is not None and mark.token is not None:
            compat.detach_span(mark.span, mark.token)
            mark.token = None

    def stage_closed(self, stage: StageInfo, end: StageEnd) -> None:
        mark = self._marks.pop(stage, None)
        if mark is None:
            return
        footprint = end.footprint
        mark.span.set_attributes(footprint_attributes(footprint))
        mark.span.end(status="ERROR" if isinstance(end.error, Exception) else "OK")
        if not mark.outermost:
            return
        now = self._clock()
        with self._adding:
            trace = self._traces.get(mark.trace_id)
            if trace is None:
                if len(self._traces) >= _LIMIT:
                    log_once(
                        "more than %d traces wait for their energy per token; further ones get none", _LIMIT
                    )
                    self._traces.pop(next(iter(self._traces)), None)
                trace = self._traces[mark.trace_id] = _Trace(
                    sys.modules["mlflow"].get_tracking_uri(), due=now + 1, give_up=now + _PATIENCE_S
                )
            trace.joules += footprint.energy_j
            trace.grams += footprint.emissions_g
        # While the trace is open, setting its tags needs no call to the server.
        mlflow: Any = sys.modules["mlflow"]
        above = mlflow.get_current_active_span()
        if above is not None and above.trace_id == mark.trace_id:
            mlflow.update_current_trace(tags=_tags(trace, None))

    def tick(self, tick: Tick) -> None:
        now = self._clock()
        for trace_id, trace in list(self._traces.items()):
            if now >= trace.due:
                trace.pause_s *= 2
                trace.due = now + trace.pause_s
                self._complete_soon(trace_id)

    def flush(self, timeout_s: float) -> Pending:
        asked = [self._complete_soon(trace_id) for trace_id in list(self._traces)]
        return asked[-1].wait if asked else nothing_pending

    def close(self, timeout_s: float) -> Pending:
        sent = self.flush(timeout_s)
        if self._worker is not None:
            self._worker.close()
        return lambda left_s: sent(min(left_s, _CLOSE_S))

    def _complete_soon(self, trace_id: str) -> threading.Event:
        assert self._worker is not None
        return self._worker.submit(functools.partial(self._complete, trace_id))

    def _complete(self, trace_id: str) -> None:
        """Tag the trace with its use per thousand tokens, if it has ended and arrived. Runs on the thread."""
        trace = self._traces.get(trace_id)
        if trace is None:
            return
        mlflow: Any = sys.modules["mlflow"]
        try:
            with compat.our_call(trace.uri):
                client = mlflow.MlflowClient(trace.uri)
                info = client.get_trace(trace_id, display=False).info
            if info.state.value not in ("OK", "ERROR"):
                raise LookupError(f"it is {info.state.value}")
            tokens = (info.token_usage or {}).get("total_tokens")
            for key, value in _tags(trace, tokens).items():
                if info.tags.get(key) != value:
                    with compat.our_call(trace.uri):
                        client.set_trace_tag(trace_id, key, value)
        except Exception:  # noqa: BLE001 - stores raise different errors, often because the trace has not arrived
            if self._clock() < trace.give_up:
                return
            logger.debug("trace %s gets no energy per token", trace_id, exc_info=True)
        self._traces.pop(trace_id, None)


def _tags(trace: _Trace, tokens: int | None) -> dict[str, str]:
    tags = {ENERGY: f"{trace.joules:.6g}", EMISSIONS: f"{trace.grams:.6g}"}
    if tokens:
        tags[ENERGY_PER_1K_TOKENS] = f"{trace.joules / tokens * KILO:.6g}"
        tags[EMISSIONS_PER_1K_TOKENS] = f"{trace.grams / tokens * KILO:.6g}"
    return tags


def _above(stage: StageInfo) -> Iterator[StageInfo]:
    outer = stage.parent
    while outer is not None:
        yield outer
        outer = outer.parent
