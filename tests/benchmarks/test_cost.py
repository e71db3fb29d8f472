"""The cost of measuring, beside codecarbon and zeus if they are installed (`pip install -e . --group bench`).

    pytest tests/benchmarks --benchmark-disable-gc

Nothing here passes or fails by time: this prints a table.
"""

from __future__ import annotations

import importlib.util
import itertools

import pytest

import carbon_otel
from carbon_otel.runtime import active
from tests.benchmarks import programs
from tests.fakes.powercap import server

pytest.importorskip("pytest_benchmark", reason="pip install -e . --group bench")

REPEATS = 7


def installed(*tools: str) -> list[str]:
    return [tool for tool in tools if importlib.util.find_spec(tool)]


@pytest.mark.parametrize("tool", installed("carbon_otel", "codecarbon", "zeus"))
def test_import(tool, table):
    for _ in range(REPEATS):
        table(
            "import (carbon_otel: over opentelemetry.sdk)",
            tool,
            programs.number(programs.IMPORTS[tool]) * 1e3,
            "ms",
        )


@pytest.mark.parametrize("tool", installed("carbon_otel", "codecarbon"))
def test_first_start(tool, table):
    for _ in range(REPEATS):
        table("first start, no GPU", tool, programs.number(programs.STARTS[tool]) * 1e3, "ms")


@pytest.mark.parametrize("interval", [1, 0.1])
@pytest.mark.parametrize("tool", installed("carbon_otel", "codecarbon"))
def test_sampler(tool, interval, table):
    start = programs.SAMPLERS[tool].format(interval=interval)
    table(f"sampling every {interval} s", tool, programs.number(programs.idle(start, 20)), "CPU-s/min")


@pytest.mark.skipif(not installed("mlflow"), reason="mlflow is not installed")
def test_an_empty_mlflow_run(tmp_path, table):
    """In turn, so that both meet the same machine."""
    ours = "import carbon_otel; carbon_otel.instrument(zone='FR')", "carbon_otel.flush()"
    for _ in range(REPEATS):
        for tool, (start, flush) in {"MLflow alone": ("", ""), "carbon_otel": ours}.items():
            file = tmp_path / f"{len(tool)}.db"
            program = programs.EMPTY_RUN.format(start=start, flush=flush, file=file)
            thread_ms, process_ms = programs.numbers(program)
            table("an empty MLflow run on sqlite, CPU time of its thread", tool, thread_ms, "ms")
            table("an empty MLflow run on sqlite, CPU time of the process", tool, process_ms, "ms")


@pytest.mark.parametrize("tool", installed("carbon_otel", "codecarbon"))
def test_sampler_with_children(tool, table):
    start = programs.CHILDREN + programs.SAMPLERS[tool].format(interval=1)
    table(
        "sampling every 1 s, 8 children of 100 threads",
        tool,
        programs.number(programs.idle(start, 20)),
        "CPU-s/min",
    )


@pytest.mark.parametrize("tool", installed("carbon_otel", "codecarbon"))
def test_memory(tool, table):
    start = programs.SAMPLERS[tool].format(interval=1)
    for _ in range(3):
        table(
            "memory over the OpenTelemetry SDK",
            tool,
            programs.number(programs.MEMORY.format(start=start)),
            "MB",
        )


@pytest.fixture
def bare(tmp_path):
    """Four powercap zones, no exporter."""
    carbon_otel.instrument(zone="FR", powercap_root=server(tmp_path).root)
    yield
    carbon_otel.uninstrument()


@pytest.fixture
def with_sdk(tmp_path):
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter = InMemorySpanExporter()
    tracer_provider = TracerProvider(shutdown_on_exit=False)
    tracer_provider.add_span_processor(SimpleSpanProcessor(exporter))
    meter_provider = MeterProvider([InMemoryMetricReader()], shutdown_on_exit=False)
    carbon_otel.instrument(
        zone="FR",
        powercap_root=server(tmp_path).root,
        tracer_provider=tracer_provider,
        meter_provider=meter_provider,
    )
    yield
    carbon_otel.uninstrument()


def edge() -> None:
    with carbon_otel.stage("training"):
        pass


def let_the_counters_move(*, read_at_every_edge: bool) -> None:
    """Let the counters go on with every reading, so that there is energy to be counted.

    Reading at every edge is as after a pause of 2 ms, without what a pause does to the caches of this machine.
    """
    for track in active().engine.meter.tracks:
        if read_at_every_edge:
            track.edge_interval_ns = 0
        counter = itertools.count(track.read(), 2000)

        def read(file=track.read, counter=counter):
            file()
            return next(counter)

        track.read = read


@pytest.mark.parametrize("fresh", [True, False], ids=["read afresh", "readings reused"])
@pytest.mark.parametrize("session", ["bare", "with_sdk"])
def test_stage(session, fresh, request, benchmark, table):
    request.getfixturevalue(session)
    let_the_counters_move(read_at_every_edge=fresh)
    benchmark.pedantic(edge, rounds=1000, warmup_rounds=50)
    name = {"bare": "no exporter", "with_sdk": "SDK span and metrics"}[session]
    reading = "both edges read afresh" if fresh else "readings reused"
    table(f"stage, {name}, {reading}", "carbon_otel", benchmark.stats.stats.median * 1e6, "us")


@pytest.mark.skipif(not installed("mlflow"), reason="mlflow is not installed")
def test_a_stage_with_a_lineage(tmp_path, benchmark, table):
    """Each stage outside of runs is then recorded for the model, and delivered to MLflow's store."""
    import mlflow

    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")
    carbon_otel.instrument(zone="FR", powercap_root=server(tmp_path).root, lineage="benchmark")
    let_the_counters_move(read_at_every_edge=False)
    benchmark.pedantic(edge, rounds=1000, warmup_rounds=50)
    median_us = benchmark.stats.stats.median * 1e6
    carbon_otel.uninstrument()
    mlflow.set_tracking_uri(None)
    table("stage, no exporter, readings reused", "carbon_otel with a lineage", median_us, "us")


@pytest.mark.skipif(not installed("codecarbon"), reason="codecarbon is not installed")
def test_codecarbon_task(benchmark, table):
    from codecarbon import OfflineEmissionsTracker

    tracker = OfflineEmissionsTracker(country_iso_code="FRA", save_to_file=False, log_level="error")
    tracker.start()

    def task() -> None:
        tracker.start_task()
        tracker.stop_task()

    benchmark.pedantic(task, rounds=200, warmup_rounds=5)
    table(
        "stage, no exporter, readings reused",
        "codecarbon start_task",
        benchmark.stats.stats.median * 1e6,
        "us",
    )
    tracker.stop()


@pytest.mark.skipif(not installed("zeus"), reason="zeus is not installed")
def test_zeus_window(benchmark, table):
    from zeus.monitor import ZeusMonitor

    monitor = ZeusMonitor(gpu_indices=[], cpu_indices=[])

    def window() -> None:
        monitor.begin_window("w", sync_execution=False)
        monitor.end_window("w", sync_execution=False)

    benchmark.pedantic(window, rounds=500, warmup_rounds=5)
    table("stage, no exporter, readings reused", "zeus, no device", benchmark.stats.stats.median * 1e6, "us")


def test_the_sdk_alone(benchmark, table):
    """The cost of the same telemetry without measuring: a span of 15 attributes, three adds, a record."""
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(InMemorySpanExporter()))
    tracer = provider.get_tracer("bare")
    meter = MeterProvider([InMemoryMetricReader()], shutdown_on_exit=False).get_meter("bare")
    counter, histogram = meter.create_counter("c"), meter.create_histogram("h")
    attributes = {f"some.attribute.name_{i}": float(i) for i in range(15)}
    labels = {"kind": "training", "name": "training", "component": "cpu", "method": "measured.counter"}

    def span() -> None:
        with tracer.start_as_current_span("training") as current:
            current.set_attributes(attributes)
            for _ in range(3):
                counter.add(1.0, labels)
            histogram.record(1.0, labels)

    benchmark.pedantic(span, rounds=1000, warmup_rounds=50)
    for reading in ("both edges read afresh", "readings reused"):
        table(
            f"stage, SDK span and metrics, {reading}",
            "OpenTelemetry SDK alone",
            benchmark.stats.stats.median * 1e6,
            "us",
        )
