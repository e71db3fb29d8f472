"""Rules, alerts and the dashboard's queries, in a real Prometheus that scrapes a real run of ours."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from pathlib import Path

import pytest
import yaml

from tests.fakes.powercap import server
from tests.integration.processes import free_port

COLLECTOR = Path(__file__).parents[2] / "collector"
RULES = sorted((COLLECTOR / "prometheus" / "rules").glob("*.yml"))

pytestmark = pytest.mark.skipif(
    not (shutil.which("promtool") and shutil.which("prometheus")) and not os.environ.get("CI"),
    reason="needs Debian's package prometheus",
)


def promtool(*arguments):
    done = subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_configuration_and_the_rules_are_sound():
    promtool("check", "config", COLLECTOR / "prometheus" / "prometheus.yml")
    promtool("check", "rules", *RULES)


def test_the_rules_give_what_known_counters_make_of_them():
    promtool("test", "rules", COLLECTOR / "prometheus" / "tests" / "rules.yml")


class Prometheus:
    """Debian's, on loopback, with our rules and a target of the test; evaluates every second."""

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

    def wait(self, expression, seconds=20):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                if self.query(expression):
                    return
            except OSError:
                pass
            time.sleep(0.2)
        pytest.fail(f"no samples of {expression} in {seconds} s")

    def stop(self):
        self.process.terminate()
        self.process.wait(timeout=20)


@pytest.fixture(scope="module")
def scraped(tmp_path_factory):
    """A Prometheus that has scraped a run of 8 s to its end, and the joules of that run."""
    folder = tmp_path_factory.mktemp("prometheus")
    tree = server(folder / "sys")
    stop = threading.Event()
    begun = time.monotonic()

    def feed():
        while not stop.wait(0.01):
            tree.package[0].set(1000 + 40 * (time.monotonic() - begun))

    threading.Thread(target=feed, daemon=True).start()
    port = free_port()
    prometheus = Prometheus(folder, port)
    program = subprocess.Popen(
        [sys.executable, Path(__file__).with_name("measured.py"), str(port)],
        env={**os.environ, "CARBON_OTEL_POWERCAP_ROOT": str(tree.root)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        joules = float(program.stdout.readline())
        assert program.stdout.readline() == "done\n"
        time.sleep(2.5)  # two more scrapes
        yield prometheus, joules
    finally:
        stop.set()
        program.kill()
        program.communicate()
        prometheus.stop()


def test_prometheus_has_the_joules_of_the_run(scraped):
    prometheus, joules = scraped
    assert joules > 100
    for name in ("carbon_otel_stage_energy_joules_total", "hw_energy_joules_total"):
        ((_, value),) = [sample["value"] for sample in prometheus.query(f"sum({name})")]
        assert float(value) == pytest.approx(joules, rel=1e-6)


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


def test_no_alert_of_a_run_in_order(scraped):
    prometheus, _ = scraped
    assert prometheus.query("ALERTS") == []
    for group in yaml.safe_load((COLLECTOR / "prometheus/rules/alerts.yml").read_text())["groups"]:
        for rule in group["rules"]:
            prometheus.query(rule["expr"])


def test_watts_and_the_measured_share_are_those_of_the_run(scraped):
    prometheus, _ = scraped
    (ratio,) = prometheus.query("carbon:measured:ratio")
    assert float(ratio["value"][1]) == 1
    (tokens,) = prometheus.query('carbon:stage:joules_per_unit{carbon_otel_unit="tokens"}')
    assert float(tokens["value"][1]) == pytest.approx(40 * 0.1 / 50, rel=0.3)
