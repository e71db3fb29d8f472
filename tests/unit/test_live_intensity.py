"""A measurement that follows its grid: grams interval by interval, and the table where there is no value."""

from __future__ import annotations

import os
import threading
from datetime import datetime, timedelta, timezone

import pytest

import carbon_otel
from carbon_otel import config
from carbon_otel.carbon.grid import EmissionFactor, intensity
from carbon_otel.carbon.intensity import Intensity, Signal
from carbon_otel.intensity import live
from carbon_otel.intensity.live import Follower, LiveFactor
from carbon_otel.intensity.service import BANDS, Unavailable
from carbon_otel.meter.meter import Meter
from carbon_otel.runtime import active
from carbon_otel.stages.engine import Engine
from tests.fakes.clock import Clock
from tests.fakes.powercap import server
from tests.fakes.sensors import FakeSensor
from tests.integration.processes import wait_for
from tests.unit.test_fork import in_a_child

START = datetime(2026, 3, 1, tzinfo=timezone.utc)
HOUR = timedelta(hours=1)
DIRECT = Signal(scope="direct", basis="consumption")


def value(hour, g_per_kwh, signal=DIRECT, quality="measured", zone="GB"):
    return Intensity(
        zone=zone,
        name=zone,
        g_per_kwh=g_per_kwh,
        start=START + hour * HOUR,
        end=START + (hour + 1) * HOUR,
        band=BANDS[quality],
        source="a grid",
        licence="CC0",
        signal=signal,
        quality=quality,
    )


class Grid:
    """A provider whose values and fault a test sets."""

    name = "a grid"

    def __init__(self, values=(), signal=DIRECT):
        self.values, self.signal = list(values), signal
        self.fault = None
        self.asked = []

    def latest(self, zone):
        raise AssertionError

    def history(self, zone, start, end):
        self.asked.append(zone)
        if self.fault is not None:
            raise self.fault
        return [each for each in self.values if each.start < end and each.end > start]

    def forecast(self, zone, length):
        raise Unavailable("a grid has no forecast")


@pytest.fixture
def factor():
    return LiveFactor(EmissionFactor(intensity("GB"), pue=1.5))


def follower(factor, grid, now):
    return Follower(factor, lambda: grid, "GB", lambda: now[0])


def test_emissions_are_the_sum_over_the_intervals(factor):
    clock = Clock()
    sensor = FakeSensor(clock)
    engine = Engine(Meter([sensor], clock_ns=clock), factor)
    now, grid = [START], Grid([value(1, 100), value(2, 300)])
    follow = follower(factor, grid, now)
    table = factor.intensity.g_per_kwh
    stage = engine.open("training", "t", {})
    expected = 0.0
    for hour, g_per_kwh, watts in ((1.1, 100, 360), (1.9, 100, 180), (2.5, 300, 720)):
        now[0] = START + hour * HOUR
        follow.look()
        sensor.watts = watts
        clock.advance(10)
        engine.tick()
        expected += watts * 10 / 3.6e6 * 1.5 * g_per_kwh
    grid.fault = Unavailable("a grid is down")
    follow.look()
    sensor.watts = 360
    clock.advance(10)
    engine.close(stage)
    expected += 3600 / 3.6e6 * 1.5 * table
    footprint = stage.end.footprint
    assert footprint.energy_j == pytest.approx(16200)
    assert footprint.emissions_g == pytest.approx(expected)
    mean = footprint.intensity
    assert footprint.energy_kwh * 1.5 * mean.g_per_kwh == pytest.approx(expected)
    assert "a grid" in mean.source and "a grid is down" in mean.source and "lifecycle" in mean.source
    assert footprint.low_g < footprint.emissions_g < footprint.high_g


def test_until_there_is_a_value_the_table_counts(factor):
    table = intensity("GB")
    assert factor.emissions_g(3.6e6) == pytest.approx(1.5 * table.g_per_kwh)
    known = factor.intensity_of(3.6e6, factor.emissions_g(3.6e6))
    assert known.g_per_kwh == table.g_per_kwh and known.source == f"{table.source}; no value yet"
    assert known.band == table.band


def test_the_zone_of_the_tables_stays(factor):
    factor.follow(value(0, 100, zone="10YGB----------A"))
    assert factor.intensity.zone == "GB" == factor.intensity_of(0.0, 0.0).zone
    assert factor.intensity_of(0.0, 0.0).g_per_kwh == 100


def test_the_next_look_is_at_the_end_of_the_interval(factor):
    now, grid = [START + HOUR - timedelta(seconds=20)], Grid([value(0, 100), value(1, 200)])
    follow = follower(factor, grid, now)
    assert follow.look() == pytest.approx(20) and factor.intensity.g_per_kwh == 100
    now[0] = START + HOUR
    assert follow.look() == 60 and factor.intensity.g_per_kwh == 200


def test_the_last_value_counts_for_two_steps(factor):
    now, grid = [START + 2.9 * HOUR], Grid([value(0, 100)])
    follow = follower(factor, grid, now)
    follow.look()
    assert factor.intensity.g_per_kwh == 100
    grid.values = [value(0, 100, quality="estimated")]
    now[0] = START + 3.01 * HOUR
    follow.look()
    assert factor.intensity == intensity("GB")


@pytest.mark.parametrize(
    ("grid", "reason"),
    [
        (Grid(), "no value of GB for now"),
        (Grid([value(0, 100, Signal("marginal"))], Signal("marginal")), "rank hours"),
        (Grid([value(0, 100), value(1, 100, Signal())]), "different quantities"),
    ],
)
def test_values_that_make_no_grams_are_a_reason(factor, caplog, grid, reason):
    follower(factor, grid, [START + 1.5 * HOUR]).look()
    assert factor.intensity == intensity("GB") and reason in factor.intensity_of(1.0, 1.0).source
    assert reason in caplog.text


def test_a_measurement_without_a_zone_asks_nobody(factor, caplog):
    grid = Grid([value(0, 100)])
    Follower(factor, lambda: grid, "WORLD", lambda: START).look()
    assert not grid.asked and "no zone is set" in caplog.text


def test_a_provider_that_recovers_is_used_again(factor):
    now, grid = [START + HOUR / 2], Grid([value(0, 100)])
    follow = follower(factor, grid, now)
    grid.fault = Unavailable("down")
    follow.look()
    grid.fault = None
    follow.look()
    assert factor.intensity.g_per_kwh == 100


@pytest.fixture
def host(tmp_path, monkeypatch):
    """A host with a counter, and the provider of `intensity="grid.csv"`."""
    monkeypatch.setenv("CARBON_OTEL_STATE_DIR", str(tmp_path / "state"))
    now = datetime.now(timezone.utc).replace(minute=0, second=0, microsecond=0)
    rows = [f"{now + hour * HOUR:%Y-%m-%dT%H:%MZ},123" for hour in range(-2, 4)]
    (tmp_path / "grid.csv").write_text("\n".join(["start,g_per_kwh", *rows]))
    return server(tmp_path / "sys")


def stage_of(host, joules):
    with carbon_otel.stage("training") as stage:
        host.package[0].add(joules)
        active().engine.tick()
    return stage.footprint


def test_a_measured_stage_has_the_grams_of_the_hour(host, tmp_path):
    carbon_otel.instrument(
        zone="GB", intensity=str(tmp_path / "grid.csv"), powercap_root=host.root, interval_s=30
    )
    factor = active().factor
    wait_for(lambda: factor.intensity.g_per_kwh == 123)
    assert active().otel.instruments.source.factor.intensity.g_per_kwh == 123  # of the gauge
    carbon_otel.footprint()  # enters the joules of before
    footprint = stage_of(host, 100)
    assert footprint.intensity.g_per_kwh == pytest.approx(123)
    assert footprint.emissions_g == pytest.approx(footprint.energy_kwh * 123)
    assert footprint.intensity.zone == "GB" and footprint.intensity.source.startswith("grid.csv")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_a_forked_child_follows_the_grid_by_itself(host, tmp_path):
    carbon_otel.instrument(
        zone="GB", intensity=str(tmp_path / "grid.csv"), powercap_root=host.root, interval_s=30
    )
    parents = active()

    def in_child():
        with carbon_otel.stage("training"):
            wait_for(lambda: active().factor.intensity.g_per_kwh == 123, timeout_s=15)
            return active() is not parents

    assert in_a_child(in_child) == "True"


def test_a_provider_that_hangs_or_raises_costs_the_program_nothing(host, tmp_path, monkeypatch, caplog):
    over, entered = threading.Event(), threading.Event()

    class Hanging(Grid):
        def history(self, zone, start, end):
            entered.set()
            over.wait(60)
            raise RuntimeError("odd")

    monkeypatch.setattr("carbon_otel.intensity.provider.find", lambda name, cache: Hanging())
    try:
        carbon_otel.instrument(zone="GB", intensity="uk", powercap_root=host.root, interval_s=30)
        assert entered.wait(60)
        factor = active().factor
        footprint = stage_of(host, 100)
        table = intensity("GB")
        assert (
            footprint.intensity.g_per_kwh == table.g_per_kwh and "no value yet" in footprint.intensity.source
        )
        assert footprint.emissions_g == pytest.approx(footprint.energy_kwh * table.g_per_kwh)
        assert {thread.name for thread in threading.enumerate()} >= {"carbon_otel intensity"}
        over.set()
        wait_for(lambda: "RuntimeError" in factor.intensity_of(1.0, 1.0).source)
    finally:
        over.set()
    carbon_otel.uninstrument()
    wait_for(lambda: "carbon_otel intensity" not in {thread.name for thread in threading.enumerate()})


def test_no_thread_asks_unless_a_provider_is_named(host):
    carbon_otel.instrument(zone="GB", powercap_root=host.root)
    assert "carbon_otel intensity" not in {thread.name for thread in threading.enumerate()}
    assert type(active().factor) is EmissionFactor


def test_an_unknown_provider_is_refused_at_once():
    with pytest.raises(ValueError, match=r"intensity='gb': there is no provider 'gb'; .* uk"):
        carbon_otel.instrument(intensity="gb")
    assert config.resolve({"intensity": "rte"}).intensity == "rte"
    assert config.resolve({}, {"CARBON_OTEL_INTENSITY": "a.csv"}).intensity == "a.csv"


def test_the_mean_of_a_day_is_weighted_by_energy(factor, monkeypatch):
    monkeypatch.setattr(live, "monotonic", lambda: 0.0)
    factor.follow(value(0, 100))
    grams = factor.emissions_g(3.6e6)
    factor.follow(value(1, 400))
    grams += factor.emissions_g(2 * 3.6e6)
    assert factor.intensity_of(3 * 3.6e6, grams).g_per_kwh == pytest.approx(300)
