"""Rules, alerts and the dashboard's queries, in a real Prometheus that scrapes a real run."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import urllib.parse
import urllib.request
from pathlib import Path

import pytest
import yaml

from tests.fakes.drawing import Drawing
from tests.fakes.powercap import server
from tests.integration.processes import free_port, wait_for

COLLECTOR = Path(__file__).parents[2] / "collector"
RULES = sorted((COLLECTOR / "prometheus" / "rules").glob("*.yml"))

pytestmark = pytest.mark.skipif(
    not (shutil.which("promtool") and shutil.which("prometheus")),
    reason="needs Debian's package prometheus",
)


def promtool(*arguments):
    done = subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_configuration_and_the_rules_are_sound():
    promtool("check", "config", COLLECTOR / "prometheus" / "prometheus.yml")
    promtool("check", "rules", *RULES)


def test_the_rules_give_the_expected_values_for_known_counters():
    promtool("test", "rules", COLLECTOR / "prometheus" / "tests" / "rules.yml")


class Prometheus:
    """Debian's Prometheus on loopback, with the repository's rules, evaluated every second."""

    def __init__(self, folder, target):
        self.port = free_port()
        config = yaml.safe_load((COLLECTOR / "prometheus" / "prometheus.yml").read_text())
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        config["rule_files"] = [str(rules) for rules in RULES]
        config["scrape_configs"][0]["static_configs"] = [{"targets": [f"127.0.0.1:{target}"]}]
        file = folder / "prometheus.yml"
        file.write_text(yaml.safe_dump(config))
        self.process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={file}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{self.port}",
                "--log.level=error",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def query(self, expression):
        """The samples of an expression, now."""
        asked = urllib.parse.urlencode({"query": expression})
        with urllib.request.urlopen(
            f"http://127.0.0.1:{self.port}/api/v1/query?{asked}", timeout=10
        ) as answer:
            return json.load(answer)["data"]["result"]

    def value(self, expression):
        """The only sample of an expression, as soon as there is one."""

        def samples():
            with contextlib.suppress(OSError):  # it has not started yet
                return self.query(expression)

        (sample,) = wait_for(samples)
        return float(sample["value"][1])

    def stop(self):
        self.process.terminate()
        self.process.wait(timeout=20)


@pytest.fixture(scope="module")
def scraped(tmp_path_factory):
    """A Prometheus that has scraped a run of 8 s to its end, and the output of the run."""
    folder = tmp_path_factory.mktemp("prometheus")
    port = free_port()
    with Drawing(server(folder / "sys"), zones=1, watts=40) as drawing:
        prometheus = Prometheus(folder, port)
        program = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("measured.py"), str(port)],
            env={**os.environ, "CARBON_OTEL_POWERCAP_ROOT": str(drawing.root)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            run = json.loads(program.stdout.readline())
            total = pytest.approx(run["joules"], rel=1e-6)
            wait_for(lambda: prometheus.value("sum(hw_energy_joules_total)") == total)
            # Every second, the rules are evaluated after the scrape.
            scraped_s = prometheus.value("max(timestamp(hw_energy_joules_total))")
            wait_for(lambda: prometheus.value("min(timestamp(carbon:measured:ratio))") > scraped_s)
            yield prometheus, run
        finally:
            program.kill()
            program.communicate()
            prometheus.stop()


def test_prometheus_has_the_joules_of_the_run(scraped):
    prometheus, run = scraped
    assert run["joules"] > 100
    for name in ("carbon_otel_stage_energy_joules_total", "hw_energy_joules_total"):
        assert prometheus.value(f"sum({name})") == pytest.approx(run["joules"], rel=1e-6)


def expressions():
    dashboard = json.loads((COLLECTOR / "grafana/dashboards/lifecycle.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            yield pytest.param(target["expr"], id=panel["title"])
    for file in RULES:
        for group in yaml.safe_load(file.read_text())["groups"]:
            for rule in group["rules"]:
                if "record" in rule:
                    yield pytest.param(rule["expr"], id=rule["record"])


@pytest.mark.parametrize("expression", list(expressions()))
def test_every_query_has_an_answer(expression, scraped):
    prometheus, _ = scraped
    found = prometheus.query(expression.replace("$service", ".*").replace("$__range", "1m"))
    assert found and all(sample["value"][1] != "NaN" for sample in found)


def test_an_ordinary_run_causes_no_alert(scraped):
    prometheus, _ = scraped
    assert prometheus.query("ALERTS") == []
    for group in yaml.safe_load((COLLECTOR / "prometheus/rules/alerts.yml").read_text())["groups"]:
        for rule in group["rules"]:
            prometheus.query(rule["expr"])


def test_the_measured_share_and_the_joules_per_token_are_those_of_the_run(scraped):
    prometheus, run = scraped
    assert prometheus.value("carbon:measured:ratio") == 1
    per_token = prometheus.value('carbon:stage:joules_per_unit{carbon_otel_unit="tokens"}')
    # The rule uses rates, which exclude the time before the first scrape.
    assert per_token == pytest.approx(run["joules_per_token"], rel=0.2)
