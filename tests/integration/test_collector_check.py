"""`carbon-otel collector check` against real receivers, and against other servers at their address."""

from __future__ import annotations

import datetime
import http.server
import ipaddress
import json
import ssl
import threading

import pytest
from typer.testing import CliRunner

from carbon_otel.cli import app
from carbon_otel.cli.otlp_probe import check
from tests.integration.receivers import rotel


def ask(endpoint, protocol="http/protobuf", timeout_s=5.0, **variables):
    names = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": protocol, **variables}
    return check(names, timeout_s)


def wrong(answers):
    assert not any(answer.ok for answer in answers)
    return answers[0].problem, answers[0].advice


class Answering(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers.get("content-length") or 0))
        self.send_response(self.server.status)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *arguments):
        pass


@pytest.fixture
def answering():
    """`answering(status, tls)` is the address of a server that always answers with that status."""
    servers = []

    def start(status, tls=None):
        web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answering)
        web.status = status
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


def test_a_receiver_over_http(sink):
    answers = ask(sink.url)
    assert [(a.signal, a.ok, a.problem) for a in answers] == [("traces", True, ""), ("metrics", True, "")]
    assert sink.spans() == [] and sink.exports() == []


def test_an_agent_over_grpc_and_http_to_its_grpc_port(sink):
    with rotel(sink.url) as grpc:
        assert all(answer.ok for answer in ask(grpc, "grpc"))
        problem, advice = wrong(ask(grpc))
        assert "gRPC port" in problem and "OTEL_EXPORTER_OTLP_PROTOCOL=grpc" in advice


def test_grpc_to_an_http_port(sink):
    problem, advice = wrong(ask(sink.url, "grpc"))
    assert problem == "it speaks HTTP/1, not gRPC" and "http/protobuf" in advice


def test_a_signal_that_is_turned_off_is_not_checked(sink):
    assert [a.signal for a in ask(sink.url, OTEL_METRICS_EXPORTER="none")] == ["traces"]


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_nothing_listens(protocol, refusing):
    problem, advice = wrong(ask(refusing, protocol))
    assert problem == "connection refused" and "start the collector" in advice


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_a_server_that_never_answers(protocol, hanging):
    problem, _ = wrong(ask(hanging, protocol, timeout_s=0.5))
    assert problem == "no answer in 0.5 s"


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_an_unknown_host(protocol):
    problem, advice = wrong(ask("http://nowhere.invalid:4318", protocol))
    assert "is not known" in problem and advice == "correct the address"


@pytest.mark.parametrize(
    ("status", "problem", "advice"),
    [
        (401, "no Authorization was sent", "OTEL_EXPORTER_OTLP_HEADERS"),
        (404, "no such path", "without /v1/traces"),
        (429, "takes nothing now", "try again"),
        (503, "takes nothing now", "try again"),
        (307, "elsewhere", "leads to"),
        (500, "it answered 500", "OTLP receiver"),
    ],
)
def test_answers_of_other_servers(status, problem, advice, answering):
    said = wrong(ask(answering(status)))
    assert problem in said[0] and advice in said[1]


def test_a_server_without_metrics(answering):
    metrics = ask(answering(404))[1]
    assert "traces only" in metrics.problem and "OTEL_METRICS_EXPORTER=none" in metrics.advice


def test_tls(answering, certificate, sink):
    file, context = certificate
    secure = answering(200, context)
    assert all(answer.ok for answer in ask(secure, OTEL_EXPORTER_OTLP_CERTIFICATE=file))
    problem, advice = wrong(ask(secure))
    assert "not trusted" in problem and "OTEL_EXPORTER_OTLP_CERTIFICATE" in advice
    problem, advice = wrong(ask(sink.url.replace("http:", "https:")))
    assert problem == "it does not speak TLS" and "http://" in advice
    problem, advice = wrong(ask(secure.replace("https:", "http:")))
    assert "TLS" in problem and "https://" in advice


def test_mlflows_server_takes_traces_of_an_experiment_and_no_metrics(tracking_server):
    uri = tracking_server.url
    problem, advice = wrong(ask(uri))
    assert "experiment" in problem and "x-mlflow-experiment-id" in advice
    traces, metrics = ask(uri, OTEL_EXPORTER_OTLP_TRACES_HEADERS="x-mlflow-experiment-id=0")
    assert traces.ok, traces
    assert "MLflow's server takes traces only" in metrics.problem


def test_the_command(sink, answering, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", sink.url)
    done = CliRunner().invoke(app, ["collector", "check"])
    assert done.exit_code == 0 and done.output.count(" taken: ") == 2
    refusing = answering(401).replace("http://", "http://user:secret@")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", refusing)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "Authorization=pylf_secret")
    done = CliRunner().invoke(app, ["collector", "check"])
    assert done.exit_code == 1 and "the Authorization that was sent is not taken" in done.output
    assert "secret" not in done.output
    told = json.loads(CliRunner().invoke(app, ["collector", "check", "--json"]).output)
    assert [each["ok"] for each in told] == [False, False]
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT")
    done = CliRunner().invoke(app, ["collector", "check"])
    assert done.exit_code == 1 and "OTEL_EXPORTER_OTLP_ENDPOINT is not set" in done.output
