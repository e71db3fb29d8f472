"""Predictions and transformations are stages while they come seldom, and share while they come often."""

from __future__ import annotations

import contextlib
import threading
from types import ModuleType

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import carbon_otel
from carbon_otel import runtime
from carbon_otel.instrumentation.calls import Call, Calls
from carbon_otel.stages import cells, frequent
from carbon_otel.stages import outermost as outermost_module
from carbon_otel.stages.cells import Share
from carbon_otel.stages.frequent import SharedCall, around_frequent
from carbon_otel.stages.handing_on import for_thread
from carbon_otel.stages.open_stage import current
from carbon_otel.stages.outermost import outermost
from tests.fakes.powercap import server
from tests.unit import test_interrupted_engine as interrupts
from tests.unit.test_shares import Bench

ROWS = {"samples": 4.0}


class Frequent(Bench):
    """As `Bench`, for calls that decide themselves what they are."""

    def __init__(self, monkeypatch) -> None:
        super().__init__(monkeypatch)
        monkeypatch.setattr(frequent, "_now", self.clock)
        monkeypatch.setattr(runtime, "begun", lambda: self)
        monkeypatch.setattr(runtime, "active", lambda: self)

    def predict(self, seconds: float, inside=lambda: None):
        """One prediction; what was put around it."""
        entered = around_frequent("inference", "predict", lambda result: ROWS)
        if entered is None:
            self.clock.advance(seconds)
            inside()
            return None
        with entered as seen:
            self.clock.advance(seconds)
            inside()
            seen(None)
        return entered

    def often(self) -> None:
        """Use up the stages that the first predictions are."""
        while not isinstance(self.predict(0.001), SharedCall):
            pass
        self.engine.tick(checkpoint=True)
        self.sink.closed.clear()


@pytest.fixture
def bench(monkeypatch):
    yield Frequent(monkeypatch)
    current.set(None)  # a test may have left a call by an exception
    outermost.set(None)


def units(ended) -> dict[str, float]:
    """The sum of the units; a stage is one call."""
    total = {"calls": 0.0, "samples": 0.0}
    for _, end in ended:
        total["calls"] += end.footprint.units.get("calls", 1)
        total["samples"] += end.footprint.units["samples"]
    return total


def test_the_first_calls_are_stages_and_then_one_a_second(bench):
    for _ in range(1000):
        bench.predict(0.01)
        bench.clock.advance(0.01)
    bench.check()
    bench.engine.close_all()
    ended = bench.ended("predict")
    stages = [end for _, end in ended if "modelled.time_share" not in end.footprint.method]
    assert 20 + 19 <= len(stages) <= 20 + 20 and len(ended) == len(stages) + 1
    assert units(ended) == {"calls": 1000, "samples": 4000}
    assert sum(end.footprint.energy_j for _, end in ended) == pytest.approx(1000)
    bench.check()


def test_no_sum_of_a_kind_has_the_number_of_the_calls_that_share(bench):
    """Divided by it, the energy of the calls that are stages would count for the few others."""
    for _ in range(60):
        bench.predict(0.2)
    bench.engine.close_all()
    ended = [end for _, end in bench.ended("predict")]
    assert [end.footprint.units for end in ended if "calls" in end.footprint.units]
    assert {unit for end in ended for unit in end.units} == {"samples"}
    assert sum(end.units["samples"] for end in ended) == 60 * 4


def test_a_slow_call_is_a_stage_each_time(bench):
    for _ in range(100):
        bench.predict(0.3)
    ended = bench.ended("predict")
    assert len(ended) == 100 and all(end.footprint.units == ROWS for _, end in ended)
    bench.check()


def test_few_calls_of_a_service_have_a_child_however_short_they_are(bench):
    bench.often()
    for _ in range(2):
        bench.predict(0.001)
    bench.engine.close_all()
    ((_, end),) = bench.ended("predict")
    assert end.footprint.energy_j == pytest.approx(0.3, rel=0.4)


def test_the_child_of_a_process_ends_after_a_minute_and_the_next_one_begins(bench):
    bench.often()
    told = 0
    for second in range(150):
        for _ in range(4):
            bench.clock.advance(0.2)
            told += isinstance(bench.predict(0.05), SharedCall)
        bench.engine.tick(checkpoint=second % 15 == 0)
        bench.check()
    shared = [end for _, end in bench.ended("predict") if "calls" in end.footprint.units]
    assert len(shared) == 2
    for end in shared:
        assert end.footprint.energy_j == pytest.approx(60 * 0.15 * 100, rel=0.02)
        assert end.footprint.units["calls"] == pytest.approx(180, abs=4)
    bench.engine.close_all()
    shared = [end for _, end in bench.ended("predict") if "calls" in end.footprint.units]
    # With the one that has shared before.
    assert sum(end.footprint.units["calls"] for end in shared) == told + 1
    bench.check()


def test_calls_of_several_threads_at_once_have_the_energy_of_the_time_in_which_one_ran(bench):
    stage = bench.engine.open("etl", "etl", {})
    share, made = Share("inference", "predict", 1), []
    for _ in range(2):
        thread = threading.Thread(
            target=lambda: made.append(bench.engine.shares.add(share, stage, counts=True))
        )
        thread.start()
        thread.join()
    first, second = made
    for _ in range(3):
        first.__enter__()
        bench.clock.advance(0.1)
        second.__enter__()
        bench.clock.advance(0.1)
        first.__exit__(None, None, None)
        bench.engine.tick()
        bench.clock.advance(0.1)
        second.__exit__(None, None, None)
        bench.clock.advance(0.7)
    bench.engine.close(stage)
    ((_, end),) = bench.ended("predict")
    assert end.footprint.energy_j == pytest.approx(90)
    assert end.footprint.units == {"calls": 6}
    bench.check()


def test_calls_in_a_call_are_parts_of_it(bench):
    inner = []
    bench.predict(0.01, lambda: inner.append(bench.predict(0.01)))
    bench.often()
    outer = bench.predict(0.01, lambda: inner.append(bench.predict(0.01)))
    assert isinstance(outer, SharedCall) and inner == [None, None]
    assert isinstance(bench.predict(0.01), SharedCall)


def test_calls_in_a_thread_of_a_call_are_parts_of_it_until_it_ends(bench):
    bench.often()
    inner, later, over = [], [], threading.Event()

    def work():
        inner.append(bench.predict(0))
        over.wait()
        later.append(bench.predict(0))

    threads = []

    def start():
        threads.append(threading.Thread(target=for_thread(work)))
        threads[0].start()
        while not inner:
            pass

    assert isinstance(bench.predict(0.01, start), SharedCall)
    over.set()
    threads[0].join()
    assert inner == [None] and isinstance(later[0], SharedCall)


def test_a_stage_of_the_user_in_a_call_has_calls_of_its_own(bench):
    bench.often()
    inner = []

    def stage():
        with carbon_otel.stage("etl", "inner"):
            inner.append(bench.predict(0.01))

    assert isinstance(bench.predict(0.01, stage), SharedCall)
    assert inner[0] is not None
    bench.engine.close_all()
    assert [info.parent.name for info, _ in bench.ended("predict") if info.parent] == ["inner"]
    bench.check()


def test_a_call_in_a_short_one_has_its_own_time(bench):
    bench.often()
    apply = Share("data_processing", "apply")
    cell = bench.engine.shares.add(apply, bench.engine.root, counts=True)
    with cell:
        bench.clock.advance(0.1)
        assert isinstance(bench.predict(0.06), SharedCall)
        bench.clock.advance(0.04)
    assert cells.inside() is None
    bench.engine.close_all()
    ((_, end),) = bench.ended("apply")
    assert end.footprint.energy_j == pytest.approx(14) and end.footprint.units == {"calls": 1}
    assert sum(end.footprint.energy_j for _, end in bench.ended("predict")) == pytest.approx(6, abs=0.2)
    bench.check()


def test_after_a_call_that_an_exception_has_broken_off_others_count_again(bench):
    bench.often()
    broken = around_frequent("inference", "predict", None)
    broken.__enter__()  # and `__exit__` is never called
    assert bench.predict(0.01) is None
    bench.clock.advance(0.3)
    bench.engine.tick()
    assert isinstance(bench.predict(0.01), SharedCall)
    bench.check()


def test_after_a_keyboard_interrupt_at_any_line_of_a_call_others_count_again(bench, monkeypatch):
    """Else no prediction of a notebook would be seen after the interrupt of a cell."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(
        interrupts, "FILES", {module.__file__ for module in (frequent, cells, outermost_module)}
    )
    bench.often()
    lines = interrupts.lines_of(lambda: bench.predict(0.01))
    assert lines > 30
    for at in range(1, lines + 1):
        bench.often()
        with contextlib.suppress(KeyboardInterrupt):
            interrupts.interrupted(lambda: bench.predict(0.01), at, interrupt)
        bench.clock.advance(0.3)
        bench.engine.tick()
        assert not outermost_module.is_part(), f"line {at}"
        assert bench.predict(0.01) is not None, f"line {at}"
        bench.check()


def test_a_call_of_a_stage_that_an_exception_has_kept_open_covers_nothing_after_its_end(bench):
    entered = around_frequent("inference", "predict", None)
    entered.__enter__()
    assert bench.predict(0.01) is None
    bench.engine.close(current.get())
    assert bench.predict(0.01) is not None


def test_calls_in_a_stage_of_the_user_of_their_kind_add_their_units_to_it(bench):
    with carbon_otel.stage("inference") as stage:
        for _ in range(50):
            bench.predict(0.01)
    assert stage.footprint.units == {"samples": 200}
    assert not bench.ended("predict")


def test_each_stage_of_the_user_has_first_calls(bench):
    for _ in range(30):
        with carbon_otel.stage("request"):
            bench.predict(0.01)
    ended = bench.ended("predict")
    assert len(ended) == 30 and all("calls" not in end.footprint.units for _, end in ended)


class Model:
    def predict(self, rows):
        return rows

    def fit(self, rows):
        return self.predict(rows)


def test_units_of_threads_are_exact(tmp_path):
    library = ModuleType("library")
    library.Model = Model
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    table = Calls(
        "library",
        Call("Model.predict", "inference", units=lambda arguments, result: {"samples": arguments["rows"]}),
        Call("Model.fit", "training"),
    )
    undo = table.connect(library)
    carbon_otel.instrument(
        zone="FR", powercap_root=server(tmp_path).root, interval_s=0.05, tracer_provider=provider
    )
    try:

        def serve():
            for _ in range(500):
                Model().predict(3)

        threads = [threading.Thread(target=serve) for _ in range(4)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        Model().fit(3)
    finally:
        carbon_otel.uninstrument()
        undo()
    seen = [span.attributes for span in exporter.get_finished_spans() if span.name == "Model.predict"]
    assert sum(each["carbon_otel.units.samples"] for each in seen) == 6000
    assert sum(each.get("carbon_otel.units.calls", 1) for each in seen) == 2000
    assert len(seen) < 40
