"""Each file of the collector, in the real one, fed by a real job over HTTP and gRPC."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.collector.certificates import write_certificate
from tests.collector.load import post, received_joules, span, spans_in
from tests.collector.programs import Collector, collector, jaeger, own_address, prometheus
from tests.integration.processes import wait_for

RECEIVED = Path(__file__).with_name("received.yaml")
PROTOCOLS = {"http": "http/protobuf", "grpc": "grpc"}
TOKEN = "a-token-of-this-test"

both = pytest.mark.parametrize("protocol", PROTOCOLS)


def run_job(folder, program, protocol="http", seconds=1, **variables):
    """The figures of a job that sent to a collector, and what it logged."""
    # Over HTTP, these go before OTEL_EXPORTER_OTLP_CERTIFICATE.
    bundles = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("measured_job.py"), str(folder / "sys"), str(seconds)],
        env={
            **{name: value for name, value in os.environ.items() if name not in bundles},
            "OTEL_SERVICE_NAME": "job",
            "OTEL_EXPORTER_OTLP_ENDPOINT": program.grpc if protocol == "grpc" else program.http,
            "OTEL_EXPORTER_OTLP_PROTOCOL": PROTOCOLS[protocol],
            **variables,
        },
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def scraped_joules(program):
    """The stages' energy on the page that Prometheus would scrape."""
    found = re.findall(r"^carbon_otel_stage_energy_joules_total\{.*?\} (\S+)", program.page(), re.MULTILINE)
    return sum(map(float, found))


def span_joules(spans):
    """The energy of the stages that have no stage within."""
    return sum(
        attribute["value"]["doubleValue"]
        for each in spans
        for attribute in each.get("attributes", ())
        if attribute["key"] == "carbon_otel.energy.total_j"
    )


def has_arrived(figures, joules):
    """What the job itself says it used: its stages are all that it did, but for its first and last moments."""
    expected = figures["scored_j"] + figures["fitted_j"]
    return wait_for(lambda: (found := joules()) and expected <= found <= figures["joules"] * 1.05)


@both
def test_config_alone(tmp_path, protocol):
    with collector(tmp_path) as program:
        figures, _ = run_job(tmp_path, program, protocol)
        has_arrived(figures, lambda: scraped_joules(program))
        has_arrived(figures, lambda: span_joules(spans_in(tmp_path / "otelcol" / "traces.jsonl")))
        log = program.log.read_text()
    assert not re.findall(r"^.*\t(?:warn|error)\t.*$", log, re.MULTILINE)


@both
def test_jaeger_has_the_spans_with_their_energy(tmp_path, protocol):
    with (
        jaeger(tmp_path) as store,
        collector(tmp_path, "config.yaml", "jaeger.yaml", JAEGER_ENDPOINT=store.grpc) as program,
    ):
        figures, _ = run_job(tmp_path, program, protocol)
        has_arrived(figures, lambda: scraped_joules(program))
        traces = wait_for(lambda: store.traces("job"))
    tags = [tag["key"] for trace in traces for each in trace["spans"] for tag in each["tags"]]
    assert "carbon_otel.energy.total_j" in tags
    assert not (tmp_path / "otelcol" / "traces.jsonl").exists()


@both
def test_prometheus_that_is_pushed_to(tmp_path, protocol):
    with (
        prometheus(tmp_path, otlp=True) as store,
        collector(
            tmp_path, "config.yaml", "prometheus.yaml", PROMETHEUS_ENDPOINT=f"{store.url}/api/v1/otlp"
        ) as program,
    ):
        figures, _ = run_job(tmp_path, program, protocol)
        has_arrived(
            figures,
            lambda: store.value("sum(last_over_time(carbon_otel_stage_energy_joules_total[1h]))") or 0,
        )
        has_arrived(figures, lambda: span_joules(spans_in(tmp_path / "otelcol" / "traces.jsonl")))


@both
def test_upstream_in_plain(tmp_path, protocol):
    other = tmp_path / "upstream"
    other.mkdir()
    with collector(other, RECEIVED) as upstream:
        where = {
            "http": {"UPSTREAM_ENDPOINT": upstream.http},
            "grpc": {"UPSTREAM_ENDPOINT": f"{upstream.address}:4317", "UPSTREAM_INSECURE": "true"},
        }[protocol]
        with collector(
            tmp_path, "config.yaml", "upstream.yaml", UPSTREAM_PROTOCOL=protocol, **where
        ) as program:
            figures, _ = run_job(tmp_path, program, protocol)
            has_arrived(figures, lambda: sum(received_joules(other).values()))
            has_arrived(figures, lambda: span_joules(spans_in(other / "otelcol" / "traces.jsonl")))
            has_arrived(figures, lambda: scraped_joules(program))


@both
def test_upstream_with_tls_an_own_authority_and_a_token(tmp_path, protocol):
    other, address = tmp_path / "upstream", own_address()
    other.mkdir()
    authority = write_certificate(tmp_path / "tls", address)
    secure = {"OTELCOL_TLS": str(authority.parent), "OTELCOL_TOKEN": TOKEN}
    with (
        collector(other, "config.yaml", "secure.yaml", address=address, **secure) as upstream,
        collector(
            tmp_path,
            "config.yaml",
            "upstream.yaml",
            UPSTREAM_PROTOCOL=protocol,
            UPSTREAM_ENDPOINT=f"https://{address}:4318" if protocol == "http" else f"{address}:4317",
            UPSTREAM_CA=str(authority),
            UPSTREAM_AUTHORIZATION=f"Bearer {TOKEN}",
        ) as program,
    ):
        figures, _ = run_job(tmp_path, program, protocol)
        has_arrived(figures, lambda: scraped_joules(upstream))
        has_arrived(figures, lambda: span_joules(spans_in(other / "otelcol" / "traces.jsonl")))


def test_logfire_and_upstream_get_everything_both(tmp_path):
    folders = [tmp_path / "logfire", tmp_path / "upstream"]
    for folder in folders:
        folder.mkdir()
    with (
        collector(folders[0], RECEIVED) as logfire,
        collector(folders[1], RECEIVED) as upstream,
        collector(
            tmp_path,
            "config.yaml",
            "logfire.yaml",
            "upstream.yaml",
            LOGFIRE_TOKEN=TOKEN,
            LOGFIRE_BASE_URL=logfire.http,
            UPSTREAM_ENDPOINT=f"{upstream.address}:4317",
            UPSTREAM_INSECURE="true",
        ) as program,
    ):
        figures, _ = run_job(tmp_path, program)
        for folder in folders:
            has_arrived(figures, lambda folder=folder: sum(received_joules(folder).values()))
            file = folder / "otelcol" / "traces.jsonl"
            has_arrived(figures, lambda file=file: span_joules(spans_in(file)))


class TestSecure:
    @pytest.fixture
    def secured(self, tmp_path):
        address = own_address()
        authority = write_certificate(tmp_path / "tls", address)
        secure = {"OTELCOL_TLS": str(authority.parent), "OTELCOL_TOKEN": TOKEN}
        with collector(tmp_path, "config.yaml", "secure.yaml", address=address, **secure) as program:
            program.http = program.http.replace("http:", "https:")
            program.grpc = program.grpc.replace("http:", "https:")
            yield program, authority

    @both
    def test_the_token_lets_in(self, tmp_path, secured, protocol):
        program, authority = secured
        figures, _ = run_job(
            tmp_path,
            program,
            protocol,
            OTEL_EXPORTER_OTLP_HEADERS=f"authorization=Bearer%20{TOKEN}",
            OTEL_EXPORTER_OTLP_CERTIFICATE=str(authority),
        )
        has_arrived(figures, lambda: scraped_joules(program))

    @both
    def test_a_wrong_token_is_refused_and_the_job_says_so(self, tmp_path, secured, protocol):
        program, authority = secured
        _, log = run_job(
            tmp_path,
            program,
            protocol,
            OTEL_EXPORTER_OTLP_HEADERS="authorization=Bearer%20another",
            OTEL_EXPORTER_OTLP_CERTIFICATE=str(authority),
        )
        assert "401" in log if protocol == "http" else "UNAUTHENTICATED" in log
        assert TOKEN not in log
        assert scraped_joules(program) == 0
        assert not spans_in(tmp_path / "otelcol" / "traces.jsonl")

    def test_without_tls_nobody_is_let_in(self, secured):
        program, _ = secured
        plain = program.http.replace("https:", "http:")
        assert post(plain, "traces", span("1" * 16), Authorization=f"Bearer {TOKEN}") in (0, 400)


@pytest.mark.parametrize("empty", [False, True], ids=["unset", "empty"])
@pytest.mark.parametrize(
    ("file", "missing", "others"),
    [
        ("jaeger.yaml", "JAEGER_ENDPOINT", {}),
        ("prometheus.yaml", "PROMETHEUS_ENDPOINT", {}),
        ("upstream.yaml", "UPSTREAM_ENDPOINT", {}),
        ("upstream.yaml", "UPSTREAM_ENDPOINT", {"UPSTREAM_PROTOCOL": "http"}),
        ("logfire.yaml", "LOGFIRE_TOKEN", {}),
        ("secure.yaml", "OTELCOL_TOKEN", {"OTELCOL_TLS": "/"}),
        ("secure.yaml", "OTELCOL_TLS", {"OTELCOL_TOKEN": TOKEN}),
        ("agent.yaml", "GATEWAY_ENDPOINT", {}),
        ("gateway.yaml", "REMOTE_WRITE_ENDPOINT", {"JAEGER_ENDPOINT": "here:4317"}),
        ("gateway.yaml", "JAEGER_ENDPOINT", {"REMOTE_WRITE_ENDPOINT": "http://here"}),
    ],
)
def test_a_missing_variable_stops_the_start(tmp_path, file, missing, others, empty):
    program = Collector(tmp_path, "config.yaml", file, **others, **({missing: ""} if empty else {}))
    try:
        assert program.process.wait(60) == 1
    finally:
        program.kill()
    _, error, lines = program.log.read_text().strip().rpartition("\nError: ")
    assert error and all(missing in line for line in lines.splitlines())


def test_a_folder_that_cannot_be_made_stops_the_start(tmp_path):
    (tmp_path / "file").touch()
    program = Collector(tmp_path, OTELCOL_STORAGE=str(tmp_path / "file" / "below"))
    assert program.process.wait(60) == 1
    *_, last = program.log.read_text().strip().splitlines()
    assert last.startswith("Error: ") and "OTELCOL_STORAGE" in last
