"""Estimates for calls of remote models, from the spans that an instrumentation of their client makes.

The span of a call says which model was asked, and how many tokens it has read and written, by the semantic
conventions for generative AI in their older and newer names. Nothing of the client is patched. A call is left out
if it goes to this host, because the devices of the host are measured. If spans of calls are nested, such as those
of a framework, of the router below it and of the client, only the innermost one counts.

A span that is not sampled is not seen. A stream often has no tokens, unless its client is asked for them
(`stream_options={"include_usage": True}` of OpenAI): then the call is counted, without an estimate.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.trace import SpanKind

from carbon_otel.fork import renew_after_fork
from carbon_otel.guard import guarded, log_once
from carbon_otel.otel.remote_sums import attributes_of
from carbon_otel.records import RemoteCall, RemoteFigures, RemoteRequest, StageInfo
from carbon_otel.semconv import names as semconv
from carbon_otel.units import S_PER_NS

_MODEL: Final = ("gen_ai.request.model", "gen_ai.response.model")
_PROVIDER: Final = ("gen_ai.provider.name", "gen_ai.system")
_INPUT: Final = ("gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens")
_OUTPUT: Final = ("gen_ai.usage.output_tokens", "gen_ai.usage.completion_tokens")
_ADDRESS: Final = ("server.address", "gen_ai.openai.api_base", "url.full")
# Servers of models that people run themselves. Without an address they are taken for this host's.
_SELF_RUN: Final = frozenset(
    {
        "ollama",
        "vllm",
        "llama_cpp",
        "llama.cpp",
        "llamafile",
        "lmstudio",
        "lm_studio",
        "tgi",
        "sglang",
        "transformers",
    }
)
_HERE: Final = frozenset({"localhost", "host.docker.internal"})
_MOST_OPEN: Final = 10_000

Estimate = Callable[[RemoteRequest], RemoteFigures | None]


class Listener(NamedTuple):
    """What one session does with the calls.

    Attributes:
        estimate: the estimator.
        stage: the stage at hand, on the application's threads.
        tell: gets each call, with the stage in which it began.
    """

    estimate: Estimate
    stage: Callable[[], StageInfo | None]
    tell: Callable[[StageInfo | None, RemoteCall], None]


class _Open:
    """An open span: a call, or a span within one. `counted` says that a call within it has been counted."""

    __slots__ = ("above", "alive", "counted", "stage")

    def __init__(self, alive: weakref.ref[Span], above: _Open | None, stage: StageInfo | None) -> None:
        self.alive = alive
        self.above = above
        self.stage = stage
        self.counted = False


class RemoteCalls(SpanProcessor):
    """Sees the calls from `begin` to `shutdown`. Like `SpanAnnotator`, it replaces the `end` of their spans."""

    def __init__(self, listener: Listener) -> None:
        self._open: dict[int, _Open] = {}
        # Ids of spans that were collected before they ended, at any point of the code.
        self._collected: deque[int] = deque()
        self._listener: Listener | None = listener
        renew_after_fork(self._renew)

    def begin(self, listener: Listener) -> None:
        """Estimate the calls that begin from now on."""
        self._open.clear()
        self._listener = listener

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        listener = self._listener
        if listener is None:
            return
        parent = span.parent
        above = self._open.get(parent.span_id) if parent is not None and self._open else None
        calls = _may_call(span)
        if above is None and not calls:
            return
        with guarded("watching for a call of a remote model"):
            self._watch(listener, span, above, calls)

    def _watch(self, listener: Listener, span: Span, above: _Open | None, calls: bool) -> None:
        with contextlib.suppress(IndexError):  # there are no more; other threads take some, too
            while True:
                self._open.pop(self._collected.popleft(), None)
        if len(self._open) >= _MOST_OPEN:
            return
        own = span.get_span_context().span_id
        alive = weakref.ref(span, lambda _: self._collected.append(own))
        opened = self._open[own] = _Open(alive, above, listener.stage() if calls else None)
        if not calls:
            return
        end = span.end

        def estimated_end(end_time: int | None = None) -> None:
            if own in self._open:
                with guarded("estimating a call of a remote model"):
                    self._ended(span, opened, end_time)
            end(end_time)

        span.end = estimated_end  # type: ignore[method-assign] # `on_end` comes too late for an attribute

    def on_end(self, span: ReadableSpan) -> None:
        """Forgets the span; it cannot be changed any more."""
        context = span.get_span_context()
        if context is not None:
            self._open.pop(context.span_id, None)

    def shutdown(self) -> None:
        self._listener = None

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return True

    def _renew(self) -> None:
        """In a forked child: the open spans are the parent's, and so is the session."""
        self._open = {}
        self._listener = None

    def _ended(self, span: Span, opened: _Open, end_time: int | None) -> None:
        attributes: Mapping[str, Any] = span.attributes or {}
        model = _text(attributes, _MODEL)
        listener = self._listener
        if listener is None or not model or opened.counted:
            return
        above = opened.above
        while above is not None:
            above.counted = True
            above = above.above
        if is_local(attributes):
            return
        provider = _text(attributes, _PROVIDER) or "unknown"
        output = _number(attributes, _OUTPUT)
        figures = None
        if output:
            begun_ns = span.start_time or 0
            seconds = max(0, (end_time or time.time_ns()) - begun_ns) * S_PER_NS
            read = _number(attributes, _INPUT) or 0
            figures = listener.estimate(RemoteRequest(provider, model, read, output, seconds))
        if figures is None:
            span.set_attribute(semconv.REMOTE_ESTIMATED, False)
            log_once(
                "no estimate for calls of %s %s: %s",
                provider,
                model,
                "the estimator does not know it"
                if output
                else "their spans have no gen_ai.usage.output_tokens",
                about=(provider, model, bool(output)),
            )
        else:
            span.set_attributes({semconv.REMOTE_ESTIMATED: True, **attributes_of(figures)})
        listener.tell(opened.stage, RemoteCall(provider, model, figures))


def is_local(attributes: Mapping[str, Any]) -> bool:
    """Whether the attributes say that a model of this host was asked, whose devices are measured."""
    address = _text(attributes, _ADDRESS)
    if address:
        return _is_here(address)
    return _text(attributes, _PROVIDER).lower() in _SELF_RUN


def _is_here(address: str) -> bool:
    """Whether an address is of this host: a name, an IP address, or a URL, with a port or without."""
    try:
        return _is_loopback(ipaddress.ip_address(address))
    except ValueError:
        host = urlsplit(address if "//" in address else f"//{address}").hostname or ""
    if host in _HERE or host.endswith(".localhost") or host == socket.gethostname().lower():
        return True
    try:
        return _is_loopback(ipaddress.ip_address(host))
    except ValueError:
        return False


def _is_loopback(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    return address.is_loopback or address.is_unspecified


def _may_call(span: Span) -> bool:
    """Whether a span may be a call, by what is known at its start."""
    scope = span.instrumentation_scope
    if scope is not None and scope.name == semconv.SCOPE:
        return False
    return span.kind is SpanKind.CLIENT or any(
        key in (span.attributes or {}) for key in (*_MODEL, *_PROVIDER)
    )


def _text(attributes: Mapping[str, Any], keys: tuple[str, ...]) -> str:
    found = (attributes.get(key) for key in keys)
    return next((each for each in found if isinstance(each, str) and each), "")


def _number(attributes: Mapping[str, Any], keys: tuple[str, ...]) -> int | None:
    found = (attributes.get(key) for key in keys)
    return next((int(each) for each in found if isinstance(each, (int, float)) and each >= 0), None)


# Keyed by identity, as those of `SpanAnnotator`.
_watching: Final[dict[int, tuple[Any, RemoteCalls]]] = {}


def watch(provider: Any, listener: Listener) -> RemoteCalls | None:
    """Watch the calls in the spans of a tracer provider; None if it takes no span processors."""
    add = getattr(provider, "add_span_processor", None)
    if add is None:
        return None
    if id(provider) in _watching:
        calls = _watching[id(provider)][1]
        calls.begin(listener)
    else:
        calls = RemoteCalls(listener)
        _watching[id(provider)] = provider, calls
        add(calls)
    return calls
