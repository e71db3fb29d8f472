"""Energy on the application's own spans (`annotate_spans=True`).

A span gets two figures. Its window energy is the energy of the process while the span was open. Its attributed
energy is its share of that: the power of the process is divided equally among the outermost open spans, and a span
within one of them gets the part that fell into its own time. Windows overlap and nest, so neither figure may be
summed over spans; the exclusive energy of stages may.

Only cached readings are used: a window is exact only if the power is steady between two ticks.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor

from carbon_otel.fork import renew_after_fork
from carbon_otel.guard import guarded
from carbon_otel.semconv import names as semconv

_OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"


class _OpenSpan(NamedTuple):
    alive: weakref.ref[Span]
    outermost: bool
    begin_j: float
    begin_part_j: float


class SpanAnnotator(SpanProcessor):
    """Annotates spans from `begin` to `shutdown`.

    Processors are called after a span has ended, when it can no longer be changed (opentelemetry-python issue
    5614). So the annotator replaces the `end` of each open span.
    """

    def __init__(self, joules: Callable[[], float]) -> None:
        """`joules` returns the energy of this process so far; it is called on the application's threads."""
        self._lock = threading.RLock()
        # Ids of spans that were collected before they ended. A deque, since a collection can run at any point
        # of the code, with the lock held too.
        self._collected: deque[int] = deque()
        renew_after_fork(self._renew)
        self.begin(joules)

    def begin(self, joules: Callable[[], float]) -> None:
        """Annotate the spans that start from now on."""
        with self._lock:
            self._open: dict[int, _OpenSpan] = {}
            self._outermost = 0
            self._joules = joules
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
            while self._collected:
                self._close(self._collected.popleft())
            outermost = above is None or above.span_id not in self._open
            begin_j = self._advance()
            self._outermost += outermost
            alive = weakref.ref(span, lambda _: self._collected.append(own))
            self._open[own] = _OpenSpan(alive, outermost, begin_j, self._part_j)
        end = span.end

        def annotated_end(end_time: int | None = None) -> None:
            with guarded("annotating a span"):
                self._ended(span, own)
            end(end_time)

        span.end = annotated_end  # type: ignore[method-assign] # `on_end` comes too late for an attribute

    def on_end(self, span: ReadableSpan) -> None:
        """Does nothing: an ended span cannot be changed."""

    def shutdown(self) -> None:
        self.active = False

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return True

    def _renew(self) -> None:
        """In a forked child: the open spans are the parent's, and a session of the child begins with none."""
        self._lock = threading.RLock()
        self._open = {}
        self._outermost = 0
        self.active = False

    def _ended(self, span: Span, own: int) -> None:
        if own not in self._open:
            return
        with self._lock:
            now_j = self._advance()
            part_j = self._part_j
            opened = self._close(own)
        if opened is not None and self.active:
            self._annotate(span, now_j - opened.begin_j, part_j - opened.begin_part_j)

    def _close(self, own: int) -> _OpenSpan | None:
        opened = self._open.pop(own, None)
        if opened is not None:
            self._outermost -= opened.outermost
        return opened

    def _annotate(self, span: Span, window_j: float, attributed_j: float) -> None:
        figures: dict[str, Any] = {semconv.WINDOW_J: window_j, semconv.WINDOW_ATTRIBUTED_J: attributed_j}
        tokens = span.attributes.get(_OUTPUT_TOKENS) if span.attributes else None
        if isinstance(tokens, (int, float)) and tokens > 0:
            figures[semconv.WINDOW_J_PER_OUTPUT_TOKEN] = attributed_j / tokens
        span.set_attributes(figures)

    def _advance(self) -> float:
        """Divide the energy used since the last call among the outermost spans. Returns the joules so far."""
        now_j, seen_j = self._joules(), self._seen_j
        if now_j <= seen_j:
            return seen_j
        if self._outermost:
            self._part_j += (now_j - seen_j) / self._outermost
        self._seen_j = now_j
        return now_j


# Keyed by identity, since a provider need not be hashable (Logfire's is not). Keeping the provider keeps its
# identity unique.
_annotators: Final[dict[int, tuple[Any, SpanAnnotator]]] = {}


def annotate(provider: Any, joules: Callable[[], float]) -> SpanAnnotator | None:
    """Annotate the spans of a tracer provider; None if it takes no span processors.

    A provider cannot give a span processor back, so it has one annotator for all sessions of the process.
    """
    add = getattr(provider, "add_span_processor", None)
    if add is None:
        return None
    if id(provider) in _annotators:
        annotator = _annotators[id(provider)][1]
        annotator.begin(joules)
    else:
        annotator = SpanAnnotator(joules)
        _annotators[id(provider)] = provider, annotator
        add(annotator)
    return annotator
