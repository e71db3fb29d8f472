"""Whether the endpoint of the standard OTLP variables takes traces and metrics, and what is wrong if it does not.

An export request that holds a resource and nothing else is sent, as the exporters would send it: a receiver
accepts it and keeps nothing.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal
from urllib.parse import urlsplit, urlunsplit

Signal = Literal["traces", "metrics"]
SIGNALS: Final[tuple[Signal, ...]] = ("traces", "metrics")
TIMEOUT_S: Final = 5.0

_SERVICES: Final = {
    "traces": "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
    "metrics": "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
}
# Field 1 (resource_spans, resource_metrics) with an empty message: the same bytes for both.
_NOTHING: Final = b"\x0a\x00"
_LOGFIRE: Final = "pydantic.dev"


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one signal. `endpoint` has no credentials in it; `problem` and `advice` are empty if `ok`."""

    signal: Signal
    endpoint: str
    protocol: str
    ok: bool
    problem: str = ""
    advice: str = ""


def check(environ: Mapping[str, str] = os.environ, timeout_s: float = TIMEOUT_S) -> list[Answer]:
    """Ask for both signals; those that `OTEL_*_EXPORTER=none` turns off are left out. Never raises."""
    return [
        _ask(signal, environ, timeout_s)
        for signal in SIGNALS
        if environ.get(f"OTEL_{signal.upper()}_EXPORTER", "otlp").strip().lower() != "none"
    ]


def _ask(signal: Signal, environ: Mapping[str, str], timeout_s: float) -> Answer:
    protocol = _variable(environ, signal, "PROTOCOL") or "http/protobuf"
    endpoint = environ.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT", "").strip()
    base = environ.get("OTEL_EXPORTER_OTLP_ENDPOINT", "").strip()
    if not endpoint and not base:
        problem = "OTEL_EXPORTER_OTLP_ENDPOINT is not set"
        return Answer(signal, "", protocol, False, problem, "export it, such as http://127.0.0.1:4318")
    if protocol not in ("grpc", "http/protobuf"):
        problem = f"OTEL_EXPORTER_OTLP_PROTOCOL={protocol} is none that the exporters for Python speak"
        return Answer(
            signal, _shown(endpoint or base), protocol, False, problem, "write http/protobuf or grpc"
        )
    if not endpoint:
        endpoint = base if protocol == "grpc" else f"{base.rstrip('/')}/v1/{signal}"
    ask = _by_grpc if protocol == "grpc" else _by_http
    try:
        problem, advice = ask(signal, endpoint, environ, timeout_s)
    except Exception as error:  # noqa: BLE001 - whatever a library raises is the answer
        problem, advice = f"{type(error).__name__}", "is the endpoint a URL, such as http://127.0.0.1:4318?"
    return Answer(signal, _shown(endpoint), protocol, not problem, problem, advice)


def _by_http(signal: Signal, endpoint: str, environ: Mapping[str, str], timeout_s: float) -> tuple[str, str]:
    import requests

    if not endpoint.startswith(("http://", "https://")):
        return "the endpoint has no scheme", "write http:// or https:// before it"
    headers = {"Content-Type": "application/x-protobuf", **_headers(environ, signal)}
    certificate = _variable(environ, signal, "CERTIFICATE")
    try:
        answer = requests.post(
            endpoint,
            data=_NOTHING,
            headers=headers,
            timeout=timeout_s,
            verify=certificate or True,
            allow_redirects=False,
        )
    except requests.exceptions.SSLError as error:
        return _tls(str(error))
    except requests.exceptions.Timeout:
        return f"no answer in {timeout_s:g} s", "is it the right port, and is something there that reads?"
    except requests.exceptions.ConnectionError as error:
        return _not_connected(str(error), endpoint)
    return _status(signal, endpoint, answer.status_code, answer.text[:500], set(headers))


def _status(signal: Signal, endpoint: str, status: int, text: str, headers: set[str]) -> tuple[str, str]:
    said = f"it answered {status}"
    if 200 <= status < 300:
        return "", ""
    if status in (401, 403):
        if _LOGFIRE in endpoint:
            return (
                said,
                "OTEL_EXPORTER_OTLP_HEADERS='Authorization=<write token>', without Bearer, of this region",
            )
        with_one = "authorization" in {name.lower() for name in headers}
        sent = "the Authorization that was sent is not taken" if with_one else "no Authorization was sent"
        return f"{said}: {sent}", "set OTEL_EXPORTER_OTLP_HEADERS as your backend says"
    if "x-mlflow-experiment-id" in text.lower() or (status == 422 and signal == "traces"):
        return (
            f"{said}: MLflow wants to know the experiment",
            "OTEL_EXPORTER_OTLP_TRACES_HEADERS='x-mlflow-experiment-id=<id>', as on the experiment's page",
        )
    if status in (404, 405) and signal == "metrics":
        return (
            f"{said}: nothing takes metrics there; MLflow's server takes traces only",
            "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT for a collector, or OTEL_METRICS_EXPORTER=none",
        )
    if status in (404, 405):
        return f"{said}: no such path", "OTEL_EXPORTER_OTLP_ENDPOINT is the address without /v1/traces"
    if status == 400 and "HTTPS" in text:
        return f"{said}: it speaks TLS", "write https:// in the endpoint"
    if status in (429, 502, 503, 504):
        return f"{said}: it is there, but takes nothing now", "try again; the exporters do so, too"
    if 300 <= status < 400:
        return f"{said}: it is elsewhere, and exporters do not follow", "write the address that it leads to"
    return said, "is it an OTLP receiver?"


def _by_grpc(signal: Signal, endpoint: str, environ: Mapping[str, str], timeout_s: float) -> tuple[str, str]:
    try:
        import grpc
    except ImportError:
        return "the exporter for OTLP over gRPC is not installed", 'pip install "carbon-otel[grpc]"'
    parts = urlsplit(endpoint if "://" in endpoint else f"//{endpoint}")
    insecure = parts.scheme == "http" or (
        not parts.scheme and (_variable(environ, signal, "INSECURE") or "").lower() == "true"
    )
    if insecure:
        channel = grpc.insecure_channel(parts.netloc)
    else:
        file = _variable(environ, signal, "CERTIFICATE")
        roots = None
        if file:
            with open(file, "rb") as opened:  # noqa: PTH123 - what is wrong with it is for the caller to say
                roots = opened.read()
        channel = grpc.secure_channel(parts.netloc, grpc.ssl_channel_credentials(roots))
    metadata = [(name.lower(), value) for name, value in _headers(environ, signal).items()]
    with channel:
        call = channel.unary_unary(_SERVICES[signal], lambda data: data, lambda data: data)
        try:
            call(_NOTHING, timeout=timeout_s, metadata=metadata)
        except grpc.RpcError as error:
            return _grpc_problem(error, endpoint, timeout_s)
    return "", ""


def _grpc_problem(error: Any, endpoint: str, timeout_s: float) -> tuple[str, str]:
    code, details = error.code().name, str(error.details())
    if code == "DEADLINE_EXCEEDED":
        return f"no answer in {timeout_s:g} s", "is it the right port, and is something there that reads?"
    if code in ("UNAUTHENTICATED", "PERMISSION_DENIED"):
        return f"it answered {code}", "set OTEL_EXPORTER_OTLP_HEADERS as your backend says"
    if code == "UNIMPLEMENTED":
        return f"it answered {code}", "it is no OTLP receiver, or has no pipeline for this signal"
    if code == "RESOURCE_EXHAUSTED":
        return f"it answered {code}: it takes nothing now", "try again; the exporters do so, too"
    lower = details.lower()
    if "ssl" in lower or "handshake" in lower or "certificate" in lower:
        return _tls(details)
    if "parsing http/2" in lower or "http1" in lower or "http/1" in lower:
        return (
            "it speaks HTTP/1, not gRPC",
            "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf, or the gRPC port, 4317 by default",
        )
    return _not_connected(details, endpoint)


def _not_connected(details: str, endpoint: str) -> tuple[str, str]:
    lower = details.lower()
    if "refused" in lower:
        return "connection refused", "nothing listens there: start the collector, or correct the address"
    if any(word in lower for word in ("name or service", "resolv", "getaddrinfo", "domain name")):
        return f"the host of {_shown(endpoint)} is not known", "correct the address"
    if any(word in lower for word in ("badstatusline", "remote end closed", "connection reset", "aborted")):
        return (
            "it does not speak HTTP/1: a gRPC port, or one that wants TLS",
            "OTEL_EXPORTER_OTLP_PROTOCOL=grpc, or the HTTP port, 4318 by default; or https://",
        )
    if "socket closed" in lower or "goaway" in lower:
        return (
            "it closed the connection",
            "does it speak gRPC, and without TLS? HTTP's port is 4318 by default",
        )
    return "it cannot be reached", "correct the address, or look at the network between"


def _tls(details: str) -> tuple[str, str]:
    upper = details.upper()
    if "WRONG_VERSION" in upper or "RECORD LAYER" in upper or "UNKNOWN PROTOCOL" in upper:
        return "it does not speak TLS", "write http:// in the endpoint"
    if "CERTIFICATE" in upper:
        return (
            "its certificate is not trusted",
            "OTEL_EXPORTER_OTLP_CERTIFICATE=<file of the authority>, or correct the host's name",
        )
    return "TLS failed", "does it speak TLS? If not, write http:// in the endpoint"


def _variable(environ: Mapping[str, str], signal: Signal, name: str) -> str | None:
    for variable in (f"OTEL_EXPORTER_OTLP_{signal.upper()}_{name}", f"OTEL_EXPORTER_OTLP_{name}"):
        value = environ.get(variable, "").strip()
        if value:
            return value
    return None


def _headers(environ: Mapping[str, str], signal: Signal) -> dict[str, str]:
    from opentelemetry.util.re import parse_env_headers

    return dict(parse_env_headers(_variable(environ, signal, "HEADERS") or "", liberal=True))


def _shown(endpoint: str) -> str:
    """Without a user's name and password, and without a query."""
    parts = urlsplit(endpoint)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
