"""What a tick and a stage cost in a large program, as CPU time of the thread that does them."""

from __future__ import annotations

import statistics
import subprocess
import sys
import threading
import time
from contextlib import ExitStack

import pytest

import carbon_otel
from carbon_otel.runtime import active
from tests.benchmarks.test_cost import edge
from tests.fakes.powercap import server

REPEATS = 15
_WAITS = "import sys; sys.stdin.read()"


@pytest.fixture
def program(tmp_path):
    """A measured program; `grow` gives it threads, children and open stages. Its sampler does not tick."""
    with ExitStack() as end:
        yield Program(end, server(tmp_path).root)


class Program:
    def __init__(self, end: ExitStack, powercap_root) -> None:
        self.end = end
        self.powercap_root = powercap_root

    def measure(self, **options) -> None:
        carbon_otel.instrument(zone="FR", powercap_root=self.powercap_root, **options)
        active().sampler.stop(timeout_s=1.0)
        self.end.callback(carbon_otel.uninstrument)

    def grow(self, *, threads: int = 0, children: int = 0, stages: int = 0) -> None:
        done = threading.Event()
        self.end.callback(done.set)
        for _ in range(threads):
            threading.Thread(target=done.wait, daemon=True).start()
        for _ in range(children):
            child = subprocess.Popen([sys.executable, "-S", "-c", _WAITS], stdin=subprocess.PIPE)
            self.end.callback(child.wait)
            self.end.callback(child.stdin.close)
        engine = active().engine
        for _ in range(stages):
            self.end.callback(engine.close, engine.open("inference", "request", {}))


def tick_ms() -> float:
    def tick() -> float:
        time.sleep(0.05)
        began = time.thread_time()
        active().engine.tick()
        return time.thread_time() - began

    return statistics.median(tick() for _ in range(REPEATS)) * 1e3


def stage_after_a_pause_ms() -> float:
    def stage() -> float:
        time.sleep(0.3)
        began = time.thread_time()
        edge()
        return time.thread_time() - began

    return statistics.median(stage() for _ in range(REPEATS)) * 1e3


def with_sdk() -> dict[str, object]:
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import TracerProvider

    return {
        "tracer_provider": TracerProvider(shutdown_on_exit=False),
        "meter_provider": MeterProvider([InMemoryMetricReader()], shutdown_on_exit=False),
    }


def test_a_tick_with_many_stages(program, table):
    program.measure(**with_sdk())
    table("a tick, SDK span and metrics", "carbon_otel", tick_ms(), "ms")
    program.grow(stages=5000)
    table("a tick with 5,000 open stages, SDK span and metrics", "carbon_otel", tick_ms(), "ms")


def test_a_tick_with_many_children(program, table):
    program.measure(attribution="process")
    program.grow(children=300)
    table("a tick with 300 children", "carbon_otel", tick_ms(), "ms")
    table("a stage after a pause, 300 children", "carbon_otel", stage_after_a_pause_ms(), "ms")


def test_a_tick_with_many_threads(program, table):
    program.measure(attribution="process")
    program.grow(threads=3000)
    table("a stage after a pause, 3,000 threads", "carbon_otel", stage_after_a_pause_ms(), "ms")
    program.grow(children=300, stages=5000)
    table("a tick with 3,000 threads, 300 children and 5,000 open stages", "carbon_otel", tick_ms(), "ms")
