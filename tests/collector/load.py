"""A sender of many small requests that knows which were answered, and what has arrived at the other end."""

from __future__ import annotations

import contextlib
import json
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ENERGY = "carbon_otel.stage.energy"
JOULES = 7.25
# Statuses at which a sender has to try again, by the specification of OTLP.
RETRIABLE = (429, 502, 503, 504)


def _resource(instance: str) -> dict[str, Any]:
    attributes = {"service.name": "load", "service.instance.id": instance}
    return {
        "attributes": [{"key": key, "value": {"stringValue": value}} for key, value in attributes.items()]
    }


def span(instance: str, padding: int = 0) -> dict[str, Any]:
    """One span of a process, with an attribute of so many bytes."""
    now = time.time_ns()
    one = {
        "traceId": uuid.uuid4().hex,
        "spanId": instance[:16],
        "name": "training",
        "startTimeUnixNano": str(now),
        "endTimeUnixNano": str(now),
        "attributes": [{"key": "padding", "value": {"stringValue": "x" * padding}}],
    }
    return {"resourceSpans": [{"resource": _resource(instance), "scopeSpans": [{"spans": [one]}]}]}


def joules(instance: str, since_ns: int | None = None, now_ns: int | None = None) -> dict[str, Any]:
    """The energy of a process that exports once; with `since_ns`, what one has used since then, as a delta.

    `now_ns` is the process's own time, in nanoseconds since the epoch.
    """
    now_ns = now_ns or time.time_ns()
    times = {"startTimeUnixNano": str(since_ns or now_ns), "timeUnixNano": str(now_ns)}
    total = {
        "dataPoints": [{**times, "asDouble": JOULES}],
        "aggregationTemporality": 2 if since_ns is None else 1,
        "isMonotonic": True,
    }
    metrics = [{"name": ENERGY, "unit": "J", "sum": total}]
    return {"resourceMetrics": [{"resource": _resource(instance), "scopeMetrics": [{"metrics": metrics}]}]}


def post(base: str, signal: str, content: dict[str, Any], **headers: str) -> int:
    """The status of the answer; 0 if there is none."""
    request = urllib.request.Request(
        f"{base}/v1/{signal}", json.dumps(content).encode(), {"Content-Type": "application/json", **headers}
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as e:
        return e.code
    except (OSError, ValueError):
        return 0


@dataclass
class Sender:
    """Sends a span and the joules of one process after another, each until it is answered."""

    url: str
    answered: list[str] = field(default_factory=list)

    def send(self) -> None:
        """One process's span and joules."""
        instance = uuid.uuid4().hex
        self._until_answered("traces", span(instance))
        self._until_answered("metrics", joules(instance))
        self.answered.append(instance)

    def _until_answered(self, signal: str, content: dict[str, Any]) -> None:
        while (status := post(self.url, signal, content)) != 200:
            assert status in (0, *RETRIABLE), status
            time.sleep(0.02)

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Sends in a thread for as long as the block lasts."""
        stop = threading.Event()

        def work() -> None:
            while not stop.is_set():
                self.send()

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(120)
            assert not thread.is_alive(), "the last request was not answered"


@dataclass
class DeltaSender(Sender):
    """Sends the joules of one process that goes on, each time those since the last."""

    instance: str = field(default_factory=lambda: uuid.uuid4().hex)
    sent_ns: int = field(default_factory=time.time_ns)

    def send(self) -> None:
        """The joules since the last. Prometheus keeps one value of a millisecond: the next sum has both."""
        content = joules(self.instance, self.sent_ns)
        self.sent_ns = time.time_ns()
        self._until_answered("metrics", content)
        self.answered.append(self.instance)


def spans_in(file: Path) -> list[dict[str, Any]]:
    """The spans of a file of trace requests."""
    return [
        each
        for line in _lines(file)
        for resource in line["resourceSpans"]
        for scope in resource["scopeSpans"]
        for each in scope["spans"]
    ]


def received_spans(folder: Path) -> Counter[str]:
    """How often the span of each process has arrived in `received.yaml`'s or `config.yaml`'s file."""
    return Counter(each["spanId"] for each in spans_in(folder / "otelcol" / "traces.jsonl"))


def received_joules(folder: Path, kind: str = "") -> dict[str, float]:
    """The last sum of energy of each process in `received.yaml`'s file, of all stages or of this kind."""
    last = {
        (instance, json.dumps(point.get("attributes"))): point["asDouble"]
        for line in _lines(folder / "otelcol" / "metrics.jsonl")
        for resource in line["resourceMetrics"]
        for instance in [_instance(resource["resource"])]
        for scope in resource["scopeMetrics"]
        for metric in scope["metrics"]
        if metric["name"] == ENERGY
        for point in metric["sum"]["dataPoints"]
        if not kind or _of(point).get("carbon_otel.stage.kind") == kind
    }
    total: dict[str, float] = {}
    for (instance, _), joules_ in last.items():
        total[instance] = total.get(instance, 0) + joules_
    return total


def _instance(resource: dict[str, Any]) -> str:
    return str(_of(resource)["service.instance.id"])


def _of(item: dict[str, Any]) -> dict[str, Any]:
    """The attributes of a point or a resource that are texts."""
    return {each["key"]: each["value"].get("stringValue") for each in item.get("attributes", ())}


def _lines(file: Path) -> list[Any]:
    """The whole lines of a file that may grow."""
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_text().splitlines(keepends=True) if line.endswith("\n")]
