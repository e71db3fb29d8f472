"""Sends an empty export of each signal, or kept metrics, with the exporter and the standard OTLP variables."""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import urlsplit, urlunsplit

from carbon_otel.text import printable

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import MetricsData

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
    "OTEL_EXPORTER_OTLP_ENDPOINT is the address without /v1/traces or /v1/metrics; MLflow's server accepts "
    "traces only, so set OTEL_METRICS_EXPORTER=none for it"
)
_EXPERIMENT: Final = (
    "MLflow's server needs the experiment: OTEL_EXPORTER_OTLP_TRACES_HEADERS='x-mlflow-experiment-id=<id>'"
)
_LATER: Final = "the receiver accepts nothing now; try again, as the exporters do"
_CONTENT: Final = "the receiver does not take this content; its log may say more"
_DISTRO: Final = (
    "that command sends by gRPC unless you set OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf; gRPC has port 4317"
)
_OTHER: Final = "is an OTLP receiver at that address?"
# By HTTP status and by name of the gRPC status.
_ADVICE: Final[dict[int | str, str]] = {
    **dict.fromkeys((301, 302, 303, 307, 308), "exporters follow no redirect; write the target address"),
    **dict.fromkeys((401, 403, "UNAUTHENTICATED", "PERMISSION_DENIED"), _CREDENTIALS),
    **dict.fromkeys((404, 405), _PATH),
    422: _EXPERIMENT,
    **dict.fromkeys((429, 502, 503, 504, "RESOURCE_EXHAUSTED"), _LATER),
    "INVALID_ARGUMENT": _CONTENT,
    **dict.fromkeys(("DEADLINE_EXCEEDED", "UNAVAILABLE"), _ADDRESS),
}


@dataclass(frozen=True, slots=True)
class Answer:
    """The result for one signal, without credentials; `problem` and `advice` are empty if `ok`.

    `of_content`: the receiver refuses this export, and may take another. `by`: the command that would send it, if
    it is another one than carbon_otel itself.
    """

    signal: Signal
    endpoint: str
    protocol: str
    ok: bool
    problem: str = ""
    advice: str = ""
    of_content: bool = False
    by: str = ""


def check(timeout_s: float = TIMEOUT_S) -> list[Answer]:
    """Export both signals, except those that `OTEL_*_EXPORTER=none` turns off. Never raises.

    Where nothing names a protocol, `opentelemetry-instrument` speaks another one than carbon_otel itself. If it is
    installed and would not be understood, the answers say so, too.
    """
    answers = [
        _ask(signal, timeout_s)
        for signal in SIGNALS
        if os.environ.get(f"OTEL_{signal.upper()}_EXPORTER", "otlp").strip().lower() != "none"
    ]
    if find_spec("opentelemetry.distro") is not None:
        understood = [each.signal for each in answers if each.ok and not _variable(each.signal, "PROTOCOL")]
        answers += [_of_distro(signal, timeout_s) for signal in understood]
    return [each for each in answers if not (each.ok and each.by)]


def _of_distro(signal: Signal, timeout_s: float) -> Answer:
    answer = _ask(signal, timeout_s, protocol="grpc")
    return replace(answer, by="opentelemetry-instrument", advice=_DISTRO)


def send_metrics(data: MetricsData, timeout_s: float) -> Answer:
    """Export these metrics, and again within the timeout if the receiver asks for that. Never raises."""
    return _ask("metrics", timeout_s, data)


def _ask(
    signal: Signal, timeout_s: float, data: MetricsData | None = None, protocol: str = "http/protobuf"
) -> Answer:
    """`protocol` counts where no variable names one."""
    protocol, endpoint = _variable(signal, "PROTOCOL") or protocol, _variable(signal, "ENDPOINT")
    if not endpoint:
        problem, advice = "OTEL_EXPORTER_OTLP_ENDPOINT is not set", "export it, such as http://127.0.0.1:4318"
    elif protocol not in ("grpc", "http/protobuf"):
        problem = f"the exporters for Python have no protocol {protocol}"
        advice = "set OTEL_EXPORTER_OTLP_PROTOCOL to http/protobuf or grpc"
    else:
        try:
            problem, advice = (_by_grpc if protocol == "grpc" else _by_http)(signal, timeout_s, data)
        except ImportError:
            problem = "the exporter for OTLP over gRPC is not installed"
            advice = 'pip install "carbon-otel[grpc]"'
        except Exception as error:  # noqa: BLE001 - an exporter may refuse any setting
            problem, advice = f"{type(error).__name__}: {error}", _OTHER
    return Answer(
        signal, address(signal), protocol, not problem, printable(problem), advice, advice == _CONTENT
    )


def address(signal: Signal) -> str:
    """The address that the variables name for a signal, without credentials."""
    parts = urlsplit(_variable(signal, "ENDPOINT"))
    return printable(urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", "")))


def _by_http(signal: Signal, timeout_s: float, data: MetricsData | None) -> tuple[str, str]:
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

    with contextlib.suppress(requests.RequestException):  # the exporter 1.39 raises the last one
        _export("http", signal, data, timeout=timeout_s, session=Session())
    result = results[-1]
    if isinstance(result, requests.exceptions.Timeout):
        return f"no answer in {timeout_s:g} s", _ADDRESS
    if isinstance(result, requests.RequestException):
        return str(_cause(result)), _ADDRESS
    if (
        data is not None
        and result.status_code < 300
        and not (result.content or "content-type" in result.headers)
    ):
        return "", ""  # Prometheus and VictoriaMetrics say nothing
    if result.status_code < 300:
        refused = _refused(signal, result.headers.get("content-type", ""), result.content)
        if refused is None:
            return "it answered 200, but that is no answer of an OTLP receiver", f"{_OTHER} {_PORTS}"
        return (f"it refused a part: {refused}", _CONTENT) if refused else ("", "")
    problem = f"it answered {result.status_code} {result.reason}"
    if data is not None and result.status_code in (400, 413, 500):
        return f"{problem}: {result.text[:200].strip()}", _CONTENT
    return problem, _ADVICE.get(result.status_code, _OTHER)


def _refused(signal: Signal, content_type: str, content: bytes) -> str | None:
    """What the receiver says about parts that it refuses, often nothing.

    None if this is no answer of an OTLP receiver: any web server may answer 200.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "application/json":
        try:
            answer = json.loads(content)
        except ValueError:
            return None
        # The exporters send protobuf, so no receiver has anything to say in JSON.
        return "" if isinstance(answer, dict) and answer.keys() <= {"partialSuccess"} else None
    if kind != "application/x-protobuf":
        return None
    name = "trace" if signal == "traces" else "metrics"
    service = importlib.import_module(f"opentelemetry.proto.collector.{name}.v1.{name}_service_pb2")
    response = getattr(service, f"Export{name.capitalize()}ServiceResponse")()
    try:
        response.ParseFromString(content)
    except importlib.import_module("google.protobuf.message").DecodeError:
        return None
    part = response.partial_success
    rejected = part.rejected_spans if signal == "traces" else part.rejected_data_points
    return f"{rejected} of its points: {part.error_message}" if rejected else ""


def _by_grpc(signal: Signal, timeout_s: float, data: MetricsData | None) -> tuple[str, str]:
    import grpc

    succeeded, records = _export("grpc", signal, data, timeout=timeout_s)
    if succeeded:
        return "", ""
    arguments = [argument for record in records if isinstance(record.args, tuple) for argument in record.args]
    code = next((argument.name for argument in arguments if isinstance(argument, grpc.StatusCode)), "")
    problem = records[-1].getMessage() if records else "the exporter failed without a reason"
    return problem, _ADVICE.get(code, _OTHER)


def _export(
    transport: str, signal: Signal, data: MetricsData | None, **settings: Any
) -> tuple[bool, list[logging.LogRecord]]:
    """Send an export, empty without `data`; returns its success and its log.

    Raises the errors of the exporter's constructor.
    """
    from opentelemetry.sdk.metrics import export as sdk

    package = f"opentelemetry.exporter.otlp.proto.{transport}"
    if signal == "traces":
        exporter = importlib.import_module(f"{package}.trace_exporter").OTLPSpanExporter(**settings)
    else:
        exporter = importlib.import_module(f"{package}.metric_exporter").OTLPMetricExporter(**settings)
    with _log_of("opentelemetry.exporter.otlp") as records:
        result = exporter.export([] if signal == "traces" else data or sdk.MetricsData(resource_metrics=[]))
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
