"""All devices on one clock: times of readings, faults of readings, and the process's share."""

from __future__ import annotations

import itertools
from statistics import fmean

import pytest

from carbon_otel.meter.meter import Meter
from carbon_otel.records import Shares
from tests.fakes.clock import NS, Clock
from tests.fakes.sensors import FakeSensor, SlowSensor, gpu, package


@pytest.fixture
def clock():
    return Clock()


def follow(meter: Meter, *, tick: bool = False) -> list[float]:
    """An edge or a tick like that of the engine; returns the joules of each device since the last one."""
    now_ns = meter.clock_ns()
    before = [track.own_j for track in meter.tracks]
    meter.apply(meter.read_for_tick(now_ns) if tick else meter.read_for_edge(now_ns), now_ns)
    return [after - then for after, then in zip(meter.advance(now_ns), before, strict=True)]


class Rule:
    """Shares set by a test; measured at ticks only."""

    def __init__(self, *shares: float, process: float = 0.0) -> None:
        self.present = Shares(shares, shares[0], process)

    def measure(self, now_ns: int, *, tick: bool) -> Shares | None:
        return self.present if tick else None


class TestReading:
    def test_a_costly_sensor_is_read_at_most_twice_in_a_stage(self, clock):
        sensor = gpu(clock)
        meter = Meter([sensor], clock_ns=clock)
        follow(meter)
        clock.advance(20)
        before = sensor.reads
        follow(meter)
        clock.advance(0.8)
        follow(meter)
        assert sensor.reads == before + 2

    def test_short_stages_do_not_read_a_costly_sensor(self, clock):
        sensor = gpu(clock)
        meter = Meter([sensor], clock_ns=clock)
        for _ in range(2000):
            follow(meter)
            clock.advance(0.0005)
        assert sensor.reads == 2

    def test_ticks_and_edges_keep_their_own_intervals(self, clock):
        sensor = FakeSensor(clock, edge_interval_s=0.002, tick_interval_s=0.95)
        meter = Meter([sensor], clock_ns=clock)
        for _ in range(100):
            follow(meter, tick=True)
            clock.advance(0.1)
        assert sensor.reads == 10
        follow(meter)
        follow(meter)
        clock.advance(0.001)
        follow(meter)
        assert sensor.reads == 11
        clock.advance(0.001)
        follow(meter)
        assert sensor.reads == 12

    def test_a_tick_reads_what_an_edge_has_read_lately(self, clock):
        """Else it would go on with the power before that edge, and the next stage would pay for it."""
        sensor = FakeSensor(clock, watts=600, edge_interval_s=0.1, tick_interval_s=0.95)
        meter = Meter([sensor], clock_ns=clock)
        follow(meter, tick=True)
        clock.advance(1)
        follow(meter)
        sensor.watts = 100
        clock.advance(0.5)
        assert follow(meter, tick=True) == [pytest.approx(50)]

    def test_an_edge_reads_for_itself_while_another_thread_is_between_its_reading_and_the_books(self, clock):
        """It would close a stage with the joules from before: 0, if the device was idle then."""
        sensor = FakeSensor(clock, edge_interval_s=0.002)
        meter = Meter([sensor], clock_ns=clock)
        follow(meter)
        clock.advance(1)
        then_ns = clock()
        of_tick = meter.read_for_tick(then_ns)
        clock.advance(0.001)
        assert follow(meter) == [pytest.approx(100.1)]
        meter.apply(of_tick, then_ns)
        assert sum(meter.advance(clock())) == pytest.approx(100.1)

    def test_between_readings_the_last_power_is_extrapolated(self, clock):
        meter = Meter([gpu(clock, watts=300)], clock_ns=clock)
        follow(meter)
        clock.advance(1)
        assert follow(meter) == [300]
        clock.advance(0.01)
        assert follow(meter) == [pytest.approx(3)]
        ((published_j, read_j, watts, read_ns, _),) = meter.edge(clock()).devices
        assert (published_j, read_j, watts, clock() - read_ns) == (pytest.approx(303), 300, 300, NS // 100)


class TestASlowCounter:
    def test_some_edges_in_a_row_read_it_and_then_one_in_its_pace(self, clock):
        sensor = SlowSensor(clock, watts=100)
        meter = Meter([sensor], clock_ns=clock)
        for _ in range(200):
            follow(meter)
            clock.advance(0.1)
        assert sensor.reads == pytest.approx(10 + 20, abs=2)
        clock.advance(60)
        before = sensor.reads
        for _ in range(10):
            follow(meter)
            clock.advance(0.1)
        assert sensor.reads == before + 10

    @pytest.mark.parametrize("pace_s", [1.0, 5.0])
    def test_readings_at_ticks_do_not_keep_edges_from_reading(self, clock, pace_s):
        sensor = SlowSensor(clock, watts=100)
        sensor.edge_pace_s = pace_s
        meter = Meter([sensor], clock_ns=clock)
        for _ in range(600):
            follow(meter, tick=True)
            clock.advance(0.5)
        before = sensor.reads
        for _ in range(60):
            follow(meter)
            clock.advance(pace_s)
        assert sensor.reads - before >= 59

    def test_the_lag_of_a_device_counts_also_if_it_is_read_after_another(self, clock):
        """A reading then begins after the edge."""
        first, sensor = package(clock, watts=100), SlowSensor(clock, watts=100)
        read = first.read
        first.read = lambda: (clock.advance(0.01), read())[1]
        meter = Meter([first, sensor], clock_ns=clock)
        for _ in range(20):
            follow(meter)
            clock.advance(0.3)
            sensor.renew()
        sensor.watts = 300
        clock.advance(0.3)
        sensor.renew()
        now_ns = clock()
        meter.apply(meter.read_for_edge(now_ns), now_ns)
        meter.advance(now_ns)
        _, (published_j, read_j, *_) = meter.edge(now_ns).devices
        track = meter.tracks[1].timeline
        assert track.lag_j == pytest.approx((track.power_w - 100) * 0.05, rel=0.1) and track.lag_j > 1
        assert published_j == pytest.approx(read_j) and read_j == track.true_j + track.lag_j

    def test_on_the_mean_nothing_is_missing_at_the_end_of_a_load(self, clock):
        """Loads of 1200 J that end at each hundredth of a second in the period of the counter."""
        sensor = SlowSensor(clock, watts=100)
        meter = Meter([sensor], clock_ns=clock)
        moments = itertools.count(1)

        def wait(seconds):
            for _, moment in zip(range(round(100 * seconds)), moments, strict=False):
                clock.advance(0.01)
                if moment % 10 == 0:
                    sensor.renew()

        offs = []
        for _ in range(10):
            wait(3.01)
            follow(meter, tick=True)
            wait(1)
            follow(meter)
            sensor.watts, begun_j = 600, sensor.spent_j
            wait(2)
            offs.append(sum(follow(meter)) - (sensor.spent_j - begun_j))
            sensor.watts = 100
        # The last period is of 60 J.
        assert all(abs(off) <= 30 for off in offs)
        assert abs(fmean(offs)) < 5


class TestReadingsOfSeveralThreads:
    def test_an_overtaken_reading_changes_nothing(self, clock):
        sensor = package(clock, watts=100)
        meter = Meter([sensor], clock_ns=clock)
        follow(meter)
        clock.advance(1)
        early_ns = clock()
        early = meter.read_for_edge(early_ns)
        clock.advance(1)
        assert follow(meter) == [200]
        meter.apply(early, early_ns)
        assert meter.advance(early_ns) == [200]
        clock.advance(1)
        assert follow(meter) == [100]
        assert meter.edge(clock()).quality is None

    def test_an_overtaken_fault_is_no_gap(self, clock):
        sensor = package(clock)
        meter = Meter([sensor], clock_ns=clock)
        follow(meter)
        sensor.fault = "EINTR"
        early_ns = clock()
        early = meter.read_for_edge(early_ns)
        sensor.fault = None
        clock.advance(1)
        follow(meter)
        meter.apply(early, early_ns)
        assert meter.edge(clock()).quality is None

    def test_shares_of_an_earlier_interval_do_not_replace_those_of_a_later_one(self, clock):
        rule = Rule(0.5)
        meter = Meter([package(clock)], rule=rule, clock_ns=clock)
        follow(meter, tick=True)
        clock.advance(1)
        early_ns = clock()
        early = meter.read_for_tick(early_ns)
        clock.advance(1)
        rule.present = Shares((0.25,), 0.25, 0.0)
        follow(meter, tick=True)
        meter.apply(early, early_ns)
        assert meter.edge(clock()).shares == (0.25,)

    def test_an_edge_has_the_duration_of_its_reading(self, clock):
        class SlowSensor(FakeSensor):
            def read(self) -> float:
                raw = super().read()
                clock.advance(0.2)
                return raw

        meter = Meter([SlowSensor(clock)], clock_ns=clock)
        now_ns = clock()
        meter.apply(meter.read_for_edge(now_ns), now_ns)
        ((_, _, _, read_ns, took_ns),) = meter.edge(now_ns).devices
        assert (read_ns, took_ns) == (now_ns, NS // 5)


class TestFaults:
    def test_each_fault_is_reported_once(self, clock):
        messages = []
        sensor = package(clock)
        meter = Meter([sensor], clock_ns=clock, on_fault=lambda s, message: messages.append((s, message)))
        for fault in (None, "EIO", "EIO", "EIO", None, "gone", "gone", None):
            sensor.fault = fault
            clock.advance(1)
            follow(meter, tick=True)
        assert messages == [(sensor, "EIO"), (sensor, "gone")]

    def test_a_fault_is_a_gap_and_never_a_zero(self, clock):
        sensor = package(clock, watts=100)
        meter = Meter([sensor], clock_ns=clock)
        follow(meter)
        clock.advance(1)
        assert follow(meter) == [100]
        sensor.fault = "EIO"
        clock.advance(1)
        assert follow(meter) == [100]
        (gap,) = meter.edge(clock()).quality
        assert (gap.filled_j, gap.ambiguous_j, gap.gap_s) == (100, 0, 1)
        sensor.fault = None
        sensor.watts = 300
        clock.advance(1)
        assert follow(meter) == [300]
        (gap,) = meter.edge(clock()).quality
        assert (gap.filled_j, gap.ambiguous_j, gap.gap_s) == (0, 0, 0)

    def test_a_fault_of_one_device_leaves_the_others_alone(self, clock):
        broken, sound = package(clock), package(clock, device_id="package-1")
        meter = Meter([broken, sound], clock_ns=clock)
        follow(meter)
        broken.fault = "EIO"
        clock.advance(1)
        assert follow(meter) == [0, 100]
        assert not meter.tracks[1].timeline.flags


class TestShare:
    def test_each_device_is_charged_by_its_share(self, clock):
        sensors = [package(clock), gpu(clock), FakeSensor(clock, "dram", "memory", watts=10)]
        meter = Meter(sensors, rule=Rule(0.25, 1.0, 0.25), clock_ns=clock)
        follow(meter)
        clock.advance(2)
        assert follow(meter) == pytest.approx([50, 600, 5])

    def test_a_share_holds_for_the_interval_that_it_was_measured_in(self, clock):
        rule = Rule(0.5)
        meter = Meter([package(clock, watts=100)], rule=rule, clock_ns=clock)
        follow(meter, tick=True)
        for share, joules in ((0.5, 50), (0.8, 80), (0.8, 80)):
            clock.advance(1)
            rule.present = Shares((share,), share, 0.0)
            assert follow(meter, tick=True) == [pytest.approx(joules)]

    def test_joules_charged_too_early_are_subtracted_later(self, clock):
        rule = Rule(0.5)
        meter = Meter([package(clock, watts=100)], rule=rule, clock_ns=clock)
        follow(meter, tick=True)
        clock.advance(1)
        assert follow(meter) == [pytest.approx(50)]
        rule.present = Shares((0.2,), 0.2, 0.0)  # half of this second was already charged at an edge
        assert follow(meter, tick=True) == [0]
        clock.advance(1)
        assert follow(meter, tick=True) == [0]
        clock.advance(1)
        assert follow(meter, tick=True) == [pytest.approx(3 * 20 - 50)]

    def test_the_shares_by_both_rules_are_integrated_over_time(self, clock):
        rule = Rule(0.5, process=0.1)
        meter = Meter([package(clock)], rule=rule, clock_ns=clock)
        begin = meter.edge(clock())
        clock.advance(2)
        rule.present = Shares((0.25,), 0.25, 0.75)
        follow(meter, tick=True)
        clock.advance(1)
        end = meter.edge(clock())
        assert end.reserved_s - begin.reserved_s == pytest.approx(3 * 0.25)
        assert end.process_s - begin.process_s == pytest.approx(3 * 0.75)


def test_a_learned_period_changes_how_often_edges_read(clock):
    sensor = gpu(clock)
    meter = Meter([sensor], clock_ns=clock)
    sensor.edge_interval_s, sensor.update_period_s = 0.1, 0.02
    meter.tracks[0].renew_period()
    for _ in range(10):
        follow(meter)
        clock.advance(0.1)
    assert sensor.reads == 10


def test_snapshot(clock):
    sensors = [package(clock, watts=50), gpu(clock, watts=200)]
    meter = Meter(sensors, rule=Rule(0.25, 1.0), clock_ns=clock)
    follow(meter, tick=True)
    clock.advance(1)
    follow(meter, tick=True)
    # The whole devices, before they are shared.
    assert meter.snapshot().devices == tuple((s.device, s.spent_j, s.watts) for s in sensors)
