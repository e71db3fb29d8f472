"""What leaves by OTLP, as real receivers get it; and how long dead ones can hold up an exit."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import http.server
import os
import socket
import subprocess
import sys
import sysconfig
import threading
import time
from pathlib import Path

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the receivers are Linux binaries")

PROGRAM = """
import time
import carbon_otel
carbon_otel.instrument(zone="FR", interval_s=0.1)
with carbon_otel.stage("training", "fit"):
    end = time.monotonic() + 0.3
    while time.monotonic() < end:
        sum(range(1000))
print(time.time(), flush=True)
"""

# Added exit time with every backend dead, DESIGN's bound, and what a busy machine may add to it.
EXIT_BOUND_S = 5.0
SLACK_S = 1.5


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def program(endpoint: str, protocol: str) -> float:
    """Run the program; seconds from the end of its work to the end of its process."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": protocol},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return time.time() - float(done.stdout)


def test_a_receiver_over_http():
    from oteltap import OtelTapHttpProtobufReceiver, OtelTapHttpProtobufReceiverSettings

    port = free_port()

    async def receive():
        async with OtelTapHttpProtobufReceiver(
            OtelTapHttpProtobufReceiverSettings(http_port=port)
        ) as receiver:
            # The receiver streams: who waits must wait before it comes.
            waiting = [
                asyncio.ensure_future(receiver.await_trace(lambda span: span.name == "fit", timeout=30)),
                asyncio.ensure_future(
                    receiver.await_metric(lambda m: m.name == "carbon_otel.stage.energy", timeout=30)
                ),
                asyncio.ensure_future(receiver.await_metric(lambda m: m.name == "hw.energy", timeout=30)),
            ]
            await asyncio.to_thread(program, f"http://127.0.0.1:{port}", "http/protobuf")
            return await asyncio.gather(*waiting)

    span, metric, device = asyncio.run(receive())
    attributes = {a.key: a.value for a in span.attributes}
    assert attributes["carbon_otel.stage.kind"].string_value == "training"
    joules = attributes["carbon_otel.energy.total_j"].double_value
    assert joules > 0
    assert metric.unit == "J" and metric.sum.is_monotonic
    training = [
        p for p in metric.sum.data_points if "training" in {a.value.string_value for a in p.attributes}
    ]
    assert sum(p.as_double for p in training) == pytest.approx(joules, rel=1e-9)
    assert sum(p.as_double for p in metric.sum.data_points) == pytest.approx(
        sum(p.as_double for p in device.sum.data_points), rel=1e-9
    )


class Sink(http.server.BaseHTTPRequestHandler):
    """Takes OTLP over HTTP and keeps it decoded on the server object."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        kind = ExportTraceServiceRequest if self.path.endswith("traces") else ExportMetricsServiceRequest
        self.server.received.append(kind.FromString(body))
        self.send_response(200)
        self.send_header("content-type", "application/x-protobuf")
        self.end_headers()

    def log_message(self, *args) -> None:
        pass


@contextlib.contextmanager
def serving(handler):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.received = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@contextlib.contextmanager
def rotel(sink: str):
    """The agent: gRPC in, HTTP out to the sink."""
    binary = Path(sysconfig.get_path("purelib")) / "rotel" / "rotel-agent"
    grpc, web = free_port(), free_port()
    agent = subprocess.Popen(
        [
            binary,
            "start",
            "--otlp-grpc-endpoint",
            f"127.0.0.1:{grpc}",
            "--otlp-http-endpoint",
            f"127.0.0.1:{web}",
        ]
        + ["--exporter", "otlp", "--otlp-exporter-protocol", "http", "--otlp-exporter-endpoint", sink],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 15
        while time.monotonic() < deadline:
            if agent.poll() is not None:
                said = agent.stderr.read()
                pytest.fail(f"rotel did not start (it needs Debian's libpython3.11): {said}")
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", grpc), 1):
                break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{grpc}"
    finally:
        agent.kill()
        agent.communicate()


def test_an_agent_over_grpc():
    with serving(Sink) as (server, url), rotel(url) as endpoint:
        program(endpoint, "grpc")
        spans, metrics = {}, {}
        deadline = time.monotonic() + 20
        while not (spans and metrics) and time.monotonic() < deadline:
            time.sleep(0.1)
            for request in list(server.received):
                for resource in getattr(request, "resource_spans", ()):
                    spans |= {s.name: s for scope in resource.scope_spans for s in scope.spans}
                for resource in getattr(request, "resource_metrics", ()):
                    metrics |= {m.name: m for scope in resource.scope_metrics for m in scope.metrics}
    assert {a.key for a in spans["fit"].attributes} >= {"carbon_otel.energy.total_j", "carbon_otel.method"}
    assert metrics["carbon_otel.stage.emissions"].unit == "g{CO2e}"
    assert metrics["hw.power"].gauge.data_points[0].as_double > 0


class Unavailable(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(503)
        self.end_headers()

    def log_message(self, *args) -> None:
        pass


@contextlib.contextmanager
def refusing():
    yield f"http://127.0.0.1:{free_port()}"


@contextlib.contextmanager
def hanging():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen(16)  # connections are accepted by the kernel; nobody ever answers
        yield f"http://127.0.0.1:{s.getsockname()[1]}"


@contextlib.contextmanager
def unavailable():
    with serving(Unavailable) as (_, url):
        yield url


@pytest.mark.chaos
@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
@pytest.mark.parametrize("collector", [refusing, hanging, unavailable])
def test_a_dead_collector_holds_up_the_exit_for_a_bounded_time(collector, protocol):
    with collector() as endpoint:
        assert program(endpoint, protocol) < EXIT_BOUND_S + SLACK_S
