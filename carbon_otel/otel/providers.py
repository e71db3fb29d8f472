"""The choice of the OpenTelemetry providers that receive the telemetry.

In this order: the argument of `instrument()`; the application's global provider; if an OTLP endpoint or the
exporter `console` is set, a private provider built from the standard `OTEL_*` variables and never made global; the
API's proxy, which forwards to the provider that the application sets later.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from opentelemetry import metrics, trace
from opentelemetry.metrics import MeterProvider
from opentelemetry.metrics import _internal as _metrics
from opentelemetry.trace import TracerProvider

from carbon_otel import clock
from carbon_otel.background import Worker
from carbon_otel.guard import contain, log_once
from carbon_otel.otel.instance import is_proxy
from carbon_otel.otel.own_providers import (
    Outage,
    build_meter_provider,
    build_tracer_provider,
    exporters,
    resource_of_process,
)
from carbon_otel.sinks import Pending
from carbon_otel.units import MS_PER_S


class Providers:
    """The chosen pair. carbon_otel built the `owned` providers and must shut them down."""

    def __init__(
        self,
        tracer: TracerProvider,
        meter: MeterProvider,
        owned: tuple[Any, ...] = (),
        outage: Outage | None = None,
    ) -> None:
        self._outage = outage or Outage()
        self.tracer = tracer
        self.meter = meter
        self._owned = owned
        # True from the first provider that is not a proxy: the API does not allow replacing it.
        self.listened = not (isinstance(tracer, trace.ProxyTracerProvider) and is_proxy(meter))
        self._workers: dict[int, Worker] = {}
        self._sending: threading.Event | None = None
        for provider in owned:
            self._worker(provider)

    @classmethod
    def choose(
        cls,
        tracer: TracerProvider | None,
        meter: MeterProvider | None,
        attributes: Mapping[str, Any] | None = None,
    ) -> Providers:
        """Choose from the arguments of `instrument()`. Providers built here get `attributes` as their resource."""
        resource = functools.cache(functools.partial(resource_of_process, attributes or {}))
        owned: list[Any] = []
        outage = Outage()
        if tracer is None:
            tracer = trace.get_tracer_provider()
            if isinstance(tracer, trace.ProxyTracerProvider) and exporters("TRACES"):
                built = contain("building a tracer provider", None, build_tracer_provider, resource)
                if built is not None:
                    owned.append(built)
                    tracer = built
        if meter is None:
            meter = metrics.get_meter_provider()
            if is_proxy(meter) and exporters("METRICS"):
                built = contain("building a meter provider", None, build_meter_provider, resource, outage)
                if built is not None:
                    owned.append(built)
                    meter = built
        return cls(tracer, meter, tuple(owned), outage)

    def silent(self) -> bool:
        """Whether no provider was given and the application has set none yet, so that telemetry goes nowhere.

        `listened` is the last answer.
        """
        if not self.listened and not _none_is_set():
            self.listened = not (
                isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)
                and is_proxy(metrics.get_meter_provider())
            )
        return not self.listened

    def described(self, environ: Mapping[str, str] = os.environ) -> str:
        """Where the telemetry goes, for people."""
        if not any(self._is_owned(each) for each in (self.tracer, self.meter)):
            return "the OpenTelemetry providers of the program"
        names = {name for signal in ("TRACES", "METRICS") for name in exporters(signal, environ)}
        parts = (f"OTLP_{signal}ENDPOINT" for signal in ("", "TRACES_", "METRICS_"))
        addresses = dict.fromkeys(filter(None, (environ.get(f"OTEL_EXPORTER_{part}") for part in parts)))
        shown = [f"OTLP ({', '.join(addresses)})"] if "otlp" in names else []
        return " and ".join([*shown, *(["the terminal"] if "console" in names else [])])

    def warn_if_too_late(self) -> None:
        """Log once that the application set providers after carbon_otel had built its own for these signals."""
        late = [
            signal
            for signal, provider, is_late in (
                ("tracer", self.tracer, _is_set_tracer),
                ("meter", self.meter, _is_set_meter),
            )
            if self._is_owned(provider) and is_late()
        ]
        if late:
            log_once(
                "the application has set its %s (by logfire.configure(), for example) after "
                "carbon_otel.instrument(), so carbon_otel sends to OTEL_EXPORTER_OTLP_ENDPOINT instead; call "
                "instrument() after that",
                f"{' and '.join(late)} provider{'s' if len(late) > 1 else ''}",
                about=len(late),
            )

    def latest(
        self, tracer: TracerProvider | None, meter: MeterProvider | None
    ) -> tuple[TracerProvider, MeterProvider]:
        """These providers, else those that the application has set since we built ours, else the present ones."""
        if tracer is None and self._is_owned(self.tracer) and _is_set_tracer():
            tracer = trace.get_tracer_provider()
        if meter is None and self._is_owned(self.meter) and _is_set_meter():
            meter = metrics.get_meter_provider()
        return self.tracer if tracer is None else tracer, self.meter if meter is None else meter

    def use(self, tracer: TracerProvider, meter: MeterProvider) -> None:
        """Use these from now on. What was built here is shut down at the end: open spans end where they began."""
        self.tracer, self.meter = tracer, meter
        self.listened = True

    def _is_owned(self, provider: object) -> bool:
        return any(provider is built for built in self._owned)

    def flush(self, timeout_s: float) -> Pending:
        """Start flushing the providers at the same time."""
        return self._flush(self._present(), timeout_s)

    def flush_of_application(self, timeout_s: float, *, inherited: bool) -> Pending:
        """As `flush`, but only the providers that carbon_otel has not built.

        A meter provider that a fork has `inherited` is left out: it would export the sums of its parent once more,
        and SDK 1.45 makes an instance of its own of it.
        """
        others = [p for p in self._present() if not self._is_owned(p)]
        return self._flush([p for p in others if not (inherited and hasattr(p, "get_meter"))], timeout_s)

    def send_metrics(self) -> bool:
        """Begin an export of the metrics; False if it is too early: one is under way, or one has just failed.

        The application's provider is left to its own interval, and so is a terminal.
        """
        if self._outage.is_recent() or (self._sending is not None and not self._sending.is_set()):
            return False
        if self._is_owned(self.meter) and "console" not in exporters("METRICS"):
            self._sending = self._begin(self.meter, self.meter.force_flush)  # type: ignore[attr-defined]
        return True

    def _present(self) -> list[Any]:
        """The providers that can be flushed; the application may have set its own since."""
        tracer = (
            trace.get_tracer_provider() if isinstance(self.tracer, trace.ProxyTracerProvider) else self.tracer
        )
        meter = metrics.get_meter_provider() if is_proxy(self.meter) else self.meter
        former = [built for built in self._owned if built is not tracer and built is not meter]
        return [p for p in (tracer, meter, *former) if hasattr(p, "force_flush")]

    def _flush(self, providers: Sequence[Any], timeout_s: float) -> Pending:
        results: dict[int, bool] = {}

        def flush(provider: Any) -> None:
            results[id(provider)] = bool(provider.force_flush(int(timeout_s * MS_PER_S)))

        begun = self._on_workers(providers, flush)
        return lambda left_s: _all_done(begun, left_s) and all(results.get(id(p), False) for p in providers)

    def close(self, timeout_s: float) -> Pending:
        """Start shutting down the owned providers, at the same time."""
        begun = self._on_workers(self._owned, lambda provider: provider.shutdown())
        while self._workers:
            self._workers.popitem()[1].close()
        return lambda left_s: _all_done(begun, left_s)

    def _on_workers(self, providers: Iterable[Any], call: Callable[[Any], object]) -> list[threading.Event]:
        return [self._begin(p, functools.partial(call, p)) for p in providers]

    def _begin(self, provider: Any, call: Callable[[], object]) -> threading.Event:
        try:
            return self._worker(provider).submit(call)
        except RuntimeError:  # no thread can be started at interpreter exit (Python 3.12)
            done = threading.Event()
            contain("sending telemetry", None, call)
            done.set()
            return done

    def _worker(self, provider: Any) -> Worker:
        worker = self._workers.get(id(provider))
        if worker is None:
            worker = self._workers[id(provider)] = Worker("carbon_otel export")
        return worker


def _all_done(begun: Iterable[threading.Event], timeout_s: float) -> bool:
    deadline = clock.monotonic() + timeout_s
    results = [done.wait(max(0.0, deadline - clock.monotonic())) for done in begun]
    return all(results)


def _none_is_set() -> bool:
    """Whether the application has surely set no provider; False if this version of the API does not show it.

    The API's own functions take 1.3 us, because they read the environment each time.
    """
    tracer = getattr(trace, "_TRACER_PROVIDER", True)
    return tracer is None and getattr(_metrics, "_METER_PROVIDER", True) is None


def _is_set_tracer() -> bool:
    """Whether the application has set a global tracer provider. MLflow sets one of its own for its traces."""
    provider = trace.get_tracer_provider()
    processors = getattr(getattr(provider, "_active_span_processor", None), "_span_processors", ())
    mlflows = processors and all(type(each).__module__.startswith("mlflow.") for each in processors)
    return not (isinstance(provider, trace.ProxyTracerProvider) or mlflows)


def _is_set_meter() -> bool:
    return not is_proxy(metrics.get_meter_provider())
