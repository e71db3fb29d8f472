"""What the integration tests share: programs run as processes, and an OTLP receiver that decodes."""

from __future__ import annotations

import contextlib
import gzip
import http.server
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.fakes.powercap import server

PROGRAMS = Path(__file__).with_name("programs")


@pytest.fixture
def tree(tmp_path):
    return server(tmp_path)


@pytest.fixture
def drawing(tmp_path):
    """The root of a package that draws 20 W as long as the test runs."""
    drawn = server(tmp_path / "sys")
    end = threading.Event()

    def draw() -> None:
        while not end.wait(0.01):
            drawn.package[0].add(20 * 0.01)

    thread = threading.Thread(target=draw)
    thread.start()
    yield drawn.root
    end.set()
    thread.join()


class Program:
    """A small program of ours in a process of its own."""

    def __init__(self, name: str, *arguments: str, **variables: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(PROGRAMS / name), *arguments],
            env={**os.environ, **variables},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.pid = self.process.pid
        self.out = self.err = ""

    def line(self) -> str:
        """The next line it prints; empty if it ends before."""
        return self.process.stdout.readline().strip()

    def go(self) -> None:
        """Let it leave its `input()`."""
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def finish(self, timeout: float = 120) -> str:
        """What it printed since, once it has ended as it should."""
        self.out, self.err = self.process.communicate(timeout=timeout)
        assert self.process.returncode == 0, self.out + self.err
        return self.out

    def leave(self) -> float:
        """Seconds from the time it prints last, the end of its work, to the end of the process."""
        worked_until = float(self.finish().split()[-1])
        return time.time() - worked_until


@pytest.fixture
def launch():
    """Starts programs, and leaves none behind."""
    started = []

    def start(name: str, *arguments: str, **variables: str) -> Program:
        started.append(Program(name, *arguments, **variables))
        return started[-1]

    yield start
    for program in started:
        if program.process.poll() is None:
            program.process.kill()
        program.process.communicate()


@pytest.fixture(scope="session")
def free_port():
    def find() -> int:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            return s.getsockname()[1]

    return find


class _Quiet(http.server.BaseHTTPRequestHandler):
    def log_message(self, *args) -> None:
        pass

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers["content-length"]))


class _Receiver(_Quiet):
    def do_POST(self) -> None:
        body = self.body()
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        kind = ExportTraceServiceRequest if self.path.endswith("traces") else ExportMetricsServiceRequest
        self.server.received.append(kind.FromString(body))
        self.send_response(200)
        self.send_header("content-type", "application/x-protobuf")
        self.end_headers()


class _Unavailable(_Quiet):
    def do_POST(self) -> None:
        self.body()
        self.send_response(503)
        self.end_headers()


class Sink:
    """Takes OTLP over HTTP, and keeps it decoded."""

    def __init__(self, server: http.server.ThreadingHTTPServer) -> None:
        self._received = server.received = []
        self.url = f"http://127.0.0.1:{server.server_port}"

    def resource_spans(self) -> list[object]:
        return [r for request in list(self._received) for r in getattr(request, "resource_spans", ())]

    def spans(self) -> list[object]:
        return [span for r in self.resource_spans() for scope in r.scope_spans for span in scope.spans]

    def exports(self) -> list[tuple[str, object]]:
        """Every metric as often as it came, each with the `service.instance.id` of who sent it."""
        found = []
        for request in list(self._received):
            for resource in getattr(request, "resource_metrics", ()):
                attributes = {a.key: a.value.string_value for a in resource.resource.attributes}
                instance = attributes.get("service.instance.id", "")
                found += [(instance, metric) for scope in resource.scope_metrics for metric in scope.metrics]
        return found

    def metrics(self) -> dict[str, object]:
        """Metrics by their names, as they came last."""
        return {metric.name: metric for _, metric in self.exports()}


@contextlib.contextmanager
def _serving(handler):
    web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    sink = Sink(web)
    thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield sink
    finally:
        web.shutdown()
        web.server_close()
        thread.join()


@pytest.fixture
def sink():
    with _serving(_Receiver) as receiver:
        yield receiver


@pytest.fixture
def refusing(free_port):
    """The address of a collector that is not there."""
    return f"http://127.0.0.1:{free_port()}"


@pytest.fixture
def hanging():
    """The address of one that takes connections, as the kernel does for it, and never answers."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen(16)
        yield f"http://127.0.0.1:{s.getsockname()[1]}"


@pytest.fixture
def unavailable():
    """The address of one that answers 503."""
    with _serving(_Unavailable) as receiver:
        yield receiver.url
