"""What a tick and a stage cost in a large program, as CPU time of the thread that does them.

A tick holds the interpreter for less than that: other threads run while it is in a system call.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest

import carbon_otel
from carbon_otel.runtime import active
from tests.benchmarks.test_cost import edge, let_the_counters_move
from tests.fakes.powercap import server

REPEATS = 15
# The shares are measured every 0.1 s: a tick that comes earlier costs less.
PAUSE_S = 0.12
# The calls of a tick that let other threads run.
RELEASING = ("close", "listdir", "open", "pread", "read")
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
        let_the_counters_move(read_at_every_edge=False)
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


def tick_ms() -> tuple[float, float]:
    """The CPU time of a tick, and the part of it outside of system calls that let other threads run."""
    released_s = 0.0

    def timed(call: Callable[..., Any]) -> Callable[..., Any]:
        def timed_call(*arguments: Any, **keywords: Any) -> Any:
            nonlocal released_s
            began = time.thread_time()
            try:
                return call(*arguments, **keywords)
            finally:
                released_s += time.thread_time() - began

        return timed_call

    def tick() -> tuple[float, float]:
        nonlocal released_s
        time.sleep(PAUSE_S)
        released_s = 0.0
        began = time.thread_time()
        active().engine.tick()
        spent = time.thread_time() - began
        return spent, spent - released_s

    with pytest.MonkeyPatch.context() as patch:
        for name in RELEASING:
            patch.setattr(os, name, timed(getattr(os, name)))
        ticks = [tick() for _ in range(REPEATS)]
    whole, held = (statistics.median(column) * 1e3 for column in zip(*ticks, strict=True))
    return whole, held


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


@pytest.fixture
def tick(table):
    """`tick(where)` measures one and adds two rows."""

    def measured(where: str) -> None:
        whole_ms, held_ms = tick_ms()
        table(f"a tick{where}", "carbon_otel", whole_ms, "ms")
        table(f"a tick{where}: it holds the interpreter", "carbon_otel", held_ms, "ms")

    return measured


def test_a_tick_with_many_stages(program, tick):
    program.measure(**with_sdk())
    tick(", SDK span and metrics")
    program.grow(stages=5000)
    tick(" with 5,000 open stages, SDK span and metrics")


def test_a_tick_with_many_children(program, table, tick):
    program.measure(attribution="process")
    program.grow(children=300)
    tick(" with 300 children")
    table("a stage after a pause, 300 children", "carbon_otel", stage_after_a_pause_ms(), "ms")


def test_a_tick_with_many_threads(program, table, tick):
    program.measure(attribution="process")
    program.grow(threads=3000)
    table("a stage after a pause, 3,000 threads", "carbon_otel", stage_after_a_pause_ms(), "ms")
    program.grow(children=300, stages=5000)
    tick(" with 3,000 threads, 300 children and 5,000 open stages")
