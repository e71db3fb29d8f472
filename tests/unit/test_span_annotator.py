"""Energy on the application's own spans: windows, and parts that add up to the energy used."""

from __future__ import annotations

import gc
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import carbon_otel
from carbon_otel.otel.span_annotator import SpanAnnotator
from tests.unit.test_otel_sink import Application, server

WINDOW, PART = "carbon_otel.window.energy_j", "carbon_otel.window.attributed_j"


class Bench:
    def __init__(self) -> None:
        self.joules = 0.0
        self.exporter = InMemorySpanExporter()
        self.annotator = SpanAnnotator(lambda: self.joules)
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(self.annotator)
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = provider.get_tracer("app")

    def start(self, name, above=None):
        context = trace.set_span_in_context(above) if above else None
        return self.tracer.start_span(name, context)

    def figures(self):
        done = self.exporter.get_finished_spans()
        return {s.name: (s.attributes[WINDOW], s.attributes[PART]) for s in done}


@pytest.fixture
def bench():
    return Bench()


def test_two_concurrent_requests_share_the_energy_of_their_overlap(bench):
    one = bench.start("one")
    bench.joules = 10
    two = bench.start("two")
    bench.joules = 30
    one.end()
    bench.joules = 35
    two.end()
    assert bench.figures() == {"one": (30, 20), "two": (25, 15)}


def test_a_nested_span_gets_its_part_and_the_outer_span_keeps_all(bench):
    request = bench.start("request")
    bench.joules = 10
    query = bench.start("query", request)
    bench.joules = 14
    query.end()
    bench.joules = 20
    request.end()
    assert bench.figures() == {"query": (4, 4), "request": (20, 20)}


def test_joules_per_output_token(bench):
    span = bench.start("chat")
    bench.joules = 6
    span.set_attribute("gen_ai.usage.output_tokens", 3)
    span.end()
    (done,) = bench.exporter.get_finished_spans()
    assert done.attributes["carbon_otel.window.j_per_output_token"] == 2


def test_a_reading_that_goes_down_counts_as_no_energy(bench):
    bench.joules = 10
    span = bench.start("span")
    bench.joules = 4
    span.end()
    assert bench.figures() == {"span": (0, 0)}


def test_a_span_that_ends_twice_and_one_that_ends_after_the_session(bench):
    twice, late = bench.start("twice"), bench.start("late")
    twice.end()
    twice.end()
    bench.annotator.shutdown()
    late.end()
    first, second = bench.exporter.get_finished_spans()
    assert (first.name, WINDOW in first.attributes) == ("twice", True)
    assert (second.name, WINDOW in second.attributes) == ("late", False)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 9)), max_size=40))
def test_the_parts_of_the_outermost_spans_add_up_to_the_energy_used_while_any_was_open(steps):
    bench, running, used = Bench(), {}, 0
    for number, joules in steps:
        if number in running:
            running.pop(number).end()
        else:
            running[number] = bench.start("span")
        used += joules if running else 0
        bench.joules += joules
    for span in running.values():
        span.end()
    parts = [s.attributes[PART] for s in bench.exporter.get_finished_spans()]
    assert sum(parts) == pytest.approx(used)


def test_spans_of_the_application_are_annotated_and_those_of_stages_are_not(tmp_path):
    application = Application(server(tmp_path))
    application.instrument(annotate_spans=True)
    with (
        carbon_otel.stage("inference"),
        application.tracer_provider.get_tracer("app").start_as_current_span("q"),
    ):
        application.draw(2)
        carbon_otel.flush()
    spans = application.spans()
    # After the last reading, the device counts with its last power, however long a busy machine takes.
    assert spans["q"].attributes[WINDOW] > 1
    assert WINDOW not in spans["inference"].attributes


def test_without_a_provider_the_warning_names_the_remedy(tmp_path, caplog):
    carbon_otel.instrument(zone="FR", powercap_root=server(tmp_path).root, annotate_spans=True)
    assert "before instrument()" in caplog.text


def test_spans_that_never_end_are_forgotten_with_their_objects(bench):
    for _ in range(100):
        bench.start("dropped")
    kept = bench.start("kept")
    gc.collect()
    bench.joules = 6
    last = bench.start("last")
    assert len(bench.annotator._open) == 2
    bench.joules = 10
    last.end()
    kept.end()
    window, part = bench.figures()["last"]
    assert (window, part) == (4, 2)  # shared with the span that is kept, and with no dropped one


def test_a_garbage_collection_while_the_annotator_holds_its_lock(bench):
    """The callback of a span that is collected then must not wait for the lock."""
    bench.start("dropped")
    bench.annotator._joules = lambda: gc.collect() * 0.0
    bench.start("span").end()
    assert list(bench.figures()) == ["span"]


def test_a_span_that_ends_while_the_annotator_holds_its_lock(bench):
    """A collection ends the spans of abandoned generators, and a signal handler may end one, at any point."""
    inner = bench.start("inner")
    inner_ends = iter([inner.end])

    def joules() -> float:
        next(inner_ends, lambda: None)()
        return 0.0

    bench.annotator._joules = joules
    thread = threading.Thread(target=lambda: bench.start("outer").end(), daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive()
    assert sorted(bench.figures()) == ["inner", "outer"]


def test_a_provider_has_one_annotator_for_all_sessions(tmp_path):
    application = Application(server(tmp_path))
    tracer = application.tracer_provider.get_tracer("app")
    before = len(application.tracer_provider._active_span_processor._span_processors)
    for round_ in range(3):
        application.instrument(annotate_spans=True)
        over = tracer.start_span(f"open at the end of session {round_}")
        with tracer.start_as_current_span(f"in session {round_}"):
            pass
        carbon_otel.uninstrument()
        application.instrument(annotate_spans=True, pue=1.5)
        over.end()
        carbon_otel.uninstrument()
    assert len(application.tracer_provider._active_span_processor._span_processors) == before + 1
    annotated = {name for name, span in application.spans().items() if WINDOW in span.attributes}
    assert annotated == {f"in session {round_}" for round_ in range(3)}
