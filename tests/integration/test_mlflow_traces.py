"""Stages in MLflow's own traces: below the user's spans, with the energy of the trace as its tags."""

from __future__ import annotations

import time

import pytest

import carbon_otel
from carbon_otel.semconv import names as semconv
from tests.fakes.drawing import trickle
from tests.integration.stores import tracking

mlflow = pytest.importorskip("mlflow")


@pytest.fixture(scope="module")
def store(tmp_path_factory, empty_store):
    folder = tmp_path_factory.mktemp("store")
    with tracking(empty_store.copy(folder)):
        mlflow.create_experiment("tests", artifact_location=folder.as_uri())
        mlflow.set_experiment("tests")
        yield
        mlflow.flush_trace_async_logging()


@pytest.fixture
def draw(store, tree):
    carbon_otel.instrument(zone="FR", powercap_root=tree.root, interval_s=0.05)

    def some(joules):
        time.sleep(0.01)
        tree.package[0].add(joules)

    with trickle(tree.package[0]):
        yield some
        carbon_otel.uninstrument()


def trace_of(span):
    """The trace in the store, after everything was sent."""
    mlflow.flush_trace_async_logging()
    carbon_otel.flush(20)
    return mlflow.MlflowClient().get_trace(span.trace_id)


def test_a_stage_is_a_span_below_the_users_and_around_the_users(draw):
    with mlflow.start_span("answer") as outer:
        with carbon_otel.stage("inference", name="llm") as stage, mlflow.start_span("decode") as inner:
            draw(5)
            inner.set_attribute(
                "mlflow.chat.tokenUsage", {"input_tokens": 100, "output_tokens": 150, "total_tokens": 250}
            )
        with carbon_otel.stage("evaluation"):
            draw(2)
    trace = trace_of(outer)
    spans = {span.name: span for span in trace.data.spans}
    assert set(spans) == {"answer", "llm", "decode", "evaluation"}
    assert spans["llm"].parent_id == spans["evaluation"].parent_id == spans["answer"].span_id
    assert spans["decode"].parent_id == spans["llm"].span_id
    joules = stage.footprint.energy_j
    assert spans["llm"].attributes[semconv.ENERGY_TOTAL_J] == pytest.approx(joules)
    assert spans["llm"].attributes[semconv.STAGE_KIND] == "inference"
    total = sum(spans[name].attributes[semconv.ENERGY_TOTAL_J] for name in ("llm", "evaluation"))
    tags = trace.info.tags
    assert float(tags["carbon.energy_j"]) == pytest.approx(total, rel=1e-4)
    assert float(tags["carbon.energy_j_per_1k_tokens"]) == pytest.approx(total * 4, rel=1e-4)
    assert float(tags["carbon.emissions_g_per_1k_tokens"]) == pytest.approx(
        4 * sum(spans[name].attributes[semconv.EMISSIONS_G] for name in ("llm", "evaluation")), rel=1e-4
    )
    found = mlflow.search_traces(filter_string="tags.`carbon.energy_j` != ''", return_type="list")
    assert trace.info.trace_id in {each.info.trace_id for each in found}


def test_a_stage_in_a_stage_counts_once(draw):
    with mlflow.start_span("answer") as outer, carbon_otel.stage("inference"):
        draw(3)
        with carbon_otel.stage("data_processing"):
            draw(4)
    trace = trace_of(outer)
    spans = {span.name: span for span in trace.data.spans}
    assert spans["data_processing"].parent_id == spans["inference"].span_id
    assert float(trace.info.tags["carbon.energy_j"]) == pytest.approx(
        spans["inference"].attributes[semconv.ENERGY_TOTAL_J], rel=1e-4
    )


def test_a_stage_that_fails_is_a_span_with_an_error(draw):
    with (
        pytest.raises(ZeroDivisionError),
        mlflow.start_span("answer") as outer,
        carbon_otel.stage("inference"),
    ):
        1 / 0  # noqa: B018 - raises
    spans = {span.name: span for span in trace_of(outer).data.spans}
    assert spans["inference"].status.status_code.value == "ERROR"


def test_without_a_span_of_the_user_there_is_no_trace(draw):
    before = len(mlflow.search_traces(return_type="list"))
    with carbon_otel.stage("training"):
        draw(1)
    mlflow.flush_trace_async_logging()
    assert len(mlflow.search_traces(return_type="list")) == before


def test_stages_are_traced_after_mlflow_has_replaced_its_provider(draw):
    mlflow.set_experiment("others")
    try:
        with mlflow.start_span("answer") as outer, carbon_otel.stage("inference"):
            draw(1)
        assert {span.name for span in trace_of(outer).data.spans} == {"answer", "inference"}
    finally:
        mlflow.set_experiment("tests")


def test_it_can_be_turned_off(store, tree):
    carbon_otel.instrument(zone="FR", powercap_root=tree.root, mlflow_traces=False)
    with mlflow.start_span("answer") as outer, carbon_otel.stage("inference"):
        pass
    trace = trace_of(outer)
    carbon_otel.uninstrument()
    assert [span.name for span in trace.data.spans] == ["answer"]
    assert "carbon.energy_j" not in trace.info.tags
