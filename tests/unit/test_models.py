"""Models of components without a counter: the processor's power curve, and watts per gigabyte."""

from __future__ import annotations

import csv
import threading
from importlib.resources import files

import pytest

from carbon_otel.carbon.grid import intensity
from carbon_otel.sensors.base import SensorError
from carbon_otel.sensors.cpu_info import processor
from carbon_otel.sensors.cpu_model import CpuModel, load_curve, thread_power
from carbon_otel.sensors.memory_model import memory_model
from carbon_otel.sensors.proc_stat import BusyTime
from tests.fakes.clock import Clock
from tests.unit.test_attribution import Stat
from tests.unit.test_cpu_info import x86

THREADS, IDLE_W, FULL_W = 8, 0.43 * 8, 1.96 * 8  # EPYC Milan


@pytest.fixture
def stat(tmp_path):
    return Stat(tmp_path / "stat")


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def model(stat, clock, tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(x86("AuthenticAMD", 25, 1, "AMD EPYC 7763 64-Core Processor", THREADS))
    return CpuModel(processor(cpuinfo), BusyTime(stat.path), clock)


@pytest.mark.parametrize("load", [0, 0.1, 0.5, 1])
def test_power_by_load(load, model, stat, clock):
    assert model.read() == 0
    clock.advance(10)
    stat.run(busy=80 * load, idle=80 * (1 - load))
    g = load * 1.75 / (load + 0.75)
    assert model.read() == pytest.approx(10 * (IDLE_W + (FULL_W - IDLE_W) * g))


def test_stolen_time_does_not_count(model, stat, clock):
    model.read()
    clock.advance(10)
    stat.run(busy=0, idle=40, stolen=40)
    assert model.read() == pytest.approx(10 * IDLE_W)


def test_the_time_in_which_a_stat_steps_back_has_the_last_power_and_is_a_gap(model, stat, clock):
    model.read()
    clock.advance(1)
    stat.run(busy=8, idle=0)
    assert model.read() == pytest.approx(FULL_W)
    clock.advance(1)
    stat.run(busy=-50, idle=-400)
    with pytest.raises(SensorError, match="stepped back"):
        model.read()
    clock.advance(1)
    stat.run(busy=0, idle=8)
    assert model.read() == pytest.approx(2 * FULL_W + IDLE_W)


def test_a_failed_reading_is_an_error_and_the_next_one_covers_its_time(model, stat, clock):
    model.read()
    clock.advance(1)
    content = stat.path.read_text()
    stat.path.write_text("")
    with pytest.raises(SensorError):
        model.read()
    stat.path.write_text(content)
    clock.advance(1)
    stat.run(busy=16, idle=0)
    assert model.read() == pytest.approx(2 * FULL_W)


def test_readings_of_two_threads_count_an_interval_once(model, stat, clock, monkeypatch):
    model.read()
    held_up, go_on = threading.Event(), threading.Event()
    read = BusyTime.read

    def slow_read(busy_time):
        times = read(busy_time)
        if not held_up.is_set():
            held_up.set()
            assert go_on.wait(20)
        return times

    monkeypatch.setattr(BusyTime, "read", slow_read)
    threads = []
    for _ in range(2):
        stat.run(busy=8, idle=0)
        clock.advance(1)
        threads.append(threading.Thread(target=model.read))
        threads[-1].start()
        assert held_up.wait(20)
    threads[1].join(0.1)  # it ends here only if it does not wait for the other thread
    go_on.set()
    for thread in threads:
        thread.join(20)
    stat.run(busy=8, idle=0)
    clock.advance(1)
    assert model.read() == pytest.approx(3 * FULL_W)


def test_the_bounds_are_idle_and_full_power_and_the_band_is_that_of_the_table(model):
    assert model.power_bounds_w == pytest.approx((IDLE_W, FULL_W))
    assert model.device.method == "modelled.utilisation"
    assert "Milan" in model.device.source and "2026" in model.device.source
    assert model.device.band.low == pytest.approx(0.31 / 0.43)
    assert model.device.band.high == pytest.approx(0.70 / 0.43)


@pytest.mark.parametrize(("load", "ratio_to_tdp"), [(0, 0.12), (0.1, 0.32), (0.5, 0.75), (1, 1.02)])
def test_the_curve_meets_teads_ratios_within_two_points(load, ratio_to_tdp):
    assert load_curve(load) == pytest.approx((ratio_to_tdp - 0.12) / (1.02 - 0.12), abs=0.02)


def test_the_curve_rises_and_flattens():
    slopes = [load_curve((n + 1) / 20) - load_curve(n / 20) for n in range(20)]
    assert slopes == sorted(slopes, reverse=True) and slopes[-1] > 0


def test_every_row_of_the_table_has_its_provenance_and_a_band_about_its_value():
    text = (files("carbon_otel.sensors") / "data/cpu_watts_per_thread.csv").read_text("utf-8")
    rows = list(csv.DictReader(text.splitlines()))
    assert len(rows) >= 10
    for row in rows:
        assert row["source"] and row["licence"] and int(row["year"]) >= 2024
        power = thread_power(row["family"])
        assert power.band.low < 1 < power.band.high and power.idle_w < power.full_w
        assert row["name"] in power.source and row["year"] in power.source
    assert thread_power("of tomorrow").family == "unknown"


def test_memory_by_size(clock):
    model = memory_model(64 * 10**9, clock)
    clock.advance(100)
    assert model.read() == pytest.approx(0.30 * 64 * 100)
    assert model.device.name == "64 GB"
    assert model.device.method == "modelled.constant"
    watts = 0.30 * 64
    assert (model.device.band.low * watts, model.device.band.high * watts) == pytest.approx((6.4, 38.4))


def test_memory_of_this_host():
    assert memory_model().power_bounds_w[0] > 0


def test_bands_state_their_coverage(model, clock):
    """Percentiles of a table, a spread of constants and an estimate are not standard uncertainties."""
    assert model.device.band.coverage == "p5-p95"
    assert memory_model(10**9, clock).device.band.coverage == "spread"
    assert intensity("FR").band.coverage == "estimate"
