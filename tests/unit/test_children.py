"""The parts of a call are stages in its stage, as many as the run has an allowance for."""

from __future__ import annotations

import contextvars
import gc
from types import ModuleType

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import carbon_otel
from carbon_otel.instrumentation.calls import Call, Calls, Hook
from carbon_otel.instrumentation.children import EPOCH, Children, begins, children_of, ends
from carbon_otel.instrumentation.in_place import Around
from carbon_otel.stages.allowance import Allowance
from carbon_otel.stages.automatic import UNITS, helping
from carbon_otel.units import NS_PER_S
from tests.fakes.powercap import server


class Model:
    """A library with a loop, and functions that it calls at the edges of an epoch."""

    def fit(self, epochs=2, inside=None):
        for epoch in range(epochs):
            self.begins(epoch)
            if inside is not None:
                inside(self, epoch)
            self.ends(epoch)
        return self

    def begins(self, epoch):
        pass

    def ends(self, epoch):
        pass

    def evaluate(self):
        return 1.0

    def serve(self):
        return self.answer(), self.answer()

    def answer(self):
        return 2.0


def _counted(arguments, result):
    return {"answers": 1}


TABLE = Calls(
    "library",
    Call("Model.fit", "training", admits=(EPOCH, "evaluation"), within=Children),
    Call("Model.evaluate", "evaluation"),
    Call("Model.serve", "inference", admits=(UNITS,)),
    Call("Model.answer", "inference", units=_counted),
    Hook("Model.begins", begins(lambda model, epoch: (model, f"epoch {epoch}"), note=id)),
    Hook("Model.ends", ends(lambda model, epoch: model)),
)


@pytest.fixture
def spans(tmp_path):
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    library = ModuleType("library")
    library.Model = Model
    undo = TABLE.connect(library)
    carbon_otel.instrument(
        zone="FR", powercap_root=server(tmp_path).root, interval_s=30, tracer_provider=provider
    )
    yield exporter
    carbon_otel.uninstrument()
    undo()


def outline(spans) -> list[tuple[str, str | None]]:
    ended = spans.get_finished_spans()
    spans.clear()
    names = {span.context.span_id: span.name for span in ended}
    return [(span.name, names.get(span.parent.span_id) if span.parent else None) for span in ended]


def test_an_epoch_ends_with_the_function_that_tells_of_its_end(spans):
    Model().fit(2, lambda model, epoch: model.evaluate())
    assert outline(spans) == [
        ("Model.evaluate", "epoch 0"),
        ("epoch 0", "Model.fit"),
        ("Model.evaluate", "epoch 1"),
        ("epoch 1", "Model.fit"),
        ("Model.fit", None),
    ]


def test_an_epoch_without_an_end_ends_with_the_next_one_or_with_the_call(spans):
    def skips(model, epoch):
        if epoch == 1:
            raise ValueError("by the user")
        model.begins(7)

    with pytest.raises(ValueError, match="by the user"):
        Model().fit(2, skips)
    assert outline(spans) == [
        ("epoch 0", "Model.fit"),
        ("epoch 7", "Model.fit"),
        ("epoch 1", "Model.fit"),
        ("Model.fit", None),
    ]
    Model().begins(0)
    Model().evaluate()
    assert outline(spans) == [("Model.evaluate", None)]


def test_a_call_on_another_object_has_no_part_in_it(spans):
    Model().fit(1, lambda _, __: Model().fit(3))
    assert outline(spans) == [("epoch 0", "Model.fit"), ("Model.fit", None)]


def test_a_call_that_was_never_left_leaves_no_stage_open(spans):
    """An exception may arrive after the call is entered, and before Python knows that it is to be left."""
    model = Model()
    constants = Model.fit.__code__.co_consts
    enter = next(each for each in constants if isinstance(each, Around))

    def interrupted() -> None:
        entered = enter(model)
        entered.__enter__()
        model.begins(0)
        assert children_of(model) is not None
        del entered
        gc.collect()
        assert children_of(model) is None

    # Nobody makes the former span current again.
    contextvars.copy_context().run(interrupted)
    assert sorted(outline(spans)) == [("Model.fit", None), ("epoch 0", "Model.fit")]


def test_faults_of_a_hook_stay_with_us(spans, caplog):
    library = ModuleType("library")
    library.Model = type("Other", (), {"begins": lambda self: 1, "ends": lambda self: 2})
    fault = (
        Hook("Model.begins", begins(lambda model: model.missing)),
        Hook("Model.ends", ends(lambda m: m.missing)),
    )
    undo = Calls("library", *fault).connect(library)
    model = library.Model()
    assert (model.begins(), model.ends()) == (1, 2)
    undo()
    assert [record.getMessage().partition(" failed")[0] for record in caplog.records] == [
        "opening the stage of an epoch",
        "closing the stage of an epoch",
    ]


def test_units_of_inner_calls_belong_to_a_stage_that_asks_for_them(spans):
    Model().serve()
    (span,) = spans.get_finished_spans()
    assert (span.name, span.attributes["carbon_otel.units.answers"]) == ("Model.serve", 2)


def test_a_helper_of_a_library_opens_none(spans):
    token = helping.set(True)
    Model().fit(1)
    helping.reset(token)
    assert outline(spans) == []


def test_beyond_the_allowance_the_call_pays(spans):
    with carbon_otel.stage("work"):
        Model().fit(100)
    ended = {span.name: span for span in spans.get_finished_spans()}
    assert 20 <= len(ended) - 2 < 100
    own = sum(span.attributes["carbon_otel.energy.exclusive_j"] for span in ended.values())
    assert ended["work"].attributes["carbon_otel.energy.total_j"] == pytest.approx(own)


def test_an_allowance_grows_by_one_a_second_and_has_an_end():
    allowance = Allowance(0)
    assert [allowance.take(0) for _ in range(22)] == 20 * [True] + 2 * [False]
    assert [allowance.take(NS_PER_S), allowance.take(NS_PER_S)] == [True, False]
    later = 1000 * NS_PER_S
    assert sum(allowance.take(later) for _ in range(30)) == 20
    taken = 41 + sum(allowance.take(later + second * NS_PER_S) for second in range(2000))
    assert taken == 1000
