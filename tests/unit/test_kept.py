"""What a journal keeps is what an exporter would send: the same series, with the same sums."""

from __future__ import annotations

import json
import os

import pytest
from google.protobuf.json_format import Parse
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry import metrics
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.resources import Resource

import carbon_otel
from carbon_otel import runtime
from carbon_otel.otel import instruments
from carbon_otel.otel.otlp_json import metrics_data
from tests.fakes.powercap import server
from tests.unit.test_otel_sink import Application

GAUGES = {"hw.power", "hw.host.power", "carbon_otel.cpu.steal", "carbon_otel.carbon_intensity"}


@pytest.fixture
def application(tmp_path, monkeypatch):
    monkeypatch.setenv("CARBON_OTEL_JOURNAL", str(tmp_path / "journal.json"))
    monkeypatch.setattr(instruments, "_made", {})  # as in a new process
    return Application(server(tmp_path))


def journal(tmp_path):
    """The journal after a flush. A tick that came between its figures and its metrics would be in these alone."""
    runtime.active().sampler.stop(10)
    assert carbon_otel.flush()
    return json.loads((tmp_path / "journal.json").read_text())


def request(state):
    return Parse(json.dumps(state["metrics"]), ExportMetricsServiceRequest())


def series(sent):
    """Value and start by name, unit, description, resource, scope and labels."""
    found = {}
    for of_resource in sent.resource_metrics:
        for of_scope in of_resource.scope_metrics:
            for metric in of_scope.metrics:
                if metric.name in GAUGES:
                    continue
                data = getattr(metric, metric.WhichOneof("data"))
                assert data.aggregation_temporality == 2
                for point in data.data_points:
                    labels = tuple(sorted((a.key, str(a.value)) for a in point.attributes))
                    place = tuple(sorted((a.key, str(a.value)) for a in of_resource.resource.attributes))
                    scope = of_scope.scope.name, of_scope.scope.version, of_scope.schema_url
                    key = metric.name, metric.unit, metric.description, place, scope, labels
                    found[key] = point
    return found


def energy(state):
    return sum(
        point.as_double or point.as_int
        for key, point in series(request(state)).items()
        if key[0] == "carbon_otel.stage.energy"
    )


def without_id(found):
    """A process that does not push needs no instance id, and SDK 1.39 gives none; a journal has one."""
    return {
        (*key[:3], tuple(item for item in key[3] if item[0] != "service.instance.id"), *key[4:]): point
        for key, point in found.items()
    }


def same_series(kept, exported):
    assert kept.keys() == exported.keys()
    for key, point in kept.items():
        other = exported[key]
        assert abs(point.start_time_unix_nano - other.start_time_unix_nano) < 5e9, key
        if key[0] == "carbon_otel.stage.duration":
            for name in ("count", "bucket_counts", "explicit_bounds", "sum", "min", "max"):
                assert getattr(point, name) == getattr(other, name), (key, name)
        else:
            assert point.as_double == pytest.approx(other.as_double or other.as_int), key


def work(application):
    with carbon_otel.stage("training", "fit") as stage:
        application.draw(20)
        with carbon_otel.stage("inference", "score"):
            application.draw(5)
        stage.units(tokens=7, samples=2.5)
    with carbon_otel.stage("inference", "score"):
        application.draw(1)


def test_the_series_are_those_that_the_sdk_exports(application, tmp_path):
    application.instrument()
    work(application)
    state = journal(tmp_path)
    exported = encode_metrics(application.reader.get_metrics_data())
    kept, sent = series(request(state)), series(exported)
    assert any(key[0] == "hw.energy" for key in kept)
    same_series(without_id(kept), without_id(sent))


def test_what_is_read_back_is_what_was_kept(application, tmp_path):
    application.instrument()
    work(application)
    state = journal(tmp_path)
    again = encode_metrics(metrics_data(state["metrics"], 42))
    same_series(series(request(state)), series(again))
    times = {point.time_unix_nano for point in series(again).values()}
    assert times == {42}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xyz"), st.floats(0, 30)), max_size=6))
def test_the_kept_metrics_add_up_to_the_footprint(monkeypatch, tmp_path_factory, stages):
    tmp_path = tmp_path_factory.mktemp("example")
    monkeypatch.setenv("CARBON_OTEL_JOURNAL", str(tmp_path / "journal.json"))
    application = Application(server(tmp_path))
    application.instrument()
    try:
        opened = []
        for number, (kind, name, joules) in enumerate(stages):
            stage = carbon_otel.stage(kind, name)
            stage.__enter__()
            opened.append(stage)
            application.draw(joules)
            if number % 2:
                opened.pop().__exit__(None, None, None)
        running = journal(tmp_path)
        assert energy(running) == pytest.approx(running["footprint"]["energy_j"])
        while opened:
            opened.pop().__exit__(None, None, None)
    finally:
        carbon_otel.uninstrument()
    final = json.loads((tmp_path / "journal.json").read_text())
    assert final["status"] == "final" and energy(final) == pytest.approx(final["footprint"]["energy_j"])
    grams = sum(
        point.as_double
        for key, point in series(request(final)).items()
        if key[0] == "carbon_otel.stage.emissions"
    )
    assert grams == pytest.approx(final["footprint"]["emissions_g"])


def test_without_any_provider(application, tmp_path, monkeypatch):
    monkeypatch.setenv("OTEL_SERVICE_NAME", "churn")
    carbon_otel.instrument(zone="FR", powercap_root=application.tree.root, interval_s=30)
    work(application)
    state = journal(tmp_path)
    assert energy(state) == pytest.approx(state["footprint"]["energy_j"]) and energy(state) >= 26
    (place,) = {key[3] for key in series(request(state))}
    assert dict(place)["service.name"] == 'string_value: "churn"\n' and "service.instance.id" in dict(place)


def test_a_provider_that_the_application_sets_later_names_the_process(application, tmp_path, monkeypatch):
    carbon_otel.instrument(zone="FR", powercap_root=application.tree.root, interval_s=30)
    work(application)
    reader = InMemoryMetricReader()
    resource = Resource({"service.name": "late", "service.instance.id": "one"})
    provider = MeterProvider([reader], resource=resource, shutdown_on_exit=False)
    monkeypatch.setattr(metrics._internal, "_METER_PROVIDER", provider)
    state = journal(tmp_path)
    (place,) = {key[3] for key in series(request(state))}
    assert dict(place) == {
        "service.name": 'string_value: "late"\n',
        "service.instance.id": 'string_value: "one"\n',
    }
    assert energy(state) == pytest.approx(state["footprint"]["energy_j"])


def test_the_sums_go_on_from_one_session_to_the_next(application, tmp_path):
    """The application's provider goes on, too."""
    totals = []
    for _ in range(2):
        application.instrument()
        work(application)
        carbon_otel.uninstrument()
        totals.append(energy(json.loads((tmp_path / "journal.json").read_text())))
    assert totals[1] > totals[0] + 25.9
    exported = sum(point.value for point in application.points("carbon_otel.stage.energy"))
    assert exported == pytest.approx(totals[1])


def test_a_collection_finds_all_that_it_exports_in_the_journal(application, tmp_path):
    """So a journal of a process that is killed right after it has exported says no less."""
    application.instrument()
    assert carbon_otel.flush()  # a first checkpoint
    with carbon_otel.stage("training", "fit"):
        application.draw(20)
    exported = sum(point.value for point in application.points("carbon_otel.stage.energy"))
    assert exported >= 20
    state = json.loads((tmp_path / "journal.json").read_text())
    assert state["status"] == "running" and energy(state) == pytest.approx(exported)


def test_names_are_bounded(application, tmp_path):
    application.instrument()
    for number in range(450):
        with carbon_otel.stage(f"kind_{number}", f"batch {number}") as stage:
            stage.units(**{f"unit_{number}": 1})
    kept = series(request(journal(tmp_path)))
    names = [dict(key[5]).get("carbon_otel.stage.name") for key in kept if key[0].endswith("duration")]
    assert len(names) < 450 and 'string_value: "other"\n' in names
    units = {dict(key[5])["carbon_otel.unit"] for key in kept if key[0] == "carbon_otel.stage.units"}
    assert len(units) == 21
    assert (tmp_path / "journal.json").stat().st_size < 2_000_000
    same_labels = {key[5] for key in series(encode_metrics(application.reader.get_metrics_data()))}
    assert {key[5] for key in kept} == same_labels


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_leaves_the_journal_of_its_parent_alone(application, tmp_path):
    application.instrument()
    work(application)
    before = journal(tmp_path)
    pid = os.fork()
    if not pid:
        try:
            work(application)
            application.collect()
            carbon_otel.flush()
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    after = json.loads((tmp_path / "journal.json").read_text())  # maybe of a tick of the parent since then
    assert after["process"] == before["process"]
    trained, then = (each["footprint"]["stages"]["training"] for each in (after, before))
    assert trained == then
    assert runtime.active() is not None
