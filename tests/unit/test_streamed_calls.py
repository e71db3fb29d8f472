"""The stage of a call that returns a stream goes on with that, and has its units when it ends."""

from __future__ import annotations

import gc
from types import GeneratorType, ModuleType

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import carbon_otel
from carbon_otel.instrumentation.calls import Call, Calls
from carbon_otel.stages.open_stage import current
from tests.fakes.powercap import server

WORDS = ["a", "b", "c"]


class Model:
    """A library whose calls return their words at once, or one after the other."""

    def write(self, stream=False, fails=False):
        words = self.words(fails)
        return words if stream else list(words)

    def words(self, fails):
        for word in WORDS:
            here = current.get()
            yield word, here and here.info.name
            if fails:
                raise LookupError(word)


class Within:
    """What a table enters with a call: it counts its entries."""

    def __init__(self, model):
        self.entries = self.depth = 0

    def __enter__(self):
        self.entries += 1
        self.depth += 1

    def __exit__(self, *_):
        self.depth -= 1


def _counted(arguments, result):
    if type(result) is Within:
        assert result.depth == 0
        return {"steps": result.entries - 1}  # without the call itself
    return {"words": len(result)}


@pytest.fixture
def ended(tmp_path):
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    carbon_otel.instrument(zone="FR", powercap_root=server(tmp_path).root, tracer_provider=provider)
    library = ModuleType("library")
    library.Model = Model
    call = Call("Model.write", "inference", units=_counted, within=Within, streams=True)
    undo = Calls("library", call).connect(library)

    def since():
        spans = exporter.get_finished_spans()
        exporter.clear()
        prefix = "carbon_otel.units."
        return [
            (
                span.name,
                {k.removeprefix(prefix): v for k, v in span.attributes.items() if k.startswith(prefix)},
            )
            for span in spans
        ]

    yield since
    undo()


def test_a_call_that_returns_at_once(ended):
    Model().write()
    assert ended() == [("Model.write", {"words": 3})]


def test_a_stream_is_the_stage_while_it_works(ended):
    stream = Model().write(stream=True)
    assert type(stream) is GeneratorType and stream.__name__ == "words"
    with carbon_otel.stage("reading"):
        for word, name in stream:
            assert word in WORDS and name == "Model.write"
            assert current.get().info.name == "reading"
            assert ("Model.write", {}) not in ended()
    # A step for each word, and one that finds the end.
    assert ended() == [("Model.write", {"steps": 4}), ("reading", {})]


def test_a_stream_that_fails_has_what_it_did(ended):
    with pytest.raises(LookupError):
        list(Model().write(stream=True, fails=True))
    assert ended() == [("Model.write", {"steps": 2})]


@pytest.mark.parametrize("leave", ["close", "drop"])
def test_a_stream_that_is_left_early(ended, leave):
    stream = Model().write(stream=True)
    next(stream)
    if leave == "close":
        stream.close()
    del stream
    gc.collect()
    assert ended() == [("Model.write", {"steps": 1})]


def test_a_stream_that_nobody_reads(ended):
    Model().write(stream=True)
    gc.collect()
    assert ended() == [("Model.write", {})]


def test_the_units_of_a_stream_in_a_stage_of_the_user(ended):
    with carbon_otel.stage("inference", "mine"):
        for _ in Model().write(stream=True):
            Model().write()
        stream = Model().write(stream=True)
        next(stream)
        stream.close()
    assert ended() == [("mine", {"steps": 5, "words": 9})]


def test_a_stream_that_outlives_the_measurement(ended):
    stream = Model().write(stream=True)
    next(stream)
    carbon_otel.uninstrument()
    assert [word for word, _ in stream] == ["b", "c"]
