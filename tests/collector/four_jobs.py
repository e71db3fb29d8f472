"""Four jobs on every path to a store: what they used by their own footprints, and what each panel shows of it.

Pulled: through the collector, which Prometheus scrapes, and from there to VictoriaMetrics. Pushed: by OTLP
straight into Prometheus. Gateway: through agent and gateway, by remote write into Prometheus and into
VictoriaMetrics. All have their shipped settings; the longer job alone has one of its own.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.collector.programs import (
    COLLECTOR,
    RULES,
    Store,
    VictoriaMetrics,
    collector,
    prometheus,
    victoria_metrics,
)
from tests.integration.processes import wait_for

ENERGY = "carbon_otel_stage_energy_joules_total"
PLACE = "k8s.cluster.name=north,k8s.namespace.name=ml,k8s.pod.name={0}-0,deployment.environment.name=test"
# Three jobs that end before their first export, and one that exports while it runs.
SECONDS = {"short-1": 2, "short-2": 3, "short-3": 4, "long": 18}
DASHBOARD = json.loads((COLLECTOR / "grafana/dashboards/lifecycle.json").read_text())
PANELS = {panel["title"]: panel for panel in DASHBOARD["panels"]}
GROUPS = [group for file in RULES for group in yaml.safe_load(file.read_text())["groups"]]
# By path: the way of the jobs' telemetry.
PATHS = {
    "pulled": "pulled",
    "pulled, VictoriaMetrics": "pulled",
    "pushed": "pushed",
    "gateway": "gateway",
    "gateway, VictoriaMetrics": "gateway",
}


@dataclass
class Seen:
    """A store that has all of four jobs, their own footprints by name, and when they ran."""

    store: Store
    jobs: dict[str, dict[str, float]]
    start_s: float
    end_s: float

    def shown(self, title: str, **chosen: Any) -> dict[tuple[tuple[str, str], ...], float]:
        """The samples of a panel that shows one figure for each series, by their labels."""
        expression = filled(PANELS[title]["targets"][0]["expr"], **chosen)
        found = self.store.query(expression, self.end_s)
        return {tuple(sorted(sample["metric"].items())): float(sample["value"][1]) for sample in found}

    def curve(self, expression: str, step_s: int = 15) -> list[dict[str, Any]]:
        """The series of an expression, at steps back from the end: no step is in the future."""
        steps = math.ceil((self.end_s - self.start_s) / step_s)
        return self.store.range(expression, self.end_s - steps * step_s, self.end_s, step_s)

    def own(self, figure: str) -> float:
        """A figure of all jobs, by their own footprints."""
        return sum(each[figure] for each in self.jobs.values())


def filled(expression: str, range_s: int = 600, interval_s: int = 60, **chosen: str) -> str:
    """A query as Grafana sends it."""
    for name in ("service", "cluster", "environment"):
        expression = expression.replace(f"${name}", chosen.get(name, ".*"))
    expression = expression.replace("$__range", f"{range_s}s").replace(
        "$__interval_ms", str(interval_s * 1000)
    )
    return expression.replace("$__interval", f"{interval_s}s")


def job(folder: Path, name: str, **variables: str) -> subprocess.Popen[str]:
    folder.mkdir()
    return subprocess.Popen(
        [
            sys.executable,
            Path(__file__).with_name("measured_job.py"),
            str(folder / "sys"),
            str(SECONDS[name]),
        ],
        env={
            **os.environ,
            "OTEL_SERVICE_NAME": name,
            "OTEL_RESOURCE_ATTRIBUTES": PLACE.format(name),
            **({"OTEL_METRIC_EXPORT_INTERVAL": "4000"} if name == "long" else {}),
            **variables,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> Any:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return json.loads(out)


def seconds(text: str) -> int:
    number, unit = re.fullmatch(r"(\d+)([sm])", text).groups()  # type: ignore[union-attr]
    return int(number) * {"s": 1, "m": 60}[unit]


def record(store: VictoriaMetrics, start_s: float, end_s: float) -> None:
    """Do for VictoriaMetrics what its `vmalert` does: evaluate each rule and write the samples back."""
    shared = yaml.safe_load((COLLECTOR / "prometheus/prometheus.yml").read_text())["global"]
    for group in GROUPS:
        step_s = seconds(group.get("interval", shared["evaluation_interval"]))
        times = range(int(end_s), int(start_s) - step_s, -step_s)
        for rule in group["rules"]:
            if "record" in rule:
                found = [(at_s, sample) for at_s in times for sample in store.query(rule["expr"], at_s)]
                store.write(
                    {
                        "metric": {**sample["metric"], "__name__": rule["record"]},
                        "values": [float(sample["value"][1])],
                        "timestamps": [at_s * 1000],
                    }
                    for at_s, sample in found
                )


@contextlib.contextmanager
def four_jobs(folder: Path) -> Iterator[dict[str, Seen]]:
    """By path: the store, once it has everything and the rules have seen it."""

    def below(name: str) -> Path:
        (folder / name).mkdir()
        return folder / name

    no_wait = "-search.latencyOffset=0s"
    with contextlib.ExitStack() as running:
        start = running.enter_context
        copied = start(victoria_metrics(below("copied"), no_wait))
        scraped = start(collector(below("scraped")))
        pulled = start(prometheus(folder, scraped.scraped, remote_write=copied.remote_write))
        pushed = start(prometheus(folder, otlp=True))
        written = start(prometheus(folder, arguments=["--web.enable-remote-write-receiver"]))
        victoria = start(victoria_metrics(below("victoria"), no_wait))
        gateway = start(
            collector(
                below("gateway"),
                "config.yaml",
                "gateway.yaml",
                Path(__file__).with_name("second_store.yaml"),
                REMOTE_WRITE_ENDPOINT=victoria.remote_write,
                SECOND_ENDPOINT=f"{written.url}/api/v1/write",
                JAEGER_ENDPOINT="127.0.0.1:9",
            )
        )
        agent = start(
            collector(
                below("agent"),
                "config.yaml",
                "agent.yaml",
                GATEWAY_ENDPOINT=f"{gateway.address}:4317",
                GATEWAY_INSECURE="true",
            )
        )
        start_s = time.time()
        ways = {
            "pulled": {"OTEL_EXPORTER_OTLP_ENDPOINT": scraped.http},
            "pushed": {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": pushed.otlp},
            "gateway": {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": f"{agent.http}/v1/metrics"},
        }
        jobs = {
            way: {name: job(folder / f"{way}-{name}", name, **variables) for name in SECONDS}
            for way, variables in ways.items()
        }
        try:
            footprints = {way: {name: finish(each) for name, each in of.items()} for way, of in jobs.items()}
        finally:
            for each in (each for of in jobs.values() for each in of.values()):
                each.kill()
                each.communicate()
        stores = dict(zip(PATHS, (pulled, copied, pushed, written, victoria), strict=True))
        for path, store in stores.items():
            whole = sum(each["joules"] for each in footprints[PATHS[path]].values())
            wait_for(
                lambda s=store, all_j=whole: (
                    s.value(f"sum(last_over_time({ENERGY}[10m]))") == pytest.approx(all_j, rel=0.005)
                )
            )
        # The rules look 30 s back each minute.
        arrived_s = time.time()
        for store in (pulled, pushed, written):
            wait_for(lambda s=store: s.evaluated_s() > arrived_s + 30, 240)
        recorded = pulled.query("max(timestamp(carbon:stage:watts))")[0]["value"][1]
        wait_for(lambda: copied.query(f"max(timestamp(carbon:stage:watts)) >= {int(float(recorded))}"))
        end_s = time.time()
        record(victoria, start_s, end_s)
        yield {path: Seen(store, footprints[PATHS[path]], start_s, end_s) for path, store in stores.items()}
