"""`carbon-otel collector check` against real receivers, and against other servers at their address."""

from __future__ import annotations

import datetime
import http.server
import ipaddress
import json
import ssl
import threading

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from typer.testing import CliRunner

from carbon_otel.cli import app
from carbon_otel.cli.otlp_probe import check
from tests.collector.programs import collector
from tests.integration.receivers import rotel


@pytest.fixture
def ask(monkeypatch):
    def ask(endpoint, protocol="http/protobuf", timeout_s=3.0, **variables):
        with monkeypatch.context() as patch:
            patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
            patch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
            # These variables would replace OTEL_EXPORTER_OTLP_CERTIFICATE.
            patch.delenv("REQUESTS_CA_BUNDLE", raising=False)
            patch.delenv("CURL_CA_BUNDLE", raising=False)
            for name, value in variables.items():
                patch.setenv(name, value)
            return check(timeout_s)

    return ask


def wrong(answers):
    assert not any(answer.ok for answer in answers)
    return answers[0].problem, answers[0].advice


class Answering(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers.get("content-length") or 0))
        self.send_response(self.server.status)
        self.send_header("content-type", self.server.kind)
        self.send_header("content-length", str(len(self.server.content)))
        self.end_headers()
        self.wfile.write(self.server.content)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def answering():
    """`answering(status)` is the address of a server that always gives that answer."""
    servers = []

    def start(status, tls=None, kind="application/x-protobuf", content=b""):
        web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answering)
        web.status, web.kind, web.content = status, kind, content
        if tls is not None:
            web.socket = tls.wrap_socket(web.socket, server_side=True)
        threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        servers.append(web)
        return f"http{'s' if tls else ''}://127.0.0.1:{web.server_port}"

    yield start
    for web in servers:
        web.shutdown()
        web.server_close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A self-signed certificate of 127.0.0.1: (file, TLS context of a server)."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.timezone.utc)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("tls")
    file, key_file = folder / "cert.pem", folder / "key.pem"
    file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file, key_file)
    return str(file), context


def test_a_receiver_over_http(sink, ask):
    answers = ask(sink.url)
    assert [(a.signal, a.ok, a.problem) for a in answers] == [("traces", True, ""), ("metrics", True, "")]
    assert sink.spans() == [] and sink.exports() == []


def test_an_agent_over_grpc_and_http_sent_to_it(sink, ask):
    with rotel(sink.url) as grpc:
        assert all(answer.ok for answer in ask(grpc, "grpc"))
        problem, advice = wrong(ask(grpc))
        assert problem and "OTEL_EXPORTER_OTLP_PROTOCOL" in advice


def test_grpc_sent_to_an_http_port(sink, ask):
    problem, advice = wrong(ask(sink.url, "grpc"))
    assert "StatusCode" in problem and "the usual port is 4318 for http/protobuf" in advice


def test_a_signal_that_is_turned_off_is_not_sent(sink, ask):
    assert [a.signal for a in ask(sink.url, OTEL_METRICS_EXPORTER="none")] == ["traces"]


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_nothing_listens(protocol, refusing, ask):
    for answer in ask(refusing, protocol):
        assert "refused" in answer.problem and "start the collector" in answer.advice


@pytest.mark.parametrize(
    ("protocol", "problem"), [("http/protobuf", "no answer in 0.5 s"), ("grpc", "DEADLINE")]
)
def test_a_listener_that_never_answers(protocol, problem, hanging, ask):
    answer, _ = ask(hanging, protocol, timeout_s=0.5)
    assert problem in answer.problem and "correct the address" in answer.advice


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_an_unknown_host(protocol, ask):
    problem, advice = wrong(ask("http://nowhere.invalid:4318", protocol))
    assert problem and "correct the address" in advice


def test_an_endpoint_without_a_scheme(ask):
    problem, _ = wrong(ask("user:secret@127.0.0.1"))
    assert "scheme" in problem.lower() or "schema" in problem.lower() or "adapter" in problem.lower()


def test_a_protocol_that_python_does_not_support(sink, ask):
    problem, advice = wrong(ask(sink.url, "http/json"))
    assert problem.endswith("no protocol http/json") and "OTEL_EXPORTER_OTLP_PROTOCOL" in advice


@pytest.mark.parametrize(
    ("status", "advice"),
    [
        (401, "OTEL_EXPORTER_OTLP_HEADERS"),
        (404, "without /v1/traces"),
        (422, "x-mlflow-experiment-id"),
        (429, "try again"),
        (503, "try again"),
        (307, "target address"),
        (500, "OTLP receiver"),
    ],
)
def test_answers_without_acceptance(status, advice, answering, ask):
    problem, given = wrong(ask(answering(status)))
    assert problem.startswith(f"it answered {status}") and advice in given


PARTIAL = (
    ExportTraceServiceResponse(partial_success={"error_message": "one span had no name"}).SerializeToString(),
    b'{"partialSuccess": {"errorMessage": "one span had no name"}}',
)


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("application/x-protobuf", b""),
        ("application/x-protobuf; charset=utf-8", PARTIAL[0]),
        ("application/json", b"{}"),
        ("application/json;charset=UTF-8", PARTIAL[1]),
    ],
)
def test_answers_of_receivers(kind, content, answering, ask):
    answers = ask(answering(200, kind=kind, content=content))
    assert [(a.ok, a.problem) for a in answers] == [(True, "")] * 2


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("application/json", b'{"status":"Server available","upSince":"2026-01-01T00:00:00Z"}'),
        ("application/json", b""),
        ("application/json", b"[]"),
        ("application/json", b"\xff\xfe"),
        ("application/x-protobuf", b"<html>"),
        ("text/html; charset=utf-8", b"<html></html>"),
        ("text/plain", b""),
        ("application/x-protobuffer", b""),
        ("", b""),
    ],
)
def test_other_web_servers_that_answer_200(kind, content, answering, ask):
    for answer in ask(answering(200, kind=kind, content=content)):
        assert not answer.ok and "OTLP" in answer.problem + answer.advice, answer


def test_the_health_port_of_a_collector(tmp_path, ask):
    with collector(tmp_path) as otelcol:
        assert all(answer.ok for answer in ask(otelcol.http))
        assert all(answer.ok for answer in ask(otelcol.grpc, "grpc"))
        problem, advice = wrong(ask(f"http://{otelcol.address}:13133"))
        assert "no answer of an OTLP receiver" in problem and "4318" in advice
        problem, _ = wrong(ask(f"http://{otelcol.scraped}"))
        assert problem


def test_metrics_that_the_server_does_not_accept(answering, ask):
    metrics = ask(answering(404))[1]
    assert "traces only" in metrics.advice and "OTEL_METRICS_EXPORTER=none" in metrics.advice


def test_tls(answering, certificate, sink, ask):
    file, context = certificate
    secure = answering(200, context)
    answers = ask(secure, OTEL_EXPORTER_OTLP_CERTIFICATE=file)
    assert all(answer.ok for answer in answers), answers
    problem, advice = wrong(ask(secure))
    assert "certificate verify failed" in problem and "OTEL_EXPORTER_OTLP_CERTIFICATE" in advice
    problem, advice = wrong(ask(sink.url.replace("http:", "https:")))
    assert problem and "http:// is without TLS" in advice
    problem, advice = wrong(ask(secure.replace("https:", "http:")))
    assert problem and "https:// with it" in advice


def test_mlflows_server_accepts_traces_of_an_experiment_and_no_metrics(tracking_server, ask):
    uri = tracking_server.url
    problem, advice = wrong(ask(uri))
    assert "422" in problem and "x-mlflow-experiment-id" in advice
    metrics = ask(uri, OTEL_EXPORTER_OTLP_TRACES_HEADERS="x-mlflow-experiment-id=0")[1]
    assert "accepts traces only" in metrics.advice


def test_the_command(sink, answering, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", sink.url)
    done = CliRunner().invoke(app, ["collector", "check"])
    assert done.exit_code == 0 and done.output.count(" taken: ") == 2
    refusing = answering(401).replace("http://", "http://user:secret@")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", refusing)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "Authorization=pylf_secret")
    done = CliRunner().invoke(app, ["collector", "check"])
    assert done.exit_code == 1 and "it answered 401" in done.output
    assert "secret" not in done.output
    answers = json.loads(CliRunner().invoke(app, ["collector", "check", "--json"]).output)
    assert [each["ok"] for each in answers] == [False, False]
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT")
    done = CliRunner().invoke(app, ["collector", "check"])
    assert done.exit_code == 1 and "OTEL_EXPORTER_OTLP_ENDPOINT is not set" in done.output


def test_a_port_for_http_is_told_apart_from_what_opentelemetry_instrument_sends(sink, monkeypatch):
    """Without a protocol in the variables, that command sends by gRPC: no span arrived, and all was 'taken'."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", sink.url)
    done = CliRunner().invoke(app, ["collector", "check"])
    assert done.output.count("NOT taken from opentelemetry-instrument: ") == 2
    assert done.output.count("OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf") == 2
    assert done.exit_code == 0  # carbon_otel itself is understood
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
    done = CliRunner().invoke(app, ["collector", "check"])
    assert done.output.count(" taken: ") == 2 and "NOT taken" not in done.output
