"""What follows the application's own spans, if a setting asks for it: annotations, and calls of remote models."""

from __future__ import annotations

from typing import Any, Protocol

from carbon_otel.config import Settings
from carbon_otel.guard import log_once
from carbon_otel.otel.providers import Providers
from carbon_otel.records import StageInfo
from carbon_otel.stages.engine import Engine
from carbon_otel.stages.open_stage import current


class _Watcher(Protocol):
    def shutdown(self) -> None: ...


class Watchers:
    """Those that the settings ask for, on one tracer provider."""

    def __init__(self, settings: Settings, engine: Engine, providers: Providers) -> None:
        self._running: list[_Watcher] = []
        if settings.annotate_spans:
            self._begin("annotate_spans", _annotator(engine, providers))
        if settings.remote_estimates:
            self._begin("remote_estimates", _listener(settings.remote_estimates, engine, providers))

    def _begin(self, setting: str, watcher: _Watcher | None) -> None:
        if watcher is not None:
            self._running.append(watcher)
        else:
            log_once(
                "%s: the application has no tracer provider of the OpenTelemetry SDK yet; set it "
                "before instrument()",
                setting,
                about=setting,
            )

    def shutdown(self) -> None:
        """Follow no more spans."""
        while self._running:
            self._running.pop().shutdown()


def _annotator(engine: Engine, providers: Providers) -> Any:
    from carbon_otel.otel.span_annotator import annotate  # noqa: PLC0415 - imports the SDK

    return annotate(providers.tracer, engine.cached_joules)


def _listener(method: str, engine: Engine, providers: Providers) -> Any:
    from carbon_otel.otel.remote_calls import Listener, watch  # noqa: PLC0415 - imports the SDK
    from carbon_otel.remote import estimator  # noqa: PLC0415 - rarely used

    def stage() -> StageInfo | None:
        here = engine.parent_of(current.get())
        return None if here is None else here.info

    return watch(providers.tracer, Listener(estimator(method), stage, engine.sinks.remote_called))
