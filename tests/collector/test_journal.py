"""A collector that was down while jobs ran: their journals, sent later, say what the jobs would have said.

Each job's total is right in the panel of the energy and in the recording rules, however often it is sent, on every
store: Prometheus that scrapes the collector, VictoriaMetrics behind that, and both by OTLP.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from carbon_otel.units import NS_PER_S
from tests.collector.programs import COLLECTOR, RULES, collector, prometheus, victoria_metrics
from tests.integration.processes import free_port, wait_for

ENERGY = "carbon_otel_stage_energy_joules_total"
DASHBOARD = json.loads((COLLECTOR / "grafana/dashboards/lifecycle.json").read_text())
PANEL = next(panel for panel in DASHBOARD["panels"] if panel["title"] == "Energy")["targets"][0]["expr"]
RULE = next(
    rule["expr"]
    for file in RULES
    for group in yaml.safe_load(file.read_text())["groups"]
    for rule in group["rules"]
    if rule.get("record") == "carbon:stage:joules_1m"
)
# The label that has the service's name.
LABEL = {"pulled": "job", "victoria": "job", "pushed": "job", "victoria, otlp": "service_name"}
DAY_NS = 86_400 * NS_PER_S


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """The collector, and the stores by the way to them."""
    folder = tmp_path_factory.mktemp("journals")
    for name in ("a", "b"):
        (folder / name).mkdir()
    with (
        victoria_metrics(folder / "a", "-search.latencyOffset=0s") as victoria,
        victoria_metrics(
            folder / "b", "-search.latencyOffset=0s", "-opentelemetry.usePrometheusNaming"
        ) as victoria_otlp,
        collector(folder) as otelcol,
        prometheus(folder, otelcol.scraped, intervals="1s", remote_write=victoria.remote_write) as pulled,
        prometheus(folder, otlp=True) as pushed,
    ):
        yield SimpleNamespace(
            collector=otelcol,
            otlp=(pushed.otlp, victoria_otlp.otlp),
            stores={
                "pulled": pulled,
                "victoria": victoria,
                "pushed": pushed,
                "victoria, otlp": victoria_otlp,
            },
        )


class Job:
    """A job of a second, which keeps a journal."""

    def __init__(self, folder, name, *arguments, seconds=1, **variables):
        self.name = name
        self.journal = folder / f"{name}.json"
        self.began_s = time.time()
        self.process = subprocess.Popen(
            [
                sys.executable,
                Path(__file__).with_name("measured_job.py"),
                folder / f"{name}-sys",
                str(seconds),
                *arguments,
            ],
            env={
                **os.environ,
                "OTEL_SERVICE_NAME": name,
                "CARBON_OTEL_JOURNAL": str(self.journal),
                "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
                **variables,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def finish(self):
        out, err = self.process.communicate(timeout=120)
        assert self.process.returncode == 0, err
        # The job prints its own a moment before its last reading.
        self.joules = json.loads(self.journal.read_text())["footprint"]["energy_j"]
        assert self.joules == pytest.approx(json.loads(out)["joules"], rel=0.1)
        return self


def send(*arguments, code=0, **variables):
    done = subprocess.run(
        [sys.executable, "-m", "carbon_otel.cli", "journal", "send", *map(str, arguments)],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def send_everywhere(seen, journal, *arguments):
    send(journal, *arguments, OTEL_EXPORTER_OTLP_ENDPOINT=seen.collector.http)
    for address in seen.otlp:
        send(journal, *arguments, OTEL_EXPORTER_OTLP_METRICS_ENDPOINT=address)


def kept_joules(journal):
    (scope,) = json.loads(journal.read_text())["metrics"]["resourceMetrics"][0]["scopeMetrics"]
    (energy,) = (each for each in scope["metrics"] if each["name"] == "carbon_otel.stage.energy")
    return sum(point["asDouble"] for point in energy["sum"]["dataPoints"])


def in_panel(path, store, name, at_s, range_s=600):
    """The joules of a service in the panel of the energy."""
    chosen = re.sub(r"\{[^}]*\}", f'{{{LABEL[path]}="{name}"}}', PANEL)
    return (store.value(chosen.replace("$__range", f"{range_s}s"), at_s) or 0.0) * 3600


def in_rules(path, store, name, start_s, end_s):
    """The joules of a service that the rule records in the minutes from start to end."""
    chosen = RULE.replace(f"{ENERGY}[", f'{ENERGY}{{{LABEL[path]}="{name}"}}[')
    minutes = store.range(f"sum({chosen})", start_s - 120, end_s + 120, 60)
    return sum(float(value) for series in minutes for _, value in series["values"])


def shows(seen, name, joules, start_s):
    """Wait until all stores have it, and look at both expressions."""
    for path, store in seen.stores.items():
        arrived = f'sum(last_over_time({ENERGY}{{{LABEL[path]}="{name}"}}[10m]))'
        wait_for(lambda: store.value(arrived) == pytest.approx(joules), 60)  # noqa: B023 - called here
    end_s = time.time()
    for path, store in seen.stores.items():
        assert in_panel(path, store, name, end_s + 1) == pytest.approx(joules), path
        assert in_rules(path, store, name, start_s, end_s) == pytest.approx(joules), path


def test_a_job_without_a_collector(seen, tmp_path):
    job = Job(tmp_path, "dark", OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{free_port()}").finish()
    send_everywhere(seen, job.journal)
    shows(seen, "dark", job.joules, job.began_s)


def test_sent_twice_at_two_times(seen, tmp_path):
    job = Job(tmp_path, "twice").finish()
    send_everywhere(seen, job.journal)
    shows(seen, "twice", job.joules, job.began_s)
    assert "sent there before" in send(job.journal, OTEL_EXPORTER_OTLP_ENDPOINT=seen.collector.http)
    send_everywhere(seen, job.journal, "--again")
    time.sleep(2)  # for scrapes
    shows(seen, "twice", job.joules, job.began_s)


def test_a_job_that_has_sent_all_by_itself(seen, tmp_path):
    """Its own series and that of its journal are one, in the collector and where it is scraped."""
    job = Job(tmp_path, "bright", OTEL_EXPORTER_OTLP_ENDPOINT=seen.collector.http).finish()
    assert "has sent all of it" in send(job.journal, OTEL_EXPORTER_OTLP_ENDPOINT=seen.collector.http)
    send_everywhere(seen, job.journal, "--again")
    shows(seen, "bright", job.joules, job.began_s)
    one = seen.stores["pulled"].query(f'{ENERGY}{{job="bright"}}')
    assert len({sample["metric"]["instance"] for sample in one}) == 1


def test_a_job_on_the_applications_provider_that_has_sent_all(seen, tmp_path):
    job = Job(tmp_path, "guest", "application", OTEL_EXPORTER_OTLP_ENDPOINT=seen.collector.http).finish()
    send_everywhere(seen, job.journal)
    shows(seen, "guest", job.joules, job.began_s)


def test_a_killed_job_that_has_sent_a_part(seen, tmp_path):
    """It has exported right before the kill, and after its last checkpoint."""
    job = Job(
        tmp_path,
        "killed",
        seconds=60,
        OTEL_EXPORTER_OTLP_ENDPOINT=seen.collector.http,
        OTEL_METRIC_EXPORT_INTERVAL="700",
        CARBON_OTEL_CHECKPOINT_INTERVAL_S="6",
    )
    try:
        exported = f'sum(last_over_time({ENERGY}{{job="killed"}}[10m]))'
        wait_for(lambda: job.journal.exists() and seen.stores["pulled"].value(exported))
        first = seen.stores["pulled"].value(exported)
        wait_for(lambda: seen.stores["pulled"].value(exported) > first + 80)
        assert "is running" in send(job.journal, OTEL_EXPORTER_OTLP_ENDPOINT=seen.collector.http)
    finally:
        job.process.send_signal(signal.SIGKILL)
        job.process.communicate()
    kept = kept_joules(job.journal)
    state = json.loads(job.journal.read_text())
    assert state["status"] == "running" and kept >= state["footprint"]["energy_j"] - 1e-6
    assert kept >= seen.stores["pulled"].value(exported)
    wait_for(lambda: time.time() > state["written_unix_s"] + 3 * state["checkpoint_interval_s"])
    assert "was killed" in send(job.journal, OTEL_EXPORTER_OTLP_ENDPOINT=seen.collector.http)
    for address in seen.otlp:
        send(job.journal, OTEL_EXPORTER_OTLP_METRICS_ENDPOINT=address)
    shows(seen, "killed", kept, job.began_s)


def test_a_job_that_ended_days_ago(seen, tmp_path):
    """The points have the time of sending: Prometheus refuses what is a day old, and no rule looks back."""
    job = Job(tmp_path, "old").finish()
    text = job.journal.read_text()
    for name in ("startTimeUnixNano", "timeUnixNano"):
        text = re.sub(f'"{name}": "(\\d+)"', lambda m: m[0].replace(m[1], str(int(m[1]) - 3 * DAY_NS)), text)
    job.journal.write_text(text)
    send_everywhere(seen, job.journal)
    shows(seen, "old", job.joules, job.began_s)


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_many_journals_at_once(protocol, seen, tmp_path):
    names = [f"many-{protocol[:4]}-{number}" for number in range(3)]
    jobs = [Job(tmp_path, name) for name in names]
    for job in jobs:
        job.finish()
    address = seen.collector.grpc if protocol == "grpc" else seen.collector.http
    said = send(*(job.journal for job in jobs), "--endpoint", address, OTEL_EXPORTER_OTLP_PROTOCOL=protocol)
    assert said.count("sent ") == 3
    for job in jobs:
        arrived = f'sum(last_over_time({ENERGY}{{job="{job.name}"}}[10m]))'
        wait_for(lambda: seen.stores["pulled"].value(arrived) == pytest.approx(job.joules))  # noqa: B023
