"""What holds for every forecast, whatever the numbers."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carbon_otel.forecast.hardware import catalogue
from carbon_otel.forecast.inference import forecast_inference
from carbon_otel.forecast.records import (
    Forecast,
    InferenceRequest,
    Interval,
    Model,
    Place,
    TrainingRequest,
    total,
)
from carbon_otel.forecast.training import forecast_training

FIGURES = (
    "gpu_hours", "days", "gpus", "tokens", "params", "energy_kwh", "it_energy_kwh", "emissions_kg",
    "embodied_kg", "water_l", "j_per_output_token", "j_per_input_token", "energy_mwh", "it_energy_mwh",
    "emissions_t", "embodied_t",
)  # fmt: skip
DEVICES = [each.name for each in catalogue() if each.tdp_w and each.bytes_per_s and each.memory_bytes]


def sizes(least: float, most: float) -> st.SearchStrategy[float]:
    return st.floats(math.log(least), math.log(most)).map(math.exp)


places = st.builds(
    Place,
    zone=st.sampled_from([None, "FR", "US", "IN"]),
    intensity_g_per_kwh=st.none() | st.floats(0, 1500),
    pue=st.none() | st.floats(1, 3),
)


@st.composite
def models(draw) -> Model:
    params = draw(sizes(1e6, 2e12))
    shape = draw(st.none() | st.tuples(st.integers(1, 200), st.integers(64, 32768)))
    layers, hidden = shape or (None, None)
    return Model("m", params, params * draw(st.sampled_from([1.0, 0.3, 0.02])), layers=layers, hidden=hidden)


trainings = st.builds(
    TrainingRequest,
    hardware=st.sampled_from(DEVICES),
    model=models(),
    tokens=sizes(1e6, 1e14),
    epochs=st.floats(0.1, 10),
    gpus=st.none() | st.integers(1, 100_000),
    seq_len=st.none() | st.integers(1, 1_000_000),
    tuning=st.sampled_from(["full", "lora"]),
    mfu=st.none() | st.floats(0.01, 1),
    watts=st.none() | st.floats(10, 3000),
    place=places,
    lifetime_years=st.none() | st.floats(1, 10),
)
servings = st.builds(
    InferenceRequest,
    hardware=st.sampled_from(DEVICES),
    model=models(),
    concurrency=sizes(1, 1024),
    precision=st.sampled_from(["bf16", "fp8", "mxfp4"]),
    input_tokens=st.floats(0, 100_000),
    output_tokens=sizes(1, 100_000),
    requests_per_month=st.none() | sizes(1, 1e12),
    scope=st.sampled_from(["gpu", "node", "service"]),
    place=places,
)
figures = st.floats(0, 1e12)
intervals = st.builds(lambda values: Interval(*sorted(values)), st.lists(figures, min_size=3, max_size=3))
positive = st.builds(
    lambda values: Interval(*sorted(values)), st.lists(st.floats(1e-9, 1e9), min_size=3, max_size=3)
)


def shown(forecast: Forecast) -> dict[str, Interval]:
    found = {name: getattr(forecast, name) for name in FIGURES}
    return {name: value for name, value in found.items() if value is not None}


def grows(before: Forecast, after: Forecast, *names: str) -> bool:
    """Whether no percentile of these figures falls; a hair's breadth is the rounding of floats."""
    pairs = [(getattr(before, name), getattr(after, name)) for name in names]
    return all(
        getattr(small, p) <= getattr(large, p) * (1 + 1e-9)
        for small, large in pairs
        if small is not None and large is not None
        for p in ("p10", "p50", "p90")
    )


# Numbers of accelerators on one node, and on eight and more.
regimes = st.sampled_from([st.integers(1, 8), st.integers(64, 100_000)])
ENERGY = ("gpu_hours", "it_energy_kwh", "energy_kwh", "emissions_kg", "embodied_kg", "water_l")


class TestIntervals:
    @given(intervals, intervals)
    def test_sums_are_additive(self, a, b):
        assert (a + b).p50 == a.p50 + b.p50
        assert total([a, b]) == Interval.exact(0.0) + a + b
        assert a + b == b + a

    @given(positive, positive)
    def test_products_are_ordered_and_no_wider_than_the_factors_together(self, a, b):
        product = a * b
        assert product.p10 <= product.p50 <= product.p90
        assert product.p50 == pytest.approx(a.p50 * b.p50)
        assert product.width <= a.width * b.width * (1 + 1e-9)
        assert product.width >= max(a.width, b.width) * (1 - 1e-9)

    @given(positive, st.floats(1e-6, 1e6))
    def test_a_known_factor_keeps_the_width(self, a, factor):
        assert (a * Interval.exact(factor)).p90 == pytest.approx(a.times(factor).p90)
        assert a.times(factor).width == pytest.approx(a.width)

    @given(positive)
    def test_the_inverse_of_the_inverse(self, a):
        assert a.inverse().inverse().p90 == pytest.approx(a.p90)

    @pytest.mark.parametrize("values", [(2, 1, 3), (1, 3, 2), (-1, 0, 1), (0, 1, math.inf), (math.nan, 1, 2)])
    def test_disorder_is_refused(self, values):
        with pytest.raises(ValueError, match="order"):
            Interval(*values)


class TestTraining:
    @given(trainings)
    @settings(deadline=None)
    def test_every_figure_is_an_ordered_interval_and_every_assumption_has_its_source(self, request_):
        forecast = forecast_training(request_)
        for name, value in shown(forecast).items():
            assert 0 <= value.p10 <= value.p50 <= value.p90 < math.inf, name
        for each in forecast.assumptions:
            assert each.name and each.source
            assert each.low <= each.value <= each.high
        assert forecast == forecast_training(request_)
        shares = [each.share for each in forecast.influences]
        assert shares == sorted(shares, reverse=True)
        assert not shares or sum(shares) == pytest.approx(1)

    @given(trainings, st.floats(1, 100))
    @settings(deadline=None)
    def test_more_tokens_never_take_less(self, request_, factor):
        more = forecast_training(replace(request_, tokens=request_.tokens * factor))
        assert grows(forecast_training(request_), more, *ENERGY)

    @given(trainings, st.floats(1, 100))
    @settings(deadline=None)
    def test_more_parameters_never_take_less(self, request_, factor):
        model = request_.model
        larger = replace(model, params=model.params * factor, active_params=model.active_params * factor)
        more = forecast_training(replace(request_, model=larger))
        assert grows(forecast_training(request_), more, *ENERGY)

    @given(trainings, st.floats(1, 2), st.floats(1, 2))
    @settings(deadline=None)
    def test_a_higher_pue_never_emits_less(self, request_, low, more):
        small = forecast_training(replace(request_, place=replace(request_.place, pue=low)))
        large = forecast_training(replace(request_, place=replace(request_.place, pue=low * more)))
        assert grows(small, large, "energy_kwh", "emissions_kg", "water_l")
        assert small.it_energy_kwh == large.it_energy_kwh

    @given(trainings, st.floats(0, 1000), st.floats(0, 1000))
    @settings(deadline=None)
    def test_a_higher_intensity_never_emits_less_and_leaves_energy_alone(self, request_, low, more):
        small = forecast_training(replace(request_, place=replace(request_.place, intensity_g_per_kwh=low)))
        large = forecast_training(
            replace(request_, place=replace(request_.place, intensity_g_per_kwh=low + more))
        )
        assert grows(small, large, "emissions_kg")
        assert small.energy_kwh == large.energy_kwh

    @given(trainings, regimes.flatmap(lambda numbers: st.tuples(numbers, numbers)))
    @settings(deadline=None)
    def test_the_number_of_accelerators_cancels_out_of_energy(self, request_, numbers):
        """Within a node, and from eight nodes on."""
        few, many = numbers
        one, other = (forecast_training(replace(request_, gpus=number)) for number in (few, many))
        for name in ENERGY:
            assert getattr(one, name) == getattr(other, name)
        assert one.days.p50 * few == pytest.approx(other.days.p50 * many)

    @given(trainings, st.integers(1, 100_000), st.integers(1, 100_000))
    @settings(deadline=None)
    def test_with_known_watts_the_number_of_accelerators_cancels_everywhere(self, request_, few, many):
        """Measured watts have no regime that is guessed from the number."""
        request_ = replace(request_, watts=700)
        one, other = (forecast_training(replace(request_, gpus=number)) for number in (few, many))
        assert all(getattr(one, name) == getattr(other, name) for name in ENERGY)

    def test_one_accelerator_more_makes_no_step_in_energy(self):
        """Between one node and eight, the network slowly takes its part: 7 % in all, at most 0.5 % for each."""
        request = TrainingRequest("H100", Model("7B", 7e9, 7e9), tokens=1e12, place=Place(zone="FR"))
        energies = [forecast_training(replace(request, gpus=n)).energy_kwh for n in (*range(1, 100), None)]
        for percentile, least in (("p10", 0.98), ("p50", 0.995), ("p90", 0.99)):
            values = [getattr(energy, percentile) for energy in energies]
            assert all(least <= more / one <= 1 + 1e-12 for one, more in itertools.pairwise(values))
        assert energies[-1].p50 / energies[0].p50 == pytest.approx(0.88 / 0.95)

    @given(trainings)
    @settings(deadline=None)
    def test_units_agree(self, request_):
        found = forecast_training(request_)
        assert found.energy_mwh.p90 == pytest.approx(found.energy_kwh.p90 / 1000)
        assert found.emissions_t.p10 == pytest.approx(found.emissions_kg.p10 / 1000)
        if found.gpus is not None:
            assert found.days.p50 * 24 * found.gpus.p50 == pytest.approx(found.gpu_hours.p50)

    @given(trainings, st.floats(0.1, 0.9))
    @settings(deadline=None)
    def test_epochs_are_tokens_and_parts_add_up(self, request_, part):
        whole = forecast_training(request_)
        parts = [forecast_training(replace(request_, epochs=request_.epochs * p)) for p in (part, 1 - part)]
        assert total(each.energy_kwh for each in parts).p50 == pytest.approx(whole.energy_kwh.p50)

    @given(trainings)
    @settings(deadline=None)
    def test_the_first_phase_is_the_forecast(self, request_):
        found = forecast_training(request_)
        assert found.phases[0].energy_kwh == found.energy_kwh
        assert found.phases[0].emissions_kg == found.emissions_kg
        assert len({phase.name for phase in found.phases}) == len(found.phases) >= 4


class TestInference:
    @given(servings)
    @settings(deadline=None)
    def test_every_figure_is_an_ordered_interval(self, request_):
        forecast = forecast_inference(request_)
        for name, value in shown(forecast).items():
            assert 0 <= value.p10 <= value.p50 <= value.p90 < math.inf, name
        assert forecast.j_per_output_token.p10 > 0
        assert all(each.low <= each.value <= each.high and each.source for each in forecast.assumptions)

    @given(servings, st.floats(1, 50))
    @settings(deadline=None)
    def test_more_of_anything_never_takes_less(self, request_, factor):
        before = forecast_inference(request_)
        for name in ("input_tokens", "output_tokens"):
            more = forecast_inference(replace(request_, **{name: getattr(request_, name) * factor}))
            assert grows(before, more, "energy_kwh", "emissions_kg")

    @given(servings)
    @settings(deadline=None)
    def test_scopes_are_nested(self, request_):
        gpu, node, service = (
            forecast_inference(replace(request_, scope=scope)) for scope in ("gpu", "node", "service")
        )
        assert grows(gpu, node, "energy_kwh", "j_per_output_token")
        assert grows(node, service, "energy_kwh", "j_per_output_token")

    @given(servings)
    @settings(deadline=None)
    def test_a_request_is_its_tokens_and_a_month_its_requests(self, request_):
        one = forecast_inference(replace(request_, requests_per_month=None))
        joules = (
            one.j_per_output_token.p50 * request_.output_tokens
            + one.j_per_input_token.p50 * request_.input_tokens
        )
        assert one.energy_kwh.p50 * 3.6e6 == pytest.approx(joules)
        month = forecast_inference(replace(request_, requests_per_month=1e6))
        assert month.energy_kwh.p50 == pytest.approx(1e6 * one.energy_kwh.p50)

    @given(servings, st.floats(1.01, 8))
    @settings(deadline=None)
    def test_a_larger_batch_never_costs_more_a_token(self, request_, factor):
        larger = replace(request_, concurrency=request_.concurrency * factor)
        assert grows(forecast_inference(larger), forecast_inference(request_), "j_per_output_token")
