"""Receivers of OTLP: one that decodes its requests, one that is unavailable, and a real agent."""

from __future__ import annotations

import contextlib
import gzip
import http.server
import socket
import subprocess
import sysconfig
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.integration.processes import free_port, wait_for


class _Server(http.server.ThreadingHTTPServer):
    received: list[Any]


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Server

    def log_message(self, *args: object) -> None:
        pass

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("content-length") or 0))


class Receiver(_Handler):
    """Answers 200 and keeps the requests."""

    def do_POST(self) -> None:
        body = self.body()
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        kind = ExportTraceServiceRequest if self.path.endswith("traces") else ExportMetricsServiceRequest
        self.server.received.append(kind.FromString(body))
        self.send_response(200)
        self.send_header("content-type", "application/x-protobuf")
        self.end_headers()


class Unavailable(_Handler):
    """Answers 503."""

    def do_POST(self) -> None:
        self.body()
        self.send_response(503)
        self.end_headers()


class Sink:
    """The requests of a receiver, decoded."""

    def __init__(self, server: _Server) -> None:
        self._received: list[Any] = []
        server.received = self._received
        self.url = f"http://127.0.0.1:{server.server_port}"

    def resource_spans(self) -> list[Any]:
        return [r for request in list(self._received) for r in getattr(request, "resource_spans", ())]

    def spans(self) -> list[Any]:
        return [span for r in self.resource_spans() for scope in r.scope_spans for span in scope.spans]

    def exports(self) -> list[tuple[str, Any]]:
        """Every export of every metric, with the `service.instance.id` of its sender."""
        found = []
        for request in list(self._received):
            for resource in getattr(request, "resource_metrics", ()):
                attributes = {a.key: a.value.string_value for a in resource.resource.attributes}
                instance = attributes.get("service.instance.id", "")
                found += [(instance, metric) for scope in resource.scope_metrics for metric in scope.metrics]
        return found

    def metrics(self) -> dict[str, Any]:
        """The last export of each metric, by name."""
        return {metric.name: metric for _, metric in self.exports()}


@contextlib.contextmanager
def serving(handler: type[_Handler]) -> Iterator[Sink]:
    """A server on loopback that answers with `handler`."""
    web = _Server(("127.0.0.1", 0), handler)
    sink = Sink(web)
    thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield sink
    finally:
        web.shutdown()
        web.server_close()
        thread.join()


@contextlib.contextmanager
def rotel(exporter_url: str) -> Iterator[str]:
    """The address of an agent that receives gRPC and exports by HTTP to `exporter_url`."""
    binary = Path(sysconfig.get_path("purelib")) / "rotel" / "rotel-agent"
    grpc, web = free_port(), free_port()
    command = [str(binary), "start"]
    command += ["--otlp-grpc-endpoint", f"127.0.0.1:{grpc}", "--otlp-http-endpoint", f"127.0.0.1:{web}"]
    command += ["--exporter", "otlp", "--otlp-exporter-protocol", "http"]
    command += ["--otlp-exporter-endpoint", exporter_url]
    agent = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def listens() -> bool:
        if agent.poll() is not None:
            assert agent.stderr is not None
            pytest.skip(f"rotel needs the shared library of this Python: {agent.stderr.read()}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", grpc), 1):
            return True
        return False

    try:
        wait_for(listens)
        yield f"http://127.0.0.1:{grpc}"
    finally:
        agent.kill()
        agent.communicate()
