"""Calls of remote models: an estimate on their span, on their stage, in metrics of their own, and nowhere else."""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor

import pytest
from opentelemetry.trace import SpanKind, set_span_in_context

import carbon_otel
from carbon_otel.otel.remote_calls import is_local
from carbon_otel.records import RemoteRequest
from carbon_otel.remote import estimator
from tests.unit.test_otel_sink import Application, server

MODEL = "llama-3.1-70b"
OURS = "carbon_otel.remote."
ASKED = {"gen_ai.provider.name": "openai", "gen_ai.request.model": MODEL, "server.address": "api.openai.com"}
USAGE = {"gen_ai.usage.input_tokens": 20, "gen_ai.usage.output_tokens": 100}
ONE = estimator("benchmark")(RemoteRequest("openai", MODEL, 20, 100, 1.0))


@pytest.fixture
def application(tmp_path):
    made = Application(server(tmp_path))
    made.instrument(remote_estimates="benchmark")
    return made


@pytest.fixture
def call(application):
    tracer = application.tracer_provider.get_tracer("client")

    def call(name="chat", asked=ASKED, usage=USAGE, inside=None, kind=SpanKind.CLIENT):
        """A span of a call; `inside` is called while it is open."""
        span = tracer.start_span(name, kind=kind, attributes=asked)
        if inside is not None:
            from opentelemetry import context

            token = context.attach(set_span_in_context(span))
            inside()
            context.detach(token)
        span.set_attributes(usage)
        span.end()

    return call


def ours(span) -> dict[str, object]:
    return {k.removeprefix(OURS): v for k, v in span.attributes.items() if k.startswith(OURS)}


def test_the_span_of_a_call_has_the_estimate(application, call):
    call()
    found = ours(application.spans()["chat"])
    assert found == {
        "estimated": True,
        "energy_j": ONE.energy_j,
        "low_j": ONE.low_j,
        "high_j": ONE.high_j,
        "g_co2e": ONE.emissions_g,
        "low_g_co2e": ONE.low_g,
        "high_g_co2e": ONE.high_g,
        "method": "estimated.remote",
        "source": ONE.source,
    }


def test_older_names_of_the_conventions(application, call):
    asked = {"gen_ai.system": "openai", "gen_ai.request.model": MODEL}
    call(
        asked=asked,
        usage={"gen_ai.usage.prompt_tokens": 20, "gen_ai.usage.completion_tokens": 100},
        kind=SpanKind.INTERNAL,
    )
    assert ours(application.spans()["chat"])["energy_j"] == ONE.energy_j


def test_a_stage_has_the_sum_of_its_own_calls_beside_its_measured_figures(application, call):
    with carbon_otel.stage("inference", "outer") as outer:
        call("first")
        with carbon_otel.stage("inference", "inner"):
            call("second")
            call("third")
            call("silent", usage={})
        application.draw(5)
    spans = application.spans()
    own = {name: ours(spans[name]) for name in ("outer", "inner")}
    assert (own["outer"]["calls"], own["outer"]["energy_j"]) == (1, ONE.energy_j)
    assert (own["inner"]["calls"], own["inner"]["calls_unknown"]) == (2, 1)
    assert own["inner"]["high_j"] == pytest.approx(2 * ONE.high_j)
    # Nothing of it is in the figures of the stage or of the process.
    assert spans["outer"].attributes["carbon_otel.energy.total_j"] == outer.footprint.energy_j
    assert outer.footprint.measured_fraction == 1.0 and outer.footprint.method == "measured.counter"
    carbon_otel.flush()
    measured = sum(point.value for point in application.points("carbon_otel.stage.energy"))
    # What the process has used since the export is not in it.
    assert 5 * (1 - 1e-6) <= measured <= carbon_otel.footprint().energy_j * (1 + 1e-6)
    assert sum(point.value for point in application.points("carbon_otel.remote.energy")) == pytest.approx(
        3 * ONE.energy_j
    )


def test_metrics_have_the_tier_the_kind_and_the_model(application, call):
    with carbon_otel.stage("evaluation"):
        call()
    call(usage={})
    (energy,) = application.points("carbon_otel.remote.energy")
    assert energy.value == ONE.energy_j
    assert energy.attributes == {
        "carbon_otel.stage.kind": "evaluation",
        "carbon_otel.remote.provider": "openai",
        "carbon_otel.remote.model": MODEL,
        "carbon_otel.method": "estimated.remote",
    }
    (grams,) = application.points("carbon_otel.remote.emissions")
    assert grams.value == ONE.emissions_g
    counts = {
        (p.attributes["carbon_otel.stage.kind"], p.attributes["carbon_otel.remote.estimated"]): p.value
        for p in application.points("carbon_otel.remote.requests")
    }
    assert counts == {("evaluation", True): 1, ("unattributed", False): 1}


def test_models_beyond_a_number_share_a_label(application, call):
    for number in range(60):
        call(asked={**ASKED, "gen_ai.request.model": f"model-{number}"})
    models = {
        p.attributes["carbon_otel.remote.model"] for p in application.points("carbon_otel.remote.energy")
    }
    assert len(models) == 51 and "other" in models


@pytest.mark.parametrize("usage", [{}, {"gen_ai.usage.input_tokens": 5}, {"gen_ai.usage.output_tokens": 0}])
def test_a_call_without_tokens_has_no_figure_and_says_so(application, call, usage, caplog):
    call(usage=usage)
    assert ours(application.spans()["chat"]) == {"estimated": False}
    assert "no gen_ai.usage.output_tokens" in caplog.text
    assert application.points("carbon_otel.remote.energy") == []


@pytest.mark.parametrize(
    ("attributes", "local"),
    [
        ({"server.address": "localhost"}, True),
        ({"server.address": "127.0.0.1"}, True),
        ({"server.address": "127.0.0.1:8000"}, True),
        ({"server.address": "::1"}, True),
        ({"server.address": "[::1]:8000"}, True),
        ({"server.address": "http://localhost:11434/v1"}, True),
        ({"gen_ai.openai.api_base": "http://0.0.0.0:8000/v1/"}, True),
        ({"server.address": "api.openai.com"}, False),
        ({"server.address": "localhost.example.com"}, False),
        ({"server.address": "https://api.mistral.ai/v1"}, False),
        ({"server.address": "10.0.0.7", "gen_ai.provider.name": "ollama"}, False),
        ({"gen_ai.system": "ollama"}, True),
        ({"gen_ai.provider.name": "vllm"}, True),
        ({"gen_ai.provider.name": "openai"}, False),
        ({}, False),
    ],
)
def test_a_model_of_this_host_is_not_remote(attributes, local):
    assert is_local(attributes) is local


def test_a_call_of_a_model_of_this_host_is_left_alone(application, call):
    call(asked={**ASKED, "server.address": "localhost"})
    assert ours(application.spans()["chat"]) == {}
    assert application.points("carbon_otel.remote.requests") == []


def test_other_clients_and_our_own_spans_are_left_alone(application, call):
    with carbon_otel.stage("inference"):
        call("http", asked={"server.address": "example.com"}, usage={})
    assert not any(ours(span) for span in application.spans().values())


def test_nested_spans_of_one_call_count_once(application, call):
    def below():
        tracer = application.tracer_provider.get_tracer("framework")
        with tracer.start_as_current_span("retry"):
            call("client")

    call("router", inside=below)
    spans = application.spans()
    assert ours(spans["client"])["estimated"] is True
    assert ours(spans["router"]) == ours(spans["retry"]) == {}
    (energy,) = application.points("carbon_otel.remote.energy")
    assert energy.value == ONE.energy_j


def test_a_framework_above_a_model_of_this_host_is_not_remote(application, call):
    asked = {key: value for key, value in ASKED.items() if key != "server.address"}
    call("framework", asked=asked, inside=lambda: call("client", asked={**ASKED, "server.address": "::1"}))
    assert not any(ours(span) for span in application.spans().values())
    assert application.points("carbon_otel.remote.requests") == []


def test_threads_of_a_stage_call_at_the_same_time(application, call):
    with carbon_otel.stage("inference", "busy"), ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(call) for _ in range(200)]:
            done.result()
    found = ours(application.spans()["busy"])
    assert found["calls"] == 200 and found["energy_j"] == pytest.approx(200 * ONE.energy_j)


def test_spans_that_never_end_are_not_kept(application):
    tracer = application.tracer_provider.get_tracer("client")
    calls = application.tracer_provider._active_span_processor._span_processors[-1]
    tracer.start_span("lost", kind=SpanKind.CLIENT)
    gc.collect()
    tracer.start_span("chat", kind=SpanKind.CLIENT).end()
    assert not calls._open


def test_a_call_that_outlives_its_stage_counts_for_the_one_around_it(application):
    tracer = application.tracer_provider.get_tracer("client")
    with carbon_otel.stage("inference", "outer"):
        with carbon_otel.stage("inference", "inner"):
            span = tracer.start_span("chat", kind=SpanKind.CLIENT, attributes={**ASKED, **USAGE})
        span.end()
    spans = application.spans()
    assert ours(spans["inner"]) == {} and ours(spans["outer"])["calls"] == 1


def test_without_the_setting_and_after_the_end_nothing_is_estimated(application, call):
    carbon_otel.uninstrument()
    call("after")
    application.instrument()
    call("without")
    application.instrument(remote_estimates="benchmark")
    call("again")
    spans = application.spans()
    assert ours(spans["after"]) == ours(spans["without"]) == {}
    assert ours(spans["again"])["estimated"] is True


def test_an_estimator_that_fails_stays_with_us(application, call, monkeypatch, caplog):
    calls = application.tracer_provider._active_span_processor._span_processors[-1]
    monkeypatch.setattr(calls, "_listener", calls._listener._replace(estimate=lambda request: 1 / 0))
    call()
    assert application.spans()["chat"].end_time is not None and "ZeroDivisionError" in caplog.text
