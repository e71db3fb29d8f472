"""Estimates for remote models in MLflow runs: metrics of their own, which no reader takes for measured energy."""

from __future__ import annotations

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import SpanKind

import carbon_otel
from carbon_otel.records import RemoteRequest
from carbon_otel.remote import estimator
from tests.integration import stored
from tests.integration.stores import tracking

mlflow = pytest.importorskip("mlflow")

MODEL = "llama-3.1-70b"
ONE = estimator("benchmark")(RemoteRequest("openai", MODEL, 0, 100, 1.0))
WH = 3600


@pytest.fixture
def call(tmp_path, empty_store, tree):
    with tracking(empty_store.copy(tmp_path)):
        mlflow.create_experiment("tests", artifact_location=tmp_path.as_uri())
        mlflow.set_experiment("tests")
        provider = TracerProvider(shutdown_on_exit=False)
        carbon_otel.instrument(
            zone="FR", powercap_root=tree.root, tracer_provider=provider, remote_estimates="benchmark"
        )
        tracer = provider.get_tracer("client")

        def call(tokens=100):
            asked = {"gen_ai.request.model": MODEL, "gen_ai.provider.name": "openai"}
            with tracer.start_as_current_span("chat", kind=SpanKind.CLIENT, attributes=asked) as span:
                if tokens:
                    span.set_attribute("gen_ai.usage.output_tokens", tokens)

        yield call
        carbon_otel.uninstrument()


def of(run_id):
    carbon_otel.flush(20)
    run = mlflow.MlflowClient().get_run(run_id)
    return {k.removeprefix("carbon/"): v for k, v in stored.figures(run).items()}, stored.tags(run)


def test_a_run_has_the_estimates_of_its_calls_apart(call):
    with mlflow.start_run() as run:
        call()
        with carbon_otel.stage("inference"):
            call()
            call(tokens=None)
        with mlflow.start_run(nested=True) as nested:
            call()
    with mlflow.start_run() as quiet:
        pass
    metrics, tags = of(run.info.run_id)
    assert metrics["remote_estimate_wh"] == pytest.approx(2 * ONE.energy_j / WH)
    assert metrics["remote_estimate_low_wh"] == pytest.approx(2 * ONE.low_j / WH)
    assert metrics["remote_estimate_high_wh"] == pytest.approx(2 * ONE.high_j / WH)
    assert metrics["remote_estimate_g"] == pytest.approx(2 * ONE.emissions_g)
    assert (metrics["remote_calls"], metrics["remote_calls_unknown"]) == (2, 1)
    assert tags["carbon.remote_method"] == "estimated.remote"
    assert "ML.ENERGY" in tags["carbon.remote_source"]
    # The tree draws nothing: whatever is in a measured figure would be an estimate.
    assert metrics["energy_wh"] == metrics["energy_measured_wh"] == 0
    assert tags["carbon.method"] == "measured.counter"
    of_nested, _ = of(nested.info.run_id)
    assert (of_nested["remote_calls"], of_nested["energy_wh"]) == (1, 0)
    without, tags = of(quiet.info.run_id)
    assert not [name for name in (*without, *tags) if "remote" in name]


def test_a_report_does_not_add_them(call):
    with mlflow.start_run() as run:
        call()
    metrics, _ = of(run.info.run_id)
    assert metrics["remote_estimate_wh"] > 0
    report = carbon_otel.report(run.info.run_id)
    assert report.total.energy_wh == 0
    assert set(report.by_stage) <= {"run"} and not report.unreadable
