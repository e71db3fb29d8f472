"""`carbon-otel journal send`: what it sends, what it leaves, and what it says to a person."""

from __future__ import annotations

import http.server
import json
import subprocess
import sys
import threading
import time

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsPartialSuccess,
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from typer.testing import CliRunner

import carbon_otel
from carbon_otel import quantities
from carbon_otel.cli import app, journal
from tests.fakes.powercap import server
from tests.integration.processes import free_port

TAKEN = ExportMetricsServiceResponse().SerializeToString()
PARTIAL = ExportMetricsServiceResponse(
    partial_success=ExportMetricsPartialSuccess(rejected_data_points=3, error_message="too old")
).SerializeToString()


class Receiver(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        status, content, kind = self.server.answer(body)
        self.server.requests.append((self.path, self.headers, body))
        self.send_response(status)
        if kind:
            self.send_header("content-type", kind)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def receiver():
    web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    web.requests = []
    web.answer = lambda body: (200, TAKEN, "application/x-protobuf")
    web.address = f"http://127.0.0.1:{web.server_port}"
    threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    yield web
    web.shutdown()
    web.server_close()


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """The journal of a process that has ended."""
    file = tmp_path / "run.json"
    monkeypatch.setenv("CARBON_OTEL_JOURNAL", str(file))
    tree = server(tmp_path)
    carbon_otel.instrument(zone="FR", powercap_root=tree.root, interval_s=30)
    with carbon_otel.stage("training", "fit"):
        time.sleep(0.01)
        tree.package[0].add(20)
    carbon_otel.uninstrument()
    return file


@pytest.fixture
def send(receiver, monkeypatch):
    monkeypatch.setattr(journal, "_TIMEOUT_S", 0.5)

    def send(*arguments, endpoint=receiver.address, **variables):
        environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, **variables}
        return CliRunner().invoke(app, ["journal", "send", *map(str, arguments)], env=environment)

    return send


def change(file, **state):
    file.write_text(json.dumps({**json.loads(file.read_text()), **state}))


def test_it_is_sent_once_with_the_time_of_sending(kept, receiver, send):
    joules = json.loads(kept.read_text())["footprint"]["energy_j"]
    before_ns = time.time_ns()
    done = send(kept)
    assert done.exit_code == 0, done.output
    assert f"{kept}: {quantities.energy(joules)}, to {receiver.address}" in done.output
    ((path, _, body),) = receiver.requests
    assert path == "/v1/metrics"
    sent = ExportMetricsServiceRequest.FromString(body).resource_metrics[0].scope_metrics[0].metrics
    (energy,) = (metric for metric in sent if metric.name == "carbon_otel.stage.energy")
    assert all(
        point.time_unix_nano > before_ns > point.start_time_unix_nano for point in energy.sum.data_points
    )
    assert sum(point.as_double for point in energy.sum.data_points) == pytest.approx(joules)
    assert not [metric.name for metric in sent if metric.HasField("gauge")]

    second = send(kept)
    assert second.exit_code == 0 and "sent there before" in second.output and len(receiver.requests) == 1
    assert send(kept, "--again").exit_code == 0 and len(receiver.requests) == 2
    change(kept, written_unix_s=time.time())  # it has gone on
    assert send(kept).exit_code == 0 and len(receiver.requests) == 3


def test_another_receiver_gets_it_too(kept, receiver, send):
    assert send(kept, endpoint="http://127.0.0.1:1", OTEL_EXPORTER_OTLP_METRICS_ENDPOINT="").exit_code == 1
    assert send(kept).exit_code == 0
    host = receiver.address.replace("127.0.0.1", "localhost")
    assert send(kept, "--endpoint", host).exit_code == 0
    assert "sent there before" in send(kept).output
    assert len(receiver.requests) == 2


def test_the_endpoint_counts_before_the_variables(kept, receiver, send):
    nobody = f"http://127.0.0.1:{free_port()}"
    done = send(
        kept,
        "--endpoint",
        receiver.address,
        endpoint=nobody,
        OTEL_EXPORTER_OTLP_METRICS_ENDPOINT=f"{nobody}/v1/metrics",
    )
    assert done.exit_code == 0 and len(receiver.requests) == 1


def test_what_needs_no_sending(kept, receiver, send):
    change(kept, exported=True)
    done = send(kept)
    assert done.exit_code == 0 and "has sent all of it" in done.output
    change(kept, exported=False, status="running", written_unix_s=time.time())
    done = send(kept)
    assert done.exit_code == 0 and "is running" in done.output
    assert not receiver.requests


def test_the_last_checkpoint_of_a_killed_process(kept, receiver, send):
    change(kept, status="running", written_unix_s=1_800_000_000.0 - 86_400 * 365)
    done = send(kept)
    assert done.exit_code == 0 and len(receiver.requests) == 1
    assert "its process was killed, these are its sums of 2026-01-15 08:00:00 UTC" in done.output


OLD = {"status": "final", "footprint": {"energy_j": 1.0}}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "cannot be read (No such file or directory)"),
        ("", "not the JSON of a journal"),
        ("[1]", "no status and footprint"),
        ('{"status": "final"}', "no status and footprint"),
        (json.dumps(OLD), "it has no metrics to send"),
        (json.dumps({**OLD, "metrics": {}}), "not complete (KeyError('resourceMetrics'))"),
        (json.dumps({**OLD, "metrics": {"resourceMetrics": []}}), "not complete (ValueError"),
        (json.dumps({**OLD, "metrics": "no"}), "not complete (TypeError"),
    ],
)
def test_a_file_that_is_no_journal_stops_no_other(text, reason, kept, tmp_path, receiver, send):
    other = tmp_path / "other.json"
    if text is not None:
        other.write_text(text)
    done = send(other, kept)
    assert done.exit_code == 2 and f"NOT sent {other}: " in done.output and reason in done.output
    assert len(receiver.requests) == 1


def test_a_process_that_has_measured_nothing(kept, receiver, send):
    state = json.loads(kept.read_text())
    state["metrics"]["resourceMetrics"][0]["scopeMetrics"][0]["metrics"] = []
    kept.write_text(json.dumps(state))
    done = send(kept)
    assert done.exit_code == 2 and "has measured nothing" in done.output and not receiver.requests


@pytest.mark.parametrize(
    ("status", "content", "kind", "words"),
    [
        (401, b"", "", ("401", "OTEL_EXPORTER_OTLP_HEADERS")),
        (404, b"", "", ("404", "without /v1/traces or /v1/metrics")),
        (503, b"", "", ("503", "try again")),
        (200, b"<html>", "text/html", ("no answer of an OTLP receiver", "4318")),
    ],
)
def test_what_to_do_about_a_receiver_that_takes_none(
    status, content, kind, words, kept, tmp_path, receiver, send
):
    receiver.answer = lambda body: (status, content, kind)
    second = tmp_path / "second.json"
    second.write_text(kept.read_text())
    done = send(kept, second)
    assert done.exit_code == 1
    assert all(word in done.output for word in words), done.output
    assert f"not tried {second}" in done.output and not kept.with_name("run.json.sent").exists()
    receiver.answer = lambda body: (200, TAKEN, "application/x-protobuf")
    assert send(kept, second).output.count("sent     ") == 2


@pytest.mark.parametrize(
    ("status", "content", "kind", "said"),
    [
        (400, b"out of order sample", "text/plain", "out of order sample"),
        (500, b"too old sample", "text/plain", "too old sample"),
        (200, PARTIAL, "application/x-protobuf", "3 of its points: too old"),
    ],
)
def test_a_journal_that_a_receiver_refuses_stops_no_other(
    status, content, kind, said, kept, tmp_path, receiver, send
):
    answers = [(status, content, kind), (200, b"", "")]  # the second is what Prometheus says
    receiver.answer = lambda body: answers.pop(0)
    second = tmp_path / "second.json"
    second.write_text(kept.read_text())
    done = send(kept, second)
    assert done.exit_code == 1 and said in done.output
    assert "NOT sent" in done.output and f"sent     {second}" in done.output


def test_a_receiver_that_asks_for_another_try_gets_it(kept, receiver, send, monkeypatch):
    monkeypatch.setattr(journal, "_TIMEOUT_S", 20)
    answers = [(503, b"", ""), (200, TAKEN, "application/x-protobuf")]
    receiver.answer = lambda body: answers.pop(0)
    assert send(kept).exit_code == 0 and len(receiver.requests) == 2


def test_nobody_listens(kept, send):
    done = send(kept, endpoint=f"http://127.0.0.1:{free_port()}")
    assert (
        done.exit_code == 1 and "Connection refused" in done.output and "start the collector" in done.output
    )
    done = send(kept, endpoint="")
    assert done.exit_code == 1 and "OTEL_EXPORTER_OTLP_ENDPOINT is not set" in done.output


def test_no_secret_is_printed_or_noted(kept, receiver, send):
    receiver.answer = lambda body: (401, b"needle", "text/plain")
    address = receiver.address.replace("http://", "http://me:needle@") + "?token=needle"
    headers = {"OTEL_EXPORTER_OTLP_HEADERS": "Authorization=Bearer%20needle-header"}
    done = send(kept, endpoint=address, **headers)
    assert done.exit_code == 1 and "needle" not in done.output
    receiver.answer = lambda body: (200, TAKEN, "application/x-protobuf")
    done = send(kept, "--endpoint", receiver.address, **headers)
    assert done.exit_code == 0 and "needle" not in done.output
    assert "needle" not in kept.with_name("run.json.sent").read_text()
    assert receiver.requests[-1][1]["authorization"] == "Bearer needle-header"


def test_a_note_that_cannot_be_written_is_said(kept, receiver, send):
    kept.with_name("run.json.sent").mkdir()
    done = send(kept)
    assert done.exit_code == 0 and "cannot be noted" in done.output and "do not send it twice" in done.output


def test_mlflow_is_not_loaded(kept, receiver):
    program = (
        "import sys\nfrom carbon_otel.cli import app\n"
        f"try: app(['journal', 'send', '--endpoint', {receiver.address!r}, {str(kept)!r}])\n"
        "finally: print('loaded', 'mlflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert "loaded False" in done.stdout and len(receiver.requests) == 1, done.stderr
