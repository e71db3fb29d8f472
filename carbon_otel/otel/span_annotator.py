"""Energy on the spans that the application makes (`annotate_spans=True`).

A span gets the energy that the process used while it was open (its window), and the part of it that is
attributed to it: at any moment the process's power is divided equally among the open outermost spans, and a span
within one of them gets of that part what fell into its own time. Windows overlap and nest, so neither figure is
ever to be added up over spans; the stages' exclusive energy is.

Only cached readings are used, so a window is as exact as the power between two ticks is steady.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final

from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor

from carbon_otel.guard import report
from carbon_otel.semconv import names as semconv

_OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"


class SpanAnnotator(SpanProcessor):
    """`joules` says what the process has used so far; it is called on the application's threads.

    A span cannot be written to once it has ended, which is when processors hear of it (opentelemetry-python
    issue 5614); so the span's own `end` is replaced while it is open.
    """

    def __init__(self, joules: Callable[[], float]) -> None:
        self._joules = joules
        self._lock = threading.Lock()
        self._open: set[int] = set()
        self._outermost = 0
        self._seen_j = joules()
        self._part_j = 0.0
        self.active = True

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        scope = span.instrumentation_scope
        if not self.active or (scope is not None and scope.name == semconv.SCOPE):
            return
        above = span.parent
        own = span.get_span_context().span_id
        with self._lock:
            outermost = above is None or above.span_id not in self._open
            begin_j = self._advance()
            begin_part_j = self._part_j
            self._outermost += outermost
            self._open.add(own)
        end = span.end

        def annotated_end(end_time: int | None = None) -> None:
            try:
                if own in self._open:
                    with self._lock:
                        window_j = self._advance() - begin_j
                        part_j = self._part_j - begin_part_j
                        self._outermost -= outermost
                        self._open.discard(own)
                    if self.active:
                        self._annotate(span, window_j, part_j)
            except Exception as fault:  # noqa: BLE001 - the application's span ends in any case
                report("annotating a span", fault)
            end(end_time)

        span.end = annotated_end  # type: ignore[method-assign]

    def on_end(self, span: ReadableSpan) -> None:
        """Nothing: it has been annotated before."""

    def shutdown(self) -> None:
        self.active = False

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return True

    def _annotate(self, span: Span, window_j: float, attributed_j: float) -> None:
        figures: dict[str, Any] = {semconv.WINDOW_J: window_j, semconv.WINDOW_ATTRIBUTED_J: attributed_j}
        tokens = span.attributes.get(_OUTPUT_TOKENS) if span.attributes else None
        if isinstance(tokens, (int, float)) and tokens > 0:
            figures[semconv.WINDOW_J_PER_OUTPUT_TOKEN] = attributed_j / tokens
        span.set_attributes(figures)

    def _advance(self) -> float:
        """Divide what was used since the last call among the outermost spans; the joules so far."""
        now_j, seen_j = self._joules(), self._seen_j
        if now_j <= seen_j:
            return seen_j
        if self._outermost:
            self._part_j += (now_j - seen_j) / self._outermost
        self._seen_j = now_j
        return now_j
