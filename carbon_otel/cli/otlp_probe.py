"""One empty export of each signal, by the exporter that telemetry leaves with and the standard OTLP variables."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple
from urllib.parse import urlsplit, urlunsplit

Signal = Literal["traces", "metrics"]
SIGNALS: Final[tuple[Signal, ...]] = ("traces", "metrics")
TIMEOUT_S: Final = 3.0

_NOT_REACHED: Final = (
    "start the collector or correct the address; 4318 is the usual port for http/protobuf, 4317 for grpc "
    "(OTEL_EXPORTER_OTLP_PROTOCOL); http:// is without TLS, https:// with it"
)
_UNTRUSTED: Final = (
    "name the authority's file in OTEL_EXPORTER_OTLP_CERTIFICATE, or write http:// if the receiver has no TLS"
)
_CREDENTIALS: Final = (
    "set OTEL_EXPORTER_OTLP_HEADERS as your backend says; for Logfire 'Authorization=<write token>', "
    "without Bearer"
)
_NO_SUCH_PATH: Final = {
    "traces": "OTEL_EXPORTER_OTLP_ENDPOINT is the address without /v1/traces",
    "metrics": "for MLflow's server, which takes traces only, set OTEL_METRICS_EXPORTER=none; else the address is "
    "that without /v1/metrics",
}
_EXPERIMENT: Final = (
    "MLflow's server wants the experiment: OTEL_EXPORTER_OTLP_TRACES_HEADERS='x-mlflow-experiment-id=<id>'"
)
_LATER: Final = "the receiver takes nothing now; try again, as the exporters do"
_OTHER: Final = "is an OTLP receiver at that address?"
_ADVICE: Final[dict[int | str, str]] = {
    401: _CREDENTIALS,
    403: _CREDENTIALS,
    422: _EXPERIMENT,
    **dict.fromkeys((301, 302, 303, 307, 308), "exporters follow no redirect; write the address it leads to"),
    **dict.fromkeys((429, 502, 503, 504), _LATER),
    "UNAUTHENTICATED": _CREDENTIALS,
    "PERMISSION_DENIED": _CREDENTIALS,
    "RESOURCE_EXHAUSTED": _LATER,
    "DEADLINE_EXCEEDED": _NOT_REACHED,
    "UNAVAILABLE": _NOT_REACHED,
}


@dataclass(frozen=True, slots=True)
class Answer:
    """The result for one signal, without credentials; `problem` and `advice` are empty if `ok`."""

    signal: Signal
    endpoint: str
    protocol: str
    ok: bool
    problem: str = ""
    advice: str = ""


class _Failure(NamedTuple):
    problem: str
    advice: str


def check(timeout_s: float = TIMEOUT_S) -> list[Answer]:
    """Export both signals, without those that `OTEL_*_EXPORTER=none` turns off. Never raises."""
    return [
        _ask(signal, timeout_s)
        for signal in SIGNALS
        if os.environ.get(f"OTEL_{signal.upper()}_EXPORTER", "otlp").strip().lower() != "none"
    ]


def _ask(signal: Signal, timeout_s: float) -> Answer:
    protocol = _variable(signal, "PROTOCOL") or "http/protobuf"
    endpoint = _variable(signal, "ENDPOINT")
    failure: _Failure | None
    if not endpoint:
        failure = _Failure(
            "OTEL_EXPORTER_OTLP_ENDPOINT is not set", "export it, such as http://127.0.0.1:4318"
        )
    elif protocol not in ("grpc", "http/protobuf"):
        failure = _Failure(
            f"the exporters for Python have no protocol {protocol}", "set OTEL_EXPORTER_OTLP_PROTOCOL"
        )
    else:
        export = _by_grpc if protocol == "grpc" else _by_http
        try:
            failure = export(signal, timeout_s)
        except ImportError:
            failure = _Failure(
                "the exporter for OTLP over gRPC is not installed", 'pip install "carbon-otel[grpc]"'
            )
        except Exception as error:  # noqa: BLE001 - an exporter may refuse any setting
            failure = _Failure(_without_credentials(f"{type(error).__name__}: {error}"), _OTHER)
    return Answer(signal, _shown(endpoint), protocol, failure is None, *(failure or ()))


def _by_http(signal: Signal, timeout_s: float) -> _Failure | None:
    import requests
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    results: list[requests.Response | requests.RequestException] = []

    class Session(requests.Session):
        def request(self, *args: Any, **kwargs: Any) -> requests.Response:
            try:
                response = super().request(*args, **{**kwargs, "allow_redirects": False})
            except requests.RequestException as error:
                results.append(error)
                raise
            results.append(response)
            return response

    with _logged():
        _export(signal, {"traces": OTLPSpanExporter, "metrics": OTLPMetricExporter}, timeout_s, Session())
    result = results[-1]
    if isinstance(result, requests.exceptions.Timeout):
        return _Failure(f"no answer in {timeout_s:g} s", _NOT_REACHED)
    if isinstance(result, requests.RequestException):
        untrusted = isinstance(result, requests.exceptions.SSLError)
        return _Failure(_without_credentials(str(_cause(result))), _UNTRUSTED if untrusted else _NOT_REACHED)
    if result.status_code < 300:
        return None
    advice = (
        _NO_SUCH_PATH[signal] if result.status_code in (404, 405) else _ADVICE.get(result.status_code, _OTHER)
    )
    return _Failure(f"it answered {result.status_code} {result.reason}", advice)


def _by_grpc(signal: Signal, timeout_s: float) -> _Failure | None:
    import grpc
    from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

    with _logged() as records:
        done = _export(signal, {"traces": OTLPSpanExporter, "metrics": OTLPMetricExporter}, timeout_s)
    if done.name == "SUCCESS":
        return None
    arguments = [argument for record in records if isinstance(record.args, tuple) for argument in record.args]
    code = next((argument.name for argument in arguments if isinstance(argument, grpc.StatusCode)), "")
    problem = _without_credentials(records[-1].getMessage()) if records else "the exporter does not say why"
    return _Failure(problem, _ADVICE.get(code, _OTHER))


def _export(signal: Signal, exporters: dict[str, Any], timeout_s: float, session: Any = None) -> Any:
    from opentelemetry.sdk.metrics.export import MetricsData

    settings = {"timeout": timeout_s} if session is None else {"timeout": timeout_s, "session": session}
    exporter = exporters[signal](**settings)
    try:
        return exporter.export([] if signal == "traces" else MetricsData(resource_metrics=[]))
    finally:
        exporter.shutdown()


@contextlib.contextmanager
def _logged() -> Iterator[list[logging.LogRecord]]:
    """The log of the exporters, instead of on the terminal, and with the repetitions that they suppress."""
    records: list[logging.LogRecord] = []

    def record(entry: logging.LogRecord) -> bool:
        records.append(entry)
        return False

    known = logging.root.manager.loggerDict
    loggers = [logging.getLogger(name) for name in known if name.startswith("opentelemetry.exporter.otlp")]
    for logger in loggers:
        logger.filters.insert(0, record)
    try:
        yield records
    finally:
        for logger in loggers:
            logger.filters.remove(record)


def _cause(error: BaseException) -> BaseException:
    """The first of the exceptions that led to this one."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__ or error
    return error


def _variable(signal: Signal, name: str) -> str:
    own, common = f"OTEL_EXPORTER_OTLP_{signal.upper()}_{name}", f"OTEL_EXPORTER_OTLP_{name}"
    return os.environ.get(own, "").strip() or os.environ.get(common, "").strip()


def _shown(endpoint: str) -> str:
    """The address without credentials and query."""
    parts = urlsplit(endpoint)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _without_credentials(text: str) -> str:
    return re.sub(r"//[^/@\s]*@", "//", text)
