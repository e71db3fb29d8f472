"""Embodied carbon: SCI's published examples, figures by hand, and that the hardware is charged once."""

from __future__ import annotations

import math
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbon_otel.carbon import embodied
from carbon_otel.carbon.embodied import accelerator, embodied_g, hardware, host
from carbon_otel.carbon.grid import EmissionFactor, intensity
from carbon_otel.carbon.life_cycle import LifeCycle
from carbon_otel.carbon.water import water_factor
from carbon_otel.config.life import LifeSettings
from carbon_otel.life import life_cycle, market_intensity
from carbon_otel.lifecycle import beside
from carbon_otel.meter.meter import Meter
from carbon_otel.meter.reserved_time import ReservedTime
from carbon_otel.mlflow.schema import contributions, names
from carbon_otel.mlflow.schema.contributions import Contribution
from carbon_otel.records import Shares
from carbon_otel.sensors.base import Finding
from carbon_otel.sensors.discovery import Discovery
from carbon_otel.stages.engine import Engine
from tests.fakes.clock import NS, Clock
from tests.fakes.grid import grid_of
from tests.fakes.sensors import gpu, package

HOUR_S = 3600.0
FACTOR = EmissionFactor(grid_of(360.0), pue=1.5)


class Shared:
    """A rule whose shares a test sets: of the host, and of each device."""

    def __init__(self, host_share: float, *devices: float) -> None:
        self.present = Shares(devices, host_share, 0.0)

    def measure(self, now_ns, *, tick):
        return self.present


def engine(clock, *devices, life, rule=None):
    meter = Meter(devices, rule=rule, clock_ns=clock, reserved_rates=life.reserved)
    return Engine(meter, FACTOR, life=life)


def of_server(kg=1261.44, **more):
    """By default a gram per hundred seconds in four years of 365 days."""
    return LifeCycle(hardware([None], 1, 1, given_kg=kg, **more))


class TestPublishedExamples:
    """Worked examples of the Green Software Foundation: its Impact Framework's pages on SCI-M and SCI."""

    def test_a_component_for_thirty_days(self):
        """200 gCO2e in 4 years, reserved for 30 days as a whole: 200 x 30 / (4 x 365)."""
        assert embodied_g(0.2, 30 * 86_400, 4) == pytest.approx(4.10959, rel=1e-5)

    def test_an_hour_of_one_of_eight_resources(self):
        """1,533.12 gCO2e; its page writes the lifetime of 3 years as 3: here with the seconds of these years."""
        assert embodied_g(1.53312, HOUR_S, 3, share=1 / 8) == pytest.approx(1533.12 / (3 * 365 * 24) / 8)

    def test_a_quarter_of_an_hour_of_a_bare_machine(self):
        """The CNCF's green reviews: 15 minutes of a whole machine of 4 years, 35,040 hours."""
        assert embodied_g(1000, 900, 4) == pytest.approx(1e6 * 0.25 / 35_040)

    def test_the_score_is_the_sum_of_both_per_unit(self):
        """Operational 5 g and embodied 5 g for 100 requests: 0.1 g each."""
        clock = Clock()
        watts, hours = 100, 5 / (0.1 * 1.5 * 360)  # 5 g at PUE 1.5 and 360 g/kWh
        kg = 5 / (hours * HOUR_S) * 4 * 365 * 86_400 / 1000
        bench = engine(clock, package(clock, watts=watts), life=of_server(kg))
        stage = bench.open("inference", "score", {})
        clock.advance(hours * HOUR_S)
        stage.units["requests"] = 100
        bench.close(stage)
        footprint = stage.end.footprint
        assert (footprint.emissions_g, footprint.embodied_g) == pytest.approx((5, 5), rel=1e-6)
        assert footprint.sci == pytest.approx({"requests": 0.1}, rel=1e-6)


class TestTable:
    def test_every_row_has_its_provenance_and_ends_at_the_factorys_gate(self):
        for row in embodied.rows():
            assert row["source"] and row["licence"] and row["verified"] in ("yes", "no")
            assert 2019 <= int(row["year"]) <= 2026
            assert float(row["low"]) <= float(row["value"]) <= float(row["high"])
            assert row["boundary"] == ("" if row["part"] == "lifetime" else "cradle-to-gate")

    @pytest.mark.parametrize(
        ("name", "kg"),
        [
            ("NVIDIA H100 80GB HBM3", 164),
            ("H100-SXM5-80GB", 164),
            ("NVIDIA B200", 284.3),
            ("NVIDIA A100-SXM4-40GB", 127.6),
            ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", 127.6),
            ("NVIDIA A100 80GB PCIe", 165.1),
            ("NVIDIA H100 PCIe", 164.3),
            ("NVIDIA H200", 309.4),
            ("Tesla V100-SXM2-16GB", 59.6),
            ("Tesla T4", 37.9),
            ("NVIDIA L40S", 80.4),
            ("AMD Instinct MI300X", 434.1),
        ],
    )
    def test_an_accelerator_by_the_name_of_its_driver(self, name, kg):
        assert accelerator(name).kg == kg

    @pytest.mark.parametrize(
        "name", ["", "NVIDIA GeForce RTX 4090", "AMD Instinct MI250X", "A100", "H100 NVL 2"]
    )
    def test_another_device_is_unknown(self, name):
        assert accelerator(name) is None

    # Threads, gigabytes, and kilograms with their range.
    BOAVIZTA = (
        (128, 256, 900, 525.3, 1448),
        (4, 16, 44, 25.13, 74.71),
        (4, 16, 55, 31.38, 89.04),
        (64, 128, 630, 362.7, 953.2),
        (192, 384, 1200, 693.6, 1948),
        (4, 16, 47, 27.74, 79.02),
        (8, 32, 80, 43.8, 141.2),
    )

    @pytest.mark.parametrize(("threads", "gb", "kg", "low", "high"), BOAVIZTA)
    def test_a_host_has_the_range_of_boavizta_for_cloud_instances_in_its_band(
        self, threads, gb, kg, low, high
    ):
        """c6i.32xlarge, m6i.xlarge, m7g.xlarge, c7g.16xlarge, c7a.48xlarge, Standard_D4s_v5, n2-standard-8."""
        found = host(threads, gb)
        assert found.low_kg <= low <= kg <= high <= found.high_kg

    @pytest.mark.parametrize(
        ("threads", "gb", "kg"), [(128, 512, 1788.5), (96, 768, 2143.8), (96, 384, 1610.8)]
    )
    def test_a_host_is_near_the_platforms_of_cloud_carbon_footprint(self, threads, gb, kg):
        """m6i.32xlarge, r5.24xlarge and m5."""
        assert host(threads, gb).kg == pytest.approx(kg, rel=0.2)

    def test_a_host_by_hand(self):
        assert host(128, 512).kg == pytest.approx(128 * 8.594 + 512 * 1.388)


class TestArithmetic:
    def test_a_gpu_hour_and_its_host_by_hand(self):
        """164 kg and 8 x 8.594 + 100 x 1.388 kg in 35,040 hours."""
        clock = Clock()
        life = LifeCycle(hardware(["NVIDIA H100 80GB HBM3", None], 8, 100))
        bench = engine(clock, gpu(clock), package(clock), life=life)
        stage = bench.open("training", "fit", {})
        clock.advance(HOUR_S)
        bench.close(stage)
        made = stage.end.footprint.embodied
        assert made.g == pytest.approx((164 + 8 * 8.594 + 100 * 1.388) * 1000 / 35_040, rel=1e-9)
        low, high = 164 + 8 * 2.578 + 100 * 0.416, 575.1 + 8 * 17.19 + 100 * 2.776
        assert (made.low_g, made.high_g) == pytest.approx((low * 1000 / 35_040, high * 1000 / 35_040))
        assert made.lifetime_years == 4 and "ISO 14067" in made.source

    @given(st.floats(0.1, 1e4), st.floats(0, 1e8), st.floats(0, 1e8), st.floats(0.5, 20), st.floats(0, 1))
    def test_it_is_additive_and_monotone_and_twice_the_lifetime_halves_it(
        self, kg, one_s, more_s, years, share
    ):
        together = embodied_g(kg, one_s + more_s, years, share)
        apart = embodied_g(kg, one_s, years, share) + embodied_g(kg, more_s, years, share)
        assert together == pytest.approx(apart, rel=1e-9)
        assert together >= embodied_g(kg, one_s, years, share)
        assert embodied_g(kg, one_s, 2 * years, share) == pytest.approx(
            embodied_g(kg, one_s, years, share) / 2, rel=1e-12
        )

    @pytest.mark.parametrize("years", [0, -1, math.inf, math.nan])
    def test_a_lifetime_that_makes_no_sense_is_refused(self, years):
        with pytest.raises(ValueError, match="above 0"):
            embodied_g(1, 1, years)

    def test_an_unknown_accelerator_makes_all_of_it_unknown_and_not_zero(self):
        clock = Clock()
        life = LifeCycle(hardware(["NVIDIA GeForce RTX 4090"], 8, 32))
        assert life.unknown == ("NVIDIA GeForce RTX 4090",)
        bench = engine(clock, gpu(clock), life=life)
        stage = bench.open("training", "fit", {})
        stage.units["samples"] = 3
        clock.advance(10)
        bench.close(stage)
        footprint = stage.end.footprint
        assert footprint.embodied_g is None and footprint.sci == {}
        figures = footprint.as_dict()
        assert figures["embodied_g"] is None
        assert figures["embodied_unknown"] == ["NVIDIA GeForce RTX 4090"]
        assert names.beside_tags(footprint)["carbon.embodied_unknown"] == "NVIDIA GeForce RTX 4090"

    def test_the_users_figure_counts_for_the_whole_host(self):
        life = LifeCycle(hardware(["NVIDIA GeForce RTX 4090"], 8, 32, given_kg=300, lifetime_years=3))
        assert life.reserved.host == pytest.approx(300_000 / (3 * 365 * 86_400))
        assert life.embodied(1.0, 1.0, {}).low_g == 1.0

    def test_an_instance_of_a_divided_gpu_has_its_part(self):
        whole, part = (
            hardware(["NVIDIA A100-SXM4-40GB MIG 1g.5gb"], 8, 32, parts=[p]).reserved for p in (1.0, 1 / 7)
        )
        assert part.devices[0] == pytest.approx(whole.devices[0] / 7)


class TestChargedOnce:
    """Of a host that is worth a gram per hundred seconds."""

    def test_nested_stages_and_idle_time(self):
        clock = Clock()
        bench = engine(clock, package(clock, watts=0), life=of_server())
        run = bench.open("run", "a", {})
        clock.advance(100)  # nothing runs, and nothing draws power: the time is reserved all the same
        stage = bench.open("training", "fit", {}, run)
        clock.advance(300)
        bench.close(stage)
        clock.advance(100)
        bench.close(run)
        inner, outer = stage.end.footprint.embodied, run.end.footprint.embodied
        assert (inner.g, outer.g, outer.exclusive_g) == pytest.approx((3, 5, 2))
        process = bench.so_far().footprint.embodied
        assert process.g == pytest.approx(5) and process.exclusive_g == pytest.approx(0)
        assert process.by_kind == pytest.approx({"unattributed": 0, "run": 2, "training": 3})

    def test_stages_at_the_same_time_share(self):
        clock = Clock()
        bench = engine(clock, package(clock), life=of_server())
        first = bench.open("training", "a", {})
        clock.advance(100)
        second = bench.open("training", "b", {})
        clock.advance(100)
        bench.close(first)
        clock.advance(100)
        bench.close(second)
        grams = [stage.end.footprint.embodied_g for stage in (first, second)]
        assert grams == pytest.approx([1.5, 1.5])

    def test_a_process_pays_its_share_of_the_host_and_of_each_gpu(self):
        clock = Clock()
        life = LifeCycle(hardware(["NVIDIA H100 80GB HBM3", None], 8, 100))
        bench = engine(clock, gpu(clock), package(clock), life=life, rule=Shared(0.25, 0.5, 0.25))
        stage = bench.open("training", "fit", {})
        clock.advance(100)
        bench.close(stage)
        rates = life.reserved
        expected = 100 * (0.25 * rates.host + 0.5 * rates.devices[0])
        assert stage.end.footprint.embodied_g == pytest.approx(expected)

    @given(
        st.lists(
            st.tuples(st.floats(0.01, 1e4), st.lists(st.floats(0, 1), min_size=3, max_size=3)), max_size=9
        )
    )
    def test_processes_that_share_a_host_never_pay_more_than_it_is_worth(self, ticks):
        """The shares of three processes change at each tick, and add up to one or less."""
        now_ns, rate = 0, 0.01
        shares = [[1 / 3] * 3, *(_normal(weights) for _, weights in ticks)]
        books = [ReservedTime(rate, (), Shares((), share, 0.0), 0) for share in shares[0]]
        for (seconds, _), divided in zip(ticks, shares[1:], strict=True):
            now_ns += int(seconds * NS)
            for book, share in zip(books, divided, strict=True):
                book.settle(Shares((), share, 0.0), now_ns)
        paid = sum(book.up_to(now_ns) for book in books)
        worth = rate * sum(
            sum(divided) * seconds for (seconds, _), divided in zip(ticks, shares[1:], strict=True)
        )
        assert paid == pytest.approx(worth, rel=1e-9, abs=1e-9)
        assert paid <= rate * now_ns / NS * (1 + 1e-9)

    def test_what_was_paid_is_never_taken_back(self):
        """A share that turns out smaller at a tick is worked off, and nothing falls."""
        book = ReservedTime(1.0, (), Shares((), 1.0, 0.0), 0)
        assert book.up_to(10 * NS) == 10
        book.settle(Shares((), 0.5, 0.0), 10 * NS)
        assert book.up_to(12 * NS) == 10
        assert book.up_to(22 * NS) == pytest.approx(11)


class TestWhatTheSensorsSee:
    """The hardware of a process, from discovery: fakes of sensors, with the names that drivers give."""

    def life(self, *sensors, findings=(), **settings):
        discovery = Discovery(tuple(sensors), tuple(findings), "a processor")
        return life_cycle(LifeSettings(**settings), discovery, 8, EmissionFactor(intensity("FR"), 1.2))

    def test_gpus_by_the_names_of_their_driver(self):
        clock = Clock()
        life = self.life(gpu(clock, device_id="NVIDIA H100 80GB HBM3"), package(clock))
        per_s = 164_000 / (4 * 365 * 86_400)
        assert life.unknown == () and life.reserved.devices == pytest.approx((per_s, 0))
        assert life.reserved.host > 0

    def test_a_mig_instance_is_charged_for_its_part_of_the_gpu(self):
        instance = gpu(Clock(), device_id="NVIDIA A100-SXM4-40GB MIG 1g.5gb")
        instance.part = 1 / 7
        per_s = 127_600 / 7 / (4 * 365 * 86_400)
        assert self.life(instance).reserved.devices == pytest.approx((per_s,))

    def test_a_gpu_that_no_sensor_reads_is_not_taken_for_none(self):
        unread = Finding("gpu", "missing", "an NVIDIA GPU", "no driver", unmetered=True)
        assert self.life(package(Clock()), findings=[unread]).unknown == ("a GPU without a sensor",)
        assert self.life(package(Clock()), findings=[unread], embodied_kg=900).unknown == ()

    def test_a_host_without_gpus(self):
        life = self.life(package(Clock()), market_intensity=50.0, market_source="residual mix", water=True)
        assert life.unknown == () and life.market.source == "residual mix"
        assert life.water == water_factor("FR", 1.2)


def _normal(weights):
    total = sum(weights)
    return [weight / max(1.0, total) for weight in weights]


class TestBeside:
    def test_market_based_emissions_are_a_second_number_by_hand(self):
        clock = Clock()
        life = LifeCycle(market=market_intensity(94.0, "supplier 2025", "FR"))
        bench = engine(clock, package(clock, watts=1000), life=life)
        stage = bench.open("training", "fit", {})
        clock.advance(180)  # at 1 kW: a twentieth of a kilowatt-hour
        bench.close(stage)
        footprint = stage.end.footprint
        assert footprint.emissions_g == pytest.approx(360 * 1.5 / 20)
        assert footprint.market_g == pytest.approx(94 * 1.5 / 20)
        figures = footprint.as_dict()
        assert (figures["market_g_per_kwh"], figures["market_source"]) == (94.0, "supplier 2025")
        assert life.market.signal.method == "market"

    def test_what_was_not_given_or_asked_for_is_absent(self):
        clock = Clock()
        bench = engine(clock, package(clock), life=of_server())
        footprint = bench.so_far().footprint
        assert footprint.market_g is None and footprint.water_l is None
        assert not [name for name in footprint.as_dict() if name.startswith(("market", "water"))]

    def test_water_by_hand(self):
        """W = E x (WUE + PUE x EWIF): France 3.67 L/kWh, its band -50 % and +100 %."""
        factor = water_factor("FR", 1.2, wue=0.34)
        ewif = (factor.l_per_kwh - 0.34) / 1.2
        assert ewif == pytest.approx(3.67, abs=0.01)
        assert factor.low == pytest.approx(0.34 + 0.5 * 1.2 * ewif)
        assert factor.high == pytest.approx(0.34 + 2 * 1.2 * ewif)
        assert factor.of(3.6e6).litres == factor.l_per_kwh

    def test_the_water_of_an_unknown_site_has_the_range_of_published_ones(self):
        known, unknown = water_factor("WORLD", 1.0, wue=0.3), water_factor("WORLD", 1.0)
        assert known.l_per_kwh == unknown.l_per_kwh == pytest.approx(0.3 + 3.908)
        assert unknown.low < known.low and known.high < unknown.high


class TestInAStore:
    """The figures of a run in MLflow, by the names of their metrics."""

    def metrics(self, life, seconds=100):
        clock = Clock()
        bench = engine(clock, package(clock), life=life)
        run = bench.open_run("r", "a", None)
        stage = bench.open("inference", "score", {}, run)
        clock.advance(seconds)
        bench.close(stage)
        bench.close(run)
        footprint = run.end.footprint
        return names.footprint_metrics(footprint, units={"inference/requests": 10}), footprint

    def test_the_kinds_of_stage_add_up_to_the_run(self):
        values, footprint = self.metrics(of_server())
        assert values[names.EMBODIED_G] == pytest.approx(1.0)
        assert values["carbon/inference/embodied_g"] + values["carbon/run/embodied_g"] == pytest.approx(1.0)
        sci = 1000 * (values["carbon/inference/emissions_g"] + 1.0) / 10
        assert names.rates_per_1k(values)["carbon/inference/sci_g_per_1k_requests"] == pytest.approx(sci)
        assert names.beside_tags(footprint)["carbon.lifetime_years"] == "4"

    def test_a_run_is_unknown_if_one_of_its_processes_is(self):
        """The sum of the others would be too low, and look complete."""
        known, _ = self.metrics(of_server())
        unknown, _ = self.metrics(LifeCycle(hardware(["NVIDIA GeForce RTX 4090"], 8, 32)))
        assert unknown[names.EMBODIED_UNKNOWN] == 1 and names.EMBODIED_G not in unknown
        both = contributions.total(
            [Contribution(known, final=True), Contribution(unknown, final=True)]
        ).values
        assert names.embodied_is_known(known) and not names.embodied_is_known(both)
        assert "carbon/inference/sci_g_per_1k_requests" not in names.rates_per_1k(both)
        assert beside.read(both, ["inference", "run"], 1.0).embodied is None

    def test_market_based_and_water_of_a_part_of_a_run_are_those_of_no_run(self):
        """Another process, or an earlier segment, had other settings."""
        life = LifeCycle(market=market_intensity(94.0, "supplier 2025", "FR"), water=water_factor("FR", 1.5))
        (asked, _), (plain, _) = self.metrics(life), self.metrics(of_server())
        whole = beside.read(asked, ["inference", "run"], 1.0)
        assert whole.market_g == pytest.approx(asked[names.MARKET_G])
        assert whole.water_l[0] == pytest.approx(asked[names.WATER_L])
        both = contributions.total([Contribution(asked, final=True), Contribution(plain, final=True)]).values
        part = beside.read(both, ["inference", "run"], 1.0)
        assert part.market_g is None and part.water_l is None

    def test_nested_runs_are_taken_off(self):
        figures = {
            names.EMBODIED_G: 10.0,
            names.EMBODIED_LOW_G: 5.0,
            names.EMBODIED_HIGH_G: 20.0,
            "carbon/training/embodied_g": 10.0,
            "carbon/nested/training/embodied_g": 6.0,
        }
        read = beside.read(figures, ["training"], 0.4)
        assert read.embodied == {"training": 4.0}
        assert (read.embodied_low_g, read.embodied_high_g) == (2.0, 8.0)

    def test_market_based_and_water_have_metrics_and_tags_of_their_own(self):
        life = LifeCycle(market=market_intensity(94.0, "supplier 2025", "FR"), water=water_factor("FR", 1.5))
        values, footprint = self.metrics(life)
        assert values[names.MARKET_G] == pytest.approx(values["carbon/emissions_g"] * 94 / 360)
        assert values[names.WATER_L] == pytest.approx(values["carbon/energy_kwh"] * life.water.l_per_kwh)
        tags = names.beside_tags(footprint)
        assert tags["carbon.market_intensity_g_per_kwh"] == "94"
        assert tags["carbon.market_intensity_source"] == "supplier 2025"
        assert "WRI" in tags["carbon.water_source"]
        plain, _ = self.metrics(of_server())
        assert not {names.MARKET_G, names.WATER_L} & plain.keys()


@pytest.mark.skipif(sys.platform != "linux", reason="the size of the host is read from Linux")
def test_a_measured_stage_has_all_of_it(tmp_path):
    import carbon_otel
    from tests.fakes.powercap import server

    began = time.monotonic()
    carbon_otel.instrument(
        zone="FR",
        powercap_root=server(tmp_path).root,
        embodied_kg=1000,
        lifetime_years=5,
        market_intensity=94,
        market_source="residual mix",
        water=True,
    )
    with carbon_otel.stage("inference") as stage:
        stage.units(predictions=7)
    footprint, process = stage.footprint, carbon_otel.footprint()
    carbon_otel.uninstrument()
    assert 0 < footprint.embodied_g <= process.embodied_g
    assert process.embodied_g <= embodied_g(1000, time.monotonic() - began, 5)
    assert set(footprint.sci) == {"predictions"}
    assert footprint.market.intensity.source == "residual mix" and footprint.water_l is not None
