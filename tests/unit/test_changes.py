"""What a later call of `instrument()` changes in the running measurement, and what it leaves as it is."""

from __future__ import annotations

import itertools
import json
import logging
import time
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider

import carbon_otel
from carbon_otel import config, runtime, termination
from carbon_otel.carbon.grid import intensity
from carbon_otel.host.attribution import TreeShare
from carbon_otel.session.waiting import Waiting
from carbon_otel.sinks import Sink
from carbon_otel.units import J_PER_KWH
from tests.fakes.powercap import server
from tests.unit.test_otel_sink import Application

FR, DE = intensity("FR").g_per_kwh, intensity("DE").g_per_kwh


@pytest.fixture
def tree(tmp_path):
    return server(tmp_path)


class Last(Sink):
    """The last footprint that the sinks of a measurement are told."""

    def tick(self, tick):
        if tick.checkpoint is not None:
            self.footprint = tick.checkpoint.process.footprint


def charged_at_tick():
    """The joules of the process up to a tick, at which the sinks were told of all of them."""
    last = Last()
    runtime.active().add_sink(last)
    runtime.active().engine.tick(checkpoint=True)
    return last.footprint.energy_j


def used_by_devices():
    """The joules of the devices up to the last tick."""
    return sum(joules for _, joules, _ in runtime.active().engine.meter.snapshot().devices)


def until(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def spend(tree, joules):
    """Let the first package use joules, at a power that it can have."""
    time.sleep(0.01)
    tree.package[0].add(joules)


def test_the_measurement_goes_on_and_takes_over_what_the_call_names(tree):
    carbon_otel.instrument(zone="FR", pue=1.5, powercap_root=tree.root, interval_s=30)
    first = runtime.active()
    carbon_otel.instrument(zone="DE", checkpoint_interval_s=5)
    assert runtime.active() is first
    now = first.settings
    assert (now.zone, now.pue, now.interval_s, now.checkpoint_interval_s) == ("DE", 1.5, 30, 5)
    carbon_otel.instrument()
    assert first.settings == now


def test_a_zone_holds_for_the_process_and_its_open_stages_and_for_no_stage_that_has_ended(tree):
    carbon_otel.instrument(powercap_root=tree.root, interval_s=30)
    with carbon_otel.stage("data_processing") as ended:
        spend(tree, 3)
    with carbon_otel.stage("training") as over:
        spend(tree, 4)
        carbon_otel.instrument(zone="FR", pue=2)
        spend(tree, 3)
    whole = carbon_otel.footprint()
    assert whole.intensity.zone == over.footprint.intensity.zone == "FR"
    assert ended.footprint.intensity.zone == "WORLD"
    assert ended.footprint.emissions_g == pytest.approx(
        ended.footprint.energy_j / J_PER_KWH * intensity(None).g_per_kwh
    )
    for footprint in (over.footprint, whole):
        assert footprint.emissions_g == pytest.approx(footprint.energy_j / J_PER_KWH * FR * 2)
    assert sum(cost.emissions_g for cost in whole.stages.values()) == pytest.approx(whole.emissions_g)
    assert sum(cost.energy_j for cost in whole.stages.values()) == pytest.approx(whole.energy_j)


def test_the_counter_of_emissions_never_goes_down(tree):
    application = Application(tree)
    told = []
    for zone in ("PL", "FR", "DE"):
        carbon_otel.instrument(
            zone=zone,
            powercap_root=tree.root,
            interval_s=30,
            tracer_provider=application.tracer_provider,
            meter_provider=application.meter_provider,
        )
        with carbon_otel.stage("training"):
            spend(tree, 3)
        carbon_otel.flush()
        points = application.collect()
        names = ("carbon_otel.stage.energy", "carbon_otel.stage.emissions")
        told.append([sum(point.value for of, point in points if of == name) for name in names])
    assert told == sorted(told)
    steps = [(j1 - j0, g1 - g0) for (j0, g0), (j1, g1) in itertools.pairwise(told)]
    assert [grams / joules * J_PER_KWH for joules, grams in steps] == pytest.approx([FR, DE])


def test_the_gauge_of_the_intensity_follows_a_later_zone(tree):
    application = Application(tree)
    application.instrument()
    carbon_otel.instrument(zone="DE")
    gauge = [point for name, point in application.collect() if name == "carbon_otel.carbon_intensity"]
    assert [(point.value, point.attributes["carbon_otel.zone"]) for point in gauge] == [(DE, "DE")]


def test_what_stands_beside_the_emissions_changes_in_an_hour_without_emissions(tree, tmp_path):
    hour = datetime.now(timezone.utc).replace(minute=0, second=0, microsecond=0)
    rows = [f"{hour + timedelta(hours=h):%Y-%m-%dT%H:%MZ},0,0,0" for h in range(-1, 3)]
    grid = tmp_path / "grid.csv"
    grid.write_text("\n".join(["start,g_per_kwh,low,high", *rows]))
    carbon_otel.instrument(zone="FR", intensity=str(grid), powercap_root=tree.root, interval_s=30)
    factor = runtime.active().factor
    until(lambda: factor.intensity.g_per_kwh == 0)
    with carbon_otel.stage("training") as stage:
        spend(tree, 3)
        carbon_otel.instrument(market_intensity=50, interval_s=20)
        spend(tree, 3)
    footprint = stage.footprint
    assert footprint.emissions_g == 0 and runtime.active().sampler.interval_s == 20
    assert footprint.market.g == pytest.approx(footprint.energy_j / J_PER_KWH * 50)


def test_the_sensors_stay_and_a_warning_says_what_to_do(tree, tmp_path, caplog):
    carbon_otel.instrument(zone="FR", powercap_root=tree.root, interval_s=30)
    other = server(tmp_path / "other")
    with caplog.at_level(logging.WARNING, "carbon_otel"):
        carbon_otel.instrument(powercap_root=other.root)
        carbon_otel.instrument(powercap_root=tree.root)
    assert runtime.active().settings.powercap_root == tree.root
    assert [r.getMessage() for r in caplog.records] == [
        "powercap_root stays as it was when measuring began: set CARBON_OTEL_POWERCAP_ROOT before the program "
        "starts, or call carbon_otel.uninstrument() before this instrument()"
    ]


def test_stages_go_to_the_providers_of_a_later_call_and_no_joule_goes_to_both(tree):
    carbon_otel.instrument(zone="FR", powercap_root=tree.root, interval_s=30)
    first, second = Application(tree), Application(tree)
    used_before_j = 0.0
    with carbon_otel.stage("training", "outer") as outer:
        spend(tree, 1)
        changed = Last()  # each change of the providers is a checkpoint
        runtime.active().add_sink(changed)
        at_change_j = []
        for number, application in enumerate((first, second)):
            carbon_otel.instrument(
                tracer_provider=application.tracer_provider, meter_provider=application.meter_provider
            )
            at_change_j.append(changed.footprint.energy_j)
            used_before_j = used_before_j or used_by_devices()
            with carbon_otel.stage("evaluation", f"inner {number}"):
                spend(tree, 2)
    assert (list(first.spans()), list(second.spans())) == (["inner 0", "outer"], ["inner 1"])
    above = first.spans()["outer"]
    for below in (first.spans()["inner 0"], second.spans()["inner 1"]):
        assert below.parent.span_id == above.context.span_id
    assert above.attributes["carbon_otel.energy.total_j"] == pytest.approx(outer.footprint.energy_j)
    after_j = charged_at_tick()
    told = [sum(point.value for point in each.points("carbon_otel.stage.energy")) for each in (first, second)]
    assert min(told) > 1
    assert told == pytest.approx([at_change_j[1] - at_change_j[0], after_j - at_change_j[1]])
    # Neither had been read before: the first keeps what the devices had used until the change.
    devices = [sum(point.value for point in each.points("hw.energy")) for each in (first, second)]
    assert min(devices) > 1
    assert sum(devices) == pytest.approx(used_by_devices() - used_before_j)
    assert first.points("hw.power") == [] and second.points("hw.power") != []


def test_what_has_been_counted_without_a_provider_is_in_the_journal(tree, tmp_path, monkeypatch):
    monkeypatch.setenv("CARBON_OTEL_JOURNAL", str(tmp_path / "journal.json"))
    carbon_otel.instrument(zone="FR", powercap_root=tree.root, interval_s=30)
    with carbon_otel.stage("training"):
        spend(tree, 3)
    carbon_otel.instrument(tracer_provider=TracerProvider(), meter_provider=MeterProvider())
    with carbon_otel.stage("training"):
        spend(tree, 2)
    carbon_otel.uninstrument()
    state = json.loads((tmp_path / "journal.json").read_text())
    kept = {
        metric["name"]: sum(point["asDouble"] for point in metric["sum"]["dataPoints"])
        for scope in state["metrics"]["resourceMetrics"][0]["scopeMetrics"]
        for metric in scope["metrics"]
        if metric["name"] == "carbon_otel.stage.energy"
    }
    assert kept["carbon_otel.stage.energy"] == pytest.approx(state["footprint"]["energy_j"])
    assert state["footprint"]["energy_j"] >= 5 - 1e-3


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(st.floats(0, 4), max_size=3), min_size=1, max_size=4))
def test_the_journal_is_the_sum_of_all_measurements_of_the_process(tree, tmp_path_factory, measurements):
    folder = tmp_path_factory.mktemp("journal")
    footprints = []
    for number, amounts in enumerate(measurements):
        with pytest.MonkeyPatch.context() as patch:
            if number == 0:  # `carbon-otel run` takes the variable away for the child processes
                patch.setenv("CARBON_OTEL_JOURNAL", str(folder / "journal.json"))
            carbon_otel.instrument(zone="FR", powercap_root=tree.root, interval_s=30)
        last = Last()
        runtime.active().add_sink(last)
        for joules in amounts:
            with carbon_otel.stage("training"):
                spend(tree, joules)
        carbon_otel.uninstrument()
        footprints.append(last.footprint)
    state = json.loads((folder / "journal.json").read_text())
    total = state["footprint"]
    assert state["status"] == "final"
    assert total["energy_j"] == pytest.approx(sum(each.energy_j for each in footprints))
    assert total["emissions_g"] == pytest.approx(sum(each.emissions_g for each in footprints))
    assert total["low_j"] <= total["energy_j"] <= total["high_j"]
    assert sum(cost["energy_j"] for cost in total["stages"].values()) == pytest.approx(total["energy_j"])


def test_spans_are_annotated_from_a_later_call_on_and_no_more_after_another(tree):
    application = Application(tree)
    carbon_otel.instrument(
        zone="FR", powercap_root=tree.root, interval_s=30, tracer_provider=application.tracer_provider
    )
    tracer = application.tracer_provider.get_tracer("app")
    for annotate in (None, True, False):
        carbon_otel.instrument(annotate_spans=annotate)
        with tracer.start_as_current_span("request"):
            pass
    spans = application.exporter.get_finished_spans()
    annotated = ["carbon_otel.window.energy_j" in span.attributes for span in spans]
    assert annotated == [False, True, False]


def test_attribution_changes_from_the_call_on(tree):
    carbon_otel.instrument(zone="FR", powercap_root=tree.root, interval_s=30)
    spend(tree, 4)
    before_j = charged_at_tick()
    carbon_otel.instrument(attribution="process")
    assert runtime.active().attribution.rule == "process"
    assert charged_at_tick() >= before_j >= 4 - 1e-3


@pytest.mark.parametrize("rule", ["reserved", "process"])
def test_a_stage_after_a_change_of_attribution_is_charged_by_the_new_rule_from_its_begin(
    tree, monkeypatch, rule
):
    """Without a tick in it, which would measure the share."""
    monkeypatch.setattr(TreeShare, "look", lambda self, now_ns, others=frozenset(): 0.25)
    share = {"reserved": 1.0, "process": 0.25}
    before = "process" if rule == "reserved" else "reserved"
    carbon_otel.instrument(zone="FR", powercap_root=tree.root, interval_s=30, attribution=before)
    with carbon_otel.stage("training") as first:
        spend(tree, 4)
    carbon_otel.instrument(attribution=rule)
    with carbon_otel.stage("training") as second:
        spend(tree, 4)
    runtime.active().engine.tick()
    with carbon_otel.stage("training") as third:
        spend(tree, 4)
    assert first.footprint.energy_j == pytest.approx(4 * share[before], rel=0.2)
    assert second.footprint.energy_j == pytest.approx(4 * share[rule], rel=0.2)
    assert third.footprint.energy_j == pytest.approx(4 * share[rule], rel=0.2)


def test_a_process_of_multiprocessing_that_is_measured_already_goes_on(tree):
    """As under `run --children`: the interpreter of a worker begins, then it imports its main module."""
    carbon_otel.instrument(powercap_root=tree.root, interval_s=30)
    first = runtime.active()
    options = runtime.Options(config.resolve({"zone": "FR"}), given=frozenset({"zone"}))
    runtime.start_at_first_stage(options, Waiting)
    assert runtime.begun() is first
    assert first.settings.zone == "FR"


def test_the_end_on_sigterm_follows_the_setting(tree, monkeypatch):
    calls = []
    monkeypatch.setattr(termination, "install", lambda *arguments: calls.append("install"))
    monkeypatch.setattr(termination, "remove", lambda: calls.append("remove"))
    carbon_otel.instrument(zone="FR", powercap_root=tree.root, interval_s=30)
    for wanted in (None, False, None, True):
        carbon_otel.instrument(flush_on_sigterm=wanted)
    assert calls == ["install", "remove", "install"]


def test_every_setting_with_an_argument_is_named_by_it():
    for setting in config.SETTINGS:
        for name in setting.names:
            assert config.named({name: "anything", "tracer_provider": object()}) == {setting.name}
