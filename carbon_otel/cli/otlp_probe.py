"""Sends an empty export of each signal, with the exporter for telemetry and the standard OTLP variables."""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal
from urllib.parse import urlsplit, urlunsplit

from carbon_otel.text import printable

Signal = Literal["traces", "metrics"]
SIGNALS: Final[tuple[Signal, ...]] = ("traces", "metrics")
TIMEOUT_S: Final = 3.0

_PORTS: Final = "the usual port is 4318 for http/protobuf, 4317 for grpc (OTEL_EXPORTER_OTLP_PROTOCOL)"
_ADDRESS: Final = (
    f"start the collector or correct the address; {_PORTS}; http:// is without TLS, https:// with it; "
    "OTEL_EXPORTER_OTLP_CERTIFICATE is the certificate file of a private authority"
)
_CREDENTIALS: Final = (
    "set OTEL_EXPORTER_OTLP_HEADERS as your backend requires; for Logfire 'Authorization=<write token>', "
    "without Bearer"
)
_PATH: Final = (
    "OTEL_EXPORTER_OTLP_ENDPOINT is the address without /v1/traces; MLflow's server accepts traces only, so set "
    "OTEL_METRICS_EXPORTER=none for it"
)
_EXPERIMENT: Final = (
    "MLflow's server needs the experiment: OTEL_EXPORTER_OTLP_TRACES_HEADERS='x-mlflow-experiment-id=<id>'"
)
_LATER: Final = "the receiver accepts nothing now; try again, as the exporters do"
_OTHER: Final = "is an OTLP receiver at that address?"
# By HTTP status and by name of the gRPC status.
_ADVICE: Final[dict[int | str, str]] = {
    **dict.fromkeys((301, 302, 303, 307, 308), "exporters follow no redirect; write the target address"),
    **dict.fromkeys((401, 403, "UNAUTHENTICATED", "PERMISSION_DENIED"), _CREDENTIALS),
    **dict.fromkeys((404, 405), _PATH),
    422: _EXPERIMENT,
    **dict.fromkeys((429, 502, 503, 504, "RESOURCE_EXHAUSTED"), _LATER),
    **dict.fromkeys(("DEADLINE_EXCEEDED", "UNAVAILABLE"), _ADDRESS),
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


def check(timeout_s: float = TIMEOUT_S) -> list[Answer]:
    """Export both signals, except those that `OTEL_*_EXPORTER=none` turns off. Never raises."""
    return [
        _ask(signal, timeout_s)
        for signal in SIGNALS
        if os.environ.get(f"OTEL_{signal.upper()}_EXPORTER", "otlp").strip().lower() != "none"
    ]


def _ask(signal: Signal, timeout_s: float) -> Answer:
    protocol, endpoint = _variable(signal, "PROTOCOL") or "http/protobuf", _variable(signal, "ENDPOINT")
    if not endpoint:
        problem, advice = "OTEL_EXPORTER_OTLP_ENDPOINT is not set", "export it, such as http://127.0.0.1:4318"
    elif protocol not in ("grpc", "http/protobuf"):
        problem = f"the exporters for Python have no protocol {protocol}"
        advice = "set OTEL_EXPORTER_OTLP_PROTOCOL to http/protobuf or grpc"
    else:
        try:
            problem, advice = (_by_grpc if protocol == "grpc" else _by_http)(signal, timeout_s)
        except ImportError:
            problem = "the exporter for OTLP over gRPC is not installed"
            advice = 'pip install "carbon-otel[grpc]"'
        except Exception as error:  # noqa: BLE001 - an exporter may refuse any setting
            problem, advice = f"{type(error).__name__}: {error}", _OTHER
    parts = urlsplit(endpoint)
    shown = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
    return Answer(signal, printable(shown), protocol, not problem, printable(problem), advice)


def _by_http(signal: Signal, timeout_s: float) -> tuple[str, str]:
    import requests  # noqa: PLC0415 - comes with the HTTP exporter, which is loaded only here

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

    _export("http", signal, timeout=timeout_s, session=Session())
    result = results[-1]
    if isinstance(result, requests.exceptions.Timeout):
        return f"no answer in {timeout_s:g} s", _ADDRESS
    if isinstance(result, requests.RequestException):
        return str(_cause(result)), _ADDRESS
    if result.status_code < 300:
        if _is_otlp(signal, result.headers.get("content-type", ""), result.content):
            return "", ""
        return "it answered 200, but that is no answer of an OTLP receiver", f"{_OTHER} {_PORTS}"
    return f"it answered {result.status_code} {result.reason}", _ADVICE.get(result.status_code, _OTHER)


def _is_otlp(signal: Signal, content_type: str, content: bytes) -> bool:
    """Whether this is an answer of an OTLP receiver: any web server may answer 200."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "application/json":
        try:
            answer = json.loads(content)
        except ValueError:
            return False
        return isinstance(answer, dict) and answer.keys() <= {"partialSuccess"}
    if kind != "application/x-protobuf":
        return False
    name = "trace" if signal == "traces" else "metrics"
    service = importlib.import_module(f"opentelemetry.proto.collector.{name}.v1.{name}_service_pb2")
    response = getattr(service, f"Export{name.capitalize()}ServiceResponse")()
    try:
        response.ParseFromString(content)
    except importlib.import_module("google.protobuf.message").DecodeError:
        return False
    return True


def _by_grpc(signal: Signal, timeout_s: float) -> tuple[str, str]:
    import grpc

    succeeded, records = _export("grpc", signal, timeout=timeout_s)
    if succeeded:
        return "", ""
    arguments = [argument for record in records if isinstance(record.args, tuple) for argument in record.args]
    code = next((argument.name for argument in arguments if isinstance(argument, grpc.StatusCode)), "")
    problem = records[-1].getMessage() if records else "the exporter failed without a reason"
    return problem, _ADVICE.get(code, _OTHER)


def _export(transport: str, signal: Signal, **settings: Any) -> tuple[bool, list[logging.LogRecord]]:
    """Send an empty export; returns its success and its log. Raises the errors of the exporter's constructor."""
    from opentelemetry.sdk.metrics.export import MetricsData

    package = f"opentelemetry.exporter.otlp.proto.{transport}"
    if signal == "traces":
        exporter = importlib.import_module(f"{package}.trace_exporter").OTLPSpanExporter(**settings)
    else:
        exporter = importlib.import_module(f"{package}.metric_exporter").OTLPMetricExporter(**settings)
    with _log_of("opentelemetry.exporter.otlp") as records:
        result = exporter.export([] if signal == "traces" else MetricsData(resource_metrics=[]))
        exporter.shutdown()
    return result.name == "SUCCESS", records


@contextlib.contextmanager
def _log_of(package: str) -> Iterator[list[logging.LogRecord]]:
    """The log records of a package, even suppressed repetitions; none reaches the terminal."""
    records: list[logging.LogRecord] = []

    def keep(record: logging.LogRecord) -> bool:
        records.append(record)
        return False

    names = [name for name in logging.root.manager.loggerDict if name.startswith(package)]
    for name in names:
        logging.getLogger(name).filters.insert(0, keep)
    try:
        yield records
    finally:
        for name in names:
            logging.getLogger(name).filters.remove(keep)


def _cause(error: BaseException) -> BaseException:
    """The first exception in the chain that led to this one."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__ or error
    return error


def _variable(signal: Signal, name: str) -> str:
    own, common = f"OTEL_EXPORTER_OTLP_{signal.upper()}_{name}", f"OTEL_EXPORTER_OTLP_{name}"
    return os.environ.get(own, "").strip() or os.environ.get(common, "").strip()
