"""Energy by the hours of a grid: sums by hand, constant intensities, what may not be mixed, and the best start."""

from __future__ import annotations

import math
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbon_otel.carbon.intensity import AVERAGE, Intensity, MixedSignals, Signal
from carbon_otel.intensity import mix
from carbon_otel.intensity.pricing import NoFootprint, Use, price
from carbon_otel.intensity.series import instant, series, step_of, within
from carbon_otel.intensity.service import BANDS
from carbon_otel.intensity.timing import best_start, saved_g
from carbon_otel.provenance import Band

START = datetime(2026, 3, 1, tzinfo=timezone.utc)
HOUR = timedelta(hours=1)
NO_BAND = Band(1.0, 1.0, "exact", "stated")


def value(hour, g_per_kwh, *, hours=1.0, quality="measured", zone="GB", band=None, signal=AVERAGE):
    start = START + hour * HOUR
    return Intensity(
        zone=zone,
        name=zone,
        g_per_kwh=g_per_kwh,
        start=start,
        end=start + hours * HOUR,
        band=band or BANDS[quality],
        source="a test",
        licence="CC0",
        signal=signal,
        quality=quality,
    )


def use(begin, end, wh):
    return Use(START + begin * HOUR, START + end * HOUR, wh)


def test_grams_are_the_sum_of_energy_times_pue_times_intensity():
    values = series([value(0, 100), value(1, 300), value(2, 50)])
    priced = price([use(0, 1, 1000), use(1, 1.5, 400), use(1.5, 2.5, 200)], values, pue=1.2)
    # 1 kWh at 100, 0.4 at 300, 0.1 at 300 and 0.1 at 50
    assert priced.emissions_g == pytest.approx(1.2 * (100 + 120 + 30 + 5))
    assert priced.low_g == pytest.approx(0.9 * priced.emissions_g)
    assert priced.high_g == pytest.approx(1.1 * priced.emissions_g)
    assert priced.values == values and priced.share == 1.0


def test_energy_without_a_value_is_no_zero():
    values = series([value(0, 100), value(3, 100)])
    priced = price([use(0, 4, 4000)], values)
    assert priced.share == 0.5 and priced.priced_wh == 2000 and priced.emissions_g == pytest.approx(200)
    nothing = price([use(1, 2, 5)], values)
    assert nothing.share == 0.0 and nothing.emissions_g == 0.0 and nothing.values == ()
    assert price([], values).share == 0.0 and price([use(0, 1, 0.0)], values).share == 0.0


uses = st.lists(
    st.tuples(st.integers(0, 40), st.integers(1, 30), st.just(0.0) | st.floats(1e-9, 1e6)).map(
        lambda each: use(each[0] / 4, (each[0] + each[1]) / 4, each[2])
    ),
    min_size=1,
    max_size=20,
)


@given(uses, st.floats(5, 1500), st.floats(1, 3), st.sampled_from([0.25, 0.5, 1.0, 3.0]))
def test_a_constant_intensity_changes_nothing(used, g_per_kwh, pue, hours):
    values = series(value(number * hours, g_per_kwh, hours=hours) for number in range(math.ceil(20 / hours)))
    priced = price(used, values, pue)
    wh = math.fsum(each.wh for each in used)
    assert priced.emissions_g == pytest.approx(wh / 1000 * pue * g_per_kwh, rel=1e-9, abs=1e-12)
    assert priced.total_wh == pytest.approx(wh) and (priced.share == pytest.approx(1) or wh == 0)


@given(uses, st.lists(st.floats(5, 1500), min_size=20, max_size=20))
def test_the_grams_are_between_those_of_the_cleanest_and_the_dirtiest_hour(used, grams):
    priced = price(used, series(value(hour, each) for hour, each in enumerate(grams)))
    low, high = min(grams) * priced.total_wh / 1000, max(grams) * priced.total_wh / 1000
    assert low * (1 - 1e-9) <= priced.emissions_g <= high * (1 + 1e-9) + 1e-12


@pytest.mark.parametrize(
    "signal", [Signal("marginal"), Signal("residual", "market"), Signal(method="market"), Signal("residual")]
)
def test_only_average_and_location_based_values_make_a_footprint(signal):
    with pytest.raises(NoFootprint, match=f"{signal.kind}, {signal.method}-based"):
        price([use(0, 1, 1)], [value(0, 100, signal=signal)])


def test_values_of_different_signals_or_zones_are_no_series():
    with pytest.raises(MixedSignals):
        series([value(0, 100), value(1, 100, signal=Signal(scope="direct"))])
    with pytest.raises(MixedSignals, match="FR, GB"):
        series([value(0, 100), value(1, 100, zone="FR")])
    with pytest.raises(MixedSignals):
        price([use(0, 1, 1)], [value(0, 100), value(1, 100, signal=Signal(scope="direct"))])
    assert series([]) == ()


def test_a_measured_value_counts_before_a_forecast_and_the_later_of_two_equals():
    values = series(
        [
            value(0, 1, quality="forecast"),
            value(0, 2),
            value(0, 3, quality="forecast"),
            value(1, 4),
            value(1, 5),
        ]
    )
    assert [each.g_per_kwh for each in values] == [2, 5]


def test_a_long_value_ends_where_the_next_one_begins():
    values = series([value(0, 100, hours=5), value(2, 200, hours=1)])
    assert [(each.start, each.end) for each in values] == [
        (START, START + 2 * HOUR),
        (START + 2 * HOUR, START + 3 * HOUR),
    ]


def test_an_interval_is_half_open():
    values = series([value(0, 100), value(1, 200)])
    assert [each.g_per_kwh for each, _ in within(values, START + HOUR, START + 2 * HOUR)] == [200]
    assert list(within(values, START - HOUR, START)) == []
    assert list(within(values, START + 2 * HOUR, START + 3 * HOUR)) == []
    assert [seconds for _, seconds in within(values, START + HOUR / 2, START + 1.5 * HOUR)] == [1800, 1800]


@pytest.mark.parametrize(
    "text",
    ["2026-03-01T00:00Z", "2026-03-01T00:00:00.000Z", "2026-03-01T01:00+01:00", " 2026-03-01T00:00:00z "],
)
def test_times_are_read_in_utc(text):
    assert instant(text) == START and instant(text).utcoffset() == timedelta(0)


@pytest.mark.parametrize("text", ["", "yesterday", "2026-13-01T00:00Z", "2026-03-01T00:00", "1.3.2026"])
def test_other_texts_are_no_times(text):
    with pytest.raises(ValueError):  # noqa: PT011 - the messages are Python's, and one of ours
        instant(text)


def test_a_step_is_the_smallest_distance():
    times = [START, START + 3 * HOUR, START + HOUR, START + HOUR]
    assert step_of(times, timedelta(0)) == HOUR and step_of(times[:1], 2 * HOUR) == 2 * HOUR


def forecast(*grams):
    return series(value(hour, each, quality="forecast") for hour, each in enumerate(grams))


def test_the_best_start_is_the_one_with_the_fewest_grams():
    values = forecast(300, 300, 100, 120, 300, 300, 300)
    best = best_start([use(10, 11, 500), use(11, 12, 500)], values, START, hours=4)
    assert best.best.at == START + 2 * HOUR and best.best.end == START + 4 * HOUR
    assert best.now.g_per_kwh == pytest.approx(300) and best.best.g_per_kwh == pytest.approx(110)
    assert best.saving == pytest.approx(1 - 110 / 300)
    # Two forecasts of 20 %, independent: 28 % of the ratio.
    assert best.saving_low == pytest.approx(1 - 110 / 300 * (1 + math.hypot(0.2, 0.2)))
    assert best.is_worth_waiting and "63% less than now" in best.verdict
    assert saved_g(best, 1000.0, 1.5) == pytest.approx(1.5 * 190)


def test_the_profile_of_the_run_decides():
    values = forecast(100, 500, 100, 100, 500, 500)
    early, late = [use(0, 1, 900), use(1, 2, 100)], [use(0, 1, 100), use(1, 2, 900)]
    assert best_start(early, values, START, 3).starts[0].g_per_kwh == pytest.approx(140)
    assert best_start(late, values, START, 3).starts[0].g_per_kwh == pytest.approx(460)


def test_a_swing_below_the_error_of_the_forecast_is_not_worth_waiting_for():
    best = best_start([use(0, 1, 1)], forecast(100, 90, 85, 95), START, 2)
    assert best.saving == pytest.approx(0.15) and not best.is_worth_waiting
    assert "no difference worth waiting for" in best.verdict


def test_now_may_be_the_best_start():
    best = best_start([use(0, 1, 1)], forecast(50, 300, 300, 300), START + HOUR / 10, 2)
    assert best.best is best.now and best.saving == best.saving_low == best.saving_high == 0.0
    assert not best.is_worth_waiting and best.verdict == "no later start has a lower intensity"


def test_only_starts_that_the_forecast_covers_count():
    values = forecast(300, 300, 100)
    best = best_start([use(0, 2, 1)], values, START, 24)
    assert [start.at for start in best.starts] == [START + number * HOUR / 4 for number in range(5)]
    with pytest.raises(ValueError, match=r"does not cover a run of 4 h from now: it ends in 3 h"):
        best_start([use(0, 4, 1)], values, START, 24)
    with pytest.raises(ValueError, match="does not cover"):
        best_start([use(0, 2, 1)], [values[0], values[2]], START, 24)
    with pytest.raises(ValueError, match="no energy"):
        best_start([use(0, 2, 0.0)], values, START, 24)


def test_marginal_values_rank_hours():
    values = [value(hour, 300 - 50 * hour, signal=Signal("marginal"), band=NO_BAND) for hour in range(4)]
    best = best_start([use(0, 1, 1)], values, START, 3)
    assert best.signal.kind == "marginal" and best.best.at == START + 3 * HOUR
    with pytest.raises(MixedSignals):
        best_start([use(0, 1, 1)], [*values, value(4, 100)], START, 3)


@given(st.lists(st.floats(5, 1500), min_size=6, max_size=6), st.integers(1, 8))
def test_no_start_beats_the_best_one(grams, quarters):
    profile = [use(number / 4, (number + 1) / 4, number + 1.0) for number in range(quarters)]
    best = best_start(profile, forecast(*grams), START, 4)
    assert all(best.best.g_per_kwh <= start.g_per_kwh for start in best.starts)
    assert 0 <= best.saving <= 1 and best.saving_low <= best.saving <= best.saving_high


def test_a_mix_is_priced_by_its_fuels():
    assert mix.g_per_kwh({"wind": 300.0, "gas": 100.0}) == pytest.approx((300 * 11 + 100 * 490) / 400)
    assert mix.g_per_kwh({"wind": 100.0, "gas": -5.0, mix.STORAGE: 500.0}) == pytest.approx(11)
    assert mix.g_per_kwh({"wind": 91.0, mix.UNKNOWN: 9.0}) == pytest.approx(11)
    assert mix.g_per_kwh({"wind": 80.0, mix.UNKNOWN: 20.0}) is None
    assert mix.g_per_kwh({}) is None and mix.g_per_kwh({mix.STORAGE: 5.0}) is None
