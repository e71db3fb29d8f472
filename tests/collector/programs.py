"""The programs that telemetry goes to, each run as users run it, on addresses of its own on loopback.

Each function starts one program and ends it with its block. A program comes from the variable that has its name in
capitals (`OTELCOL`, `PROMETHEUS`, `JAEGER`, `VICTORIA_METRICS`), else from PATH.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.integration.processes import free_port, wait_for

COLLECTOR = Path(__file__).parents[2] / "collector"
RULES = sorted((COLLECTOR / "prometheus" / "rules").glob("*.yml"))
_addresses = itertools.count(2)


def located(name: str) -> str:
    """The path of a program. Skips the test if this machine lacks it."""
    found = os.environ.get(name.upper().replace("-", "_")) or shutil.which(name)
    if not found:
        pytest.skip(f"needs the program {name}")
    return found


def own_address() -> str:
    """A loopback address that no other test uses: the files of the collector have fixed ports."""
    number = next(_addresses)
    return f"127.{os.getpid() >> 8 & 127 | 64}.{os.getpid() & 255}.{number}"


class Running:
    """A program that runs, and its log."""

    def __init__(
        self,
        name: str,
        folder: Path,
        arguments: Sequence[str],
        variables: Mapping[str, str] | None = None,
        health: str = "",
    ) -> None:
        """`health` is an address that answers 2xx once the program is ready."""
        self.log = folder / f"{name}-{time.monotonic_ns()}.log"
        self._health = health
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [located(name), *arguments],
                env={**os.environ, **(variables or {})},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def wait_until_ready(self) -> None:
        wait_for(self._ready)

    def _ready(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        with contextlib.suppress(OSError), urllib.request.urlopen(self._health, timeout=5):
            return True
        return False

    def kill(self) -> None:
        """End it by SIGKILL."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """End it by SIGTERM, and by SIGKILL if it takes too long."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.kill()


@contextlib.contextmanager
def _running(program: Running) -> Iterator[None]:
    try:
        program.wait_until_ready()
        yield
    finally:
        program.stop()


class Collector(Running):
    """A collector that runs files of `collector/` unchanged, and is told its address by their variables."""

    def __init__(
        self,
        folder: Path,
        *files: str | Path,
        address: str = "",
        arguments: Sequence[str] = (),
        **variables: str,
    ) -> None:
        self.address = address or own_address()
        self.http = f"http://{self.address}:4318"
        self.grpc = f"http://{self.address}:4317"
        self.scraped = f"{self.address}:8889"
        configs = [f"--config={COLLECTOR / file}" for file in files or ("config.yaml",)]
        where = {
            "OTELCOL_LISTEN": self.address,
            "OTELCOL_SELF": self.address,
            "OTELCOL_STORAGE": str(folder / "otelcol"),
        }
        super().__init__(
            "otelcol",
            folder,
            [*configs, *arguments],
            {**where, **variables},
            f"http://{self.address}:13133",
        )

    def page(self) -> str:
        """What Prometheus would scrape now."""
        with urllib.request.urlopen(f"http://{self.scraped}/metrics", timeout=30) as answer:
            return answer.read().decode()


@contextlib.contextmanager
def collector(folder: Path, *files: str | Path, **settings: Any) -> Iterator[Collector]:
    """A collector with `config.yaml`, or with the files given; more variables as keywords."""
    program = Collector(folder, *files, **settings)
    with _running(program):
        yield program


class Store(Running):
    """A store that answers PromQL at `url`."""

    url: str

    def query(self, expression: str, at_s: float | None = None) -> list[dict[str, Any]]:
        """The samples of an expression, now or at a time."""
        asked = {"query": expression} | ({"time": f"{at_s:.3f}"} if at_s is not None else {})
        return self._ask("query", asked)

    def range(self, expression: str, start_s: float, end_s: float, step_s: float) -> list[dict[str, Any]]:
        """The series of an expression, as a panel draws them."""
        asked = {"query": expression, "start": f"{start_s:.3f}", "end": f"{end_s:.3f}", "step": f"{step_s:g}"}
        return self._ask("query_range", asked)

    def value(self, expression: str, at_s: float | None = None) -> float | None:
        """The only sample of an expression; None if there is none."""
        found = self.query(expression, at_s)
        assert len(found) < 2, (expression, found)
        return float(found[0]["value"][1]) if found else None

    def exemplars(self, expression: str, start_s: float, end_s: float) -> list[dict[str, Any]]:
        """The series of an expression that have exemplars, with these, as a panel asks for its dots."""
        return self._data(
            "query_exemplars", {"query": expression, "start": f"{start_s:.3f}", "end": f"{end_s:.3f}"}
        )

    def _ask(self, path: str, asked: Mapping[str, str]) -> list[dict[str, Any]]:
        return self._data(path, asked)["result"]

    def _data(self, path: str, asked: Mapping[str, str]) -> Any:
        request = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(asked)}"
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)["data"]


class Prometheus(Store):
    """Prometheus with the project's rules and its `prometheus.yml`, but for the addresses of the scraped."""

    def __init__(
        self,
        folder: Path,
        scrapes: Sequence[str] = (),
        arguments: Sequence[str] = (),
        intervals: str = "",
        otlp: bool = False,
        remote_write: str = "",
        address: str = "",
    ) -> None:
        config = yaml.safe_load((COLLECTOR / "prometheus" / "prometheus.yml").read_text())
        if intervals:
            config["global"].update(scrape_interval=intervals, evaluation_interval=intervals)
        config["rule_files"] = [str(rules) for rules in RULES]
        for job in config["scrape_configs"]:
            job["static_configs"] = [{"targets": list(scrapes)}]
        if remote_write:
            config["remote_write"] = [{"url": remote_write}]
        folder = folder / f"prometheus-{time.monotonic_ns()}"
        folder.mkdir()
        file = folder / "prometheus.yml"
        file.write_text(yaml.safe_dump(config))
        where = address or f"127.0.0.1:{free_port()}"
        self.url = f"http://{where}"
        self.otlp = f"{self.url}/api/v1/otlp/v1/metrics"
        super().__init__(
            "prometheus",
            folder,
            [
                f"--config.file={file}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={where}",
                *(["--web.enable-otlp-receiver"] if otlp else []),
                *arguments,
            ],
            health=f"{self.url}/-/ready",
        )

    def evaluated_s(self) -> float:
        """When all rules were last evaluated."""
        times = [group["lastEvaluation"] for group in self._data("rules", {})["groups"]]
        # Without its nanoseconds, which `fromisoformat` of Python 3.10 does not read.
        texts = [re.sub(r"\.\d+", "", each).replace("Z", "+00:00") for each in times]
        return min(datetime.fromisoformat(each).timestamp() for each in texts)


@contextlib.contextmanager
def prometheus(folder: Path, *scrapes: str, **settings: Any) -> Iterator[Prometheus]:
    """Prometheus that scrapes `HOST:PORT`s; with `otlp=True` it takes metrics by OTLP at `.otlp` (3.x only)."""
    if settings.get("otlp"):
        shown = subprocess.run(
            [located("prometheus"), "--version"], capture_output=True, text=True, timeout=60
        )
        version = re.search(r"version (\d+)\.", shown.stdout + shown.stderr)
        if version is None or int(version[1]) < 3:
            pytest.skip("needs Prometheus 3: set PROMETHEUS")
    program = Prometheus(folder, scrapes, **settings)
    with _running(program):
        yield program


class VictoriaMetrics(Store):
    """VictoriaMetrics on one node."""

    def __init__(self, folder: Path, arguments: Sequence[str] = ()) -> None:
        where = f"127.0.0.1:{free_port()}"
        self.url = f"http://{where}"
        self.otlp = f"{self.url}/opentelemetry/v1/metrics"
        self.remote_write = f"{self.url}/api/v1/write"
        super().__init__(
            "victoria-metrics",
            folder,
            [f"-storageDataPath={folder / 'victoria'}", f"-httpListenAddr={where}", *arguments],
            health=f"{self.url}/health",
        )

    def write(self, series: Iterable[Mapping[str, Any]]) -> None:
        """Add samples, in the format of `/api/v1/import`; queries find them at once."""
        lines = "\n".join(map(json.dumps, series)).encode()
        for path, content in (("api/v1/import", lines), ("internal/force_flush", None)):
            with urllib.request.urlopen(f"{self.url}/{path}", content, timeout=30):
                pass


@contextlib.contextmanager
def victoria_metrics(folder: Path, *arguments: str) -> Iterator[VictoriaMetrics]:
    program = VictoriaMetrics(folder, arguments)
    with _running(program):
        yield program


class Jaeger(Running):
    """Jaeger with the project's `jaeger.yaml`: OTLP in, its API at `url`."""

    def __init__(self, folder: Path, address: str = "") -> None:
        self.address = address or own_address()
        self.url = f"http://{self.address}:16686"
        self.http = f"http://{self.address}:4318"
        self.grpc = f"{self.address}:4317"
        super().__init__(
            "jaeger",
            folder,
            [f"--config={COLLECTOR / 'jaeger' / 'jaeger.yaml'}"],
            {"JAEGER_LISTEN_HOST": self.address, "JAEGER_STORAGE": str(folder / "jaeger")},
            health=f"http://{self.address}:13133/status",
        )

    def traces(self, service: str) -> list[dict[str, Any]]:
        """The traces of a service."""
        asked = urllib.parse.urlencode({"service": service, "limit": 20_000, "lookback": "1h"})
        with urllib.request.urlopen(f"{self.url}/api/traces?{asked}", timeout=30) as answer:
            return json.load(answer)["data"] or []

    def span(self, trace_id: str, span_id: str) -> dict[str, Any] | None:
        """One span, found by its trace as Grafana finds it; None if it has not arrived."""
        try:
            with urllib.request.urlopen(f"{self.url}/api/traces/{trace_id}", timeout=30) as answer:
                spans = [each for trace in json.load(answer)["data"] for each in trace["spans"]]
        except urllib.error.HTTPError as e:
            if e.code != 404:
                raise
            return None
        return next((each for each in spans if each["spanID"] == span_id), None)


@contextlib.contextmanager
def jaeger(folder: Path, address: str = "") -> Iterator[Jaeger]:
    program = Jaeger(folder, address)
    with _running(program):
        yield program
