"""The forecast of a training run: what is solved for, what it learns from, what it refuses."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from carbon_otel.forecast.architecture import model_of
from carbon_otel.forecast.comparison import compare
from carbon_otel.forecast.records import PastRun, Place, TrainingRequest
from carbon_otel.forecast.training import forecast_training

SITE = Place(intensity_g_per_kwh=350, pue=1.15)
REQUEST = TrainingRequest("A100-80GB", model_of("30B"), tokens=600e9, gpus=256, place=SITE)


def assumption(forecast, name):
    return next(each for each in forecast.assumptions if each.name == name)


class TestTheEngineersCase:
    """30 B for 30 days and 100 B for 60 days on A100, PUE 1.15, 0.35 t/MWh, "a certain number of GPUs"."""

    @pytest.mark.parametrize(("params", "days"), [("30B", 30), ("100B", 60)])
    def test_the_number_of_accelerators_is_solved_for(self, params, days):
        found = forecast_training(TrainingRequest("A100", model_of(params), days=days, place=SITE))
        assert found.days.p10 == found.days.p90 == days
        assert found.gpus.p10 < found.gpus.p50 < found.gpus.p90
        assert found.gpus.p50 * days * 24 == pytest.approx(found.gpu_hours.p50)
        assert found.tokens.p50 == 20 * found.params.p50
        assert "2203.15556" in assumption(found, "training tokens, all epochs").source
        assert any("accelerators" in note for note in found.notes)
        assert found.emissions_t.p50 == pytest.approx(found.energy_mwh.p50 * 0.35)

    def test_the_larger_model_costs_about_eleven_times_as_much(self):
        """100 B on 20 tokens per parameter: (10 / 3) squared in FLOPs."""
        rows = compare(replace(REQUEST, tokens=None), "model", [model_of("100B"), model_of("30B")])
        assert [name for name, _ in rows] == ["30B", "100B"]
        (_, small), (_, large) = rows
        assert 10 < large.energy_mwh.p50 / small.energy_mwh.p50 < 11.2


class TestWhatIsMissing:
    def test_days_from_accelerators(self):
        found = forecast_training(REQUEST)
        assert found.days.p50 == pytest.approx(found.gpu_hours.p50 / 24 / 256)

    def test_tokens_from_accelerators_and_days(self):
        found = forecast_training(replace(REQUEST, tokens=None, days=30))
        assert found.gpu_hours.width == 1
        assert found.tokens.p10 < found.tokens.p50 < found.tokens.p90
        again = forecast_training(replace(REQUEST, tokens=found.tokens.p50))
        assert again.days.p50 == pytest.approx(30)

    @pytest.mark.parametrize("tokens", [None, 2e12])
    def test_the_model_from_accelerators_and_days(self, tokens):
        found = forecast_training(replace(REQUEST, model=None, tokens=tokens, days=30))
        again = forecast_training(replace(REQUEST, model=model_of(found.params.p50), tokens=tokens))
        assert again.days.p50 == pytest.approx(30, rel=1e-6)
        assert found.tokens.p50 == pytest.approx(tokens or 20 * found.params.p50)

    def test_nothing_of_the_duration_is_said_without_accelerators_and_days(self):
        found = forecast_training(replace(REQUEST, gpus=None))
        assert (found.days, found.gpus) == (None, None)
        assert "storage" not in [phase.name for phase in found.phases]
        assert found.energy_kwh.p50 == forecast_training(REQUEST).energy_kwh.p50

    @pytest.mark.parametrize(
        ("days", "verdict"), [(5, "above the range"), (47, "within the range"), (500, "below the range")]
    )
    def test_a_plan_that_gives_all_is_taken_as_given_and_judged(self, days, verdict):
        found = forecast_training(replace(REQUEST, days=days))
        assert found.gpu_hours.p10 == found.gpu_hours.p90 == 256 * days * 24
        assert any(verdict in note for note in found.notes)

    @pytest.mark.parametrize("given", [{"gpus": 8}, {"days": 3}, {"tokens": 1e9}, {}])
    def test_too_little_is_refused(self, given):
        with pytest.raises(ValueError, match="give the model's parameters, or gpus and days"):
            forecast_training(TrainingRequest("A100", place=SITE, **given))


class TestEfficiency:
    def test_a_mixture_of_experts_reaches_less(self):
        dense = forecast_training(replace(REQUEST, model=model_of("20B")))
        sparse = forecast_training(replace(REQUEST, model=model_of("200B", active=20e9)))
        assert sparse.gpu_hours.p50 > 1.3 * dense.gpu_hours.p50
        assert sparse.params.p50 == 200e9

    def test_no_share_of_active_parameters_makes_a_step(self):
        """From dense to one tenth: a hundredth of the parameters less changes the hours by a few per cent."""
        hours = [
            forecast_training(replace(REQUEST, model=model_of("200B", active=share * 2e9))).gpu_hours.p50
            for share in range(100, 9, -1)
        ]
        for share, (more, less) in zip(range(100, 9, -1), itertools.pairwise(hours), strict=False):
            assert 1 < more / less < share / (share - 1) * 1.01, f"{share} % of the parameters are active"

    def test_most_h100_runs_lie_below_forty_percent(self):
        mfu = assumption(forecast_training(replace(REQUEST, hardware="H100")), "model FLOPs utilisation")
        assert 0.2 < mfu.value < 0.3 < mfu.high < 0.42

    def test_a_chip_unlike_the_fitted_ones_has_a_wider_interval(self):
        known, unknown = (
            assumption(forecast_training(replace(REQUEST, hardware=name)), "model FLOPs utilisation")
            for name in ("A100", "TPU v5p")
        )
        assert unknown.high / unknown.low > known.high / known.low

    def test_fp8_is_a_speed_up_of_16_bits_and_not_twice_the_peak(self):
        bf16, fp8 = (
            forecast_training(replace(REQUEST, hardware="H100", precision=p)) for p in ("bf16", "fp8")
        )
        assert fp8.gpu_hours.p50 == pytest.approx(bf16.gpu_hours.p50 / 1.25)
        assert fp8.gpu_hours.width > bf16.gpu_hours.width

    def test_lora_saves_the_gradients_of_the_frozen_weights(self):
        lora = forecast_training(replace(REQUEST, tuning="lora"))
        assert lora.gpu_hours.p50 == pytest.approx(forecast_training(REQUEST).gpu_hours.p50 * 4 / 6)

    def test_recomputation_counts_with_a_given_utilisation_alone(self):
        known = replace(REQUEST, mfu=0.4)
        again = forecast_training(replace(known, recompute=True))
        assert again.gpu_hours.p50 == pytest.approx(forecast_training(known).gpu_hours.p50 * 8 / 6)
        assert (
            forecast_training(replace(REQUEST, recompute=True)).gpu_hours
            == forecast_training(REQUEST).gpu_hours
        )

    def test_long_sequences_take_longer_where_the_shape_is_known(self):
        model = replace(model_of("7B"), layers=32, hidden=4096)
        short, long = (forecast_training(replace(REQUEST, model=model, seq_len=n)) for n in (4096, 131_072))
        assert short.gpu_hours == forecast_training(replace(REQUEST, model=model)).gpu_hours
        ratio = 32 * 4096 * (131_072 - 4096) / 7e9
        assert long.gpu_hours.p50 == pytest.approx(short.gpu_hours.p50 * (1 + ratio))


class TestPastRuns:
    def runs(self, number, mfu, watts=None, hardware="A100"):
        return tuple(PastRun(f"run {i}", hardware, mfu, watts) for i in range(number))

    def test_own_runs_move_the_prior_the_more_the_more_there_are(self):
        hours = [
            forecast_training(replace(REQUEST, past=self.runs(number, 0.48))).gpu_hours
            for number in (0, 1, 7, 500)
        ]
        assert [each.p50 for each in hours] == sorted((each.p50 for each in hours), reverse=True)
        flops = 6 * 30e9 * 600e9
        assert hours[-1].p50 == pytest.approx(flops / 312e12 / 3600 / 0.48, rel=0.02)
        assert hours[-1].width < hours[0].width

    def test_the_forecast_says_what_it_is_based_on(self):
        found = forecast_training(replace(REQUEST, past=self.runs(7, 0.4, 450.0)))
        assert "based on 7 of your runs on A100-SXM4-80GB" in found.notes
        assert "moved by 7 of your runs" in assumption(found, "model FLOPs utilisation").source
        power = assumption(found, "power per accelerator, with host")
        assert power.value == 450
        assert "7 of your runs" in power.source

    def test_runs_on_other_hardware_teach_nothing(self):
        found = forecast_training(replace(REQUEST, past=self.runs(7, 0.05, hardware="H100")))
        assert found == forecast_training(REQUEST)

    def test_a_run_of_another_size_is_compared_with_its_own(self):
        """A mixture of experts that reached what mixtures do says nothing about the user's software."""
        mfu = forecast_training(replace(REQUEST, model=model_of("200B", active=20e9)))
        typical = assumption(mfu, "model FLOPs utilisation").value
        run = PastRun("run", "A100", typical, active_params=20e9, params=200e9)
        learned = forecast_training(replace(REQUEST, past=(run,))).gpu_hours.p50
        assert learned == pytest.approx(forecast_training(REQUEST).gpu_hours.p50)
        as_dense = forecast_training(replace(REQUEST, past=(replace(run, params=None),))).gpu_hours.p50
        assert as_dense > learned

    def test_a_run_of_impossible_utilisation_is_refused_by_name(self):
        with pytest.raises(ValueError, match="run 0"):
            forecast_training(replace(REQUEST, past=self.runs(1, 1.2)))


class TestPhases:
    def test_multiples_that_are_given(self):
        found = forecast_training(
            replace(REQUEST, idle=0.1, development=4.6, post_training=0.5, storage_tb=100)
        )
        by_name = {phase.name: phase for phase in found.phases}
        run = found.energy_kwh
        for name, multiple in (("restarts and idle", 0.1), ("development", 4.6), ("post-training", 0.5)):
            assert by_name[name].energy_kwh.p90 == pytest.approx(multiple * run.p90)
        hours = found.days.p50 * 24
        assert by_name["storage"].energy_kwh.p50 == pytest.approx(100 * 3.6 * hours / 1000 * 1.15)

    def test_reinforcement_learning_is_forecast_as_inference_and_training(self):
        found = forecast_training(replace(REQUEST, rl_tokens=60e9))
        energy = next(phase for phase in found.phases if phase.name == "reinforcement learning").energy_kwh
        trained = found.energy_kwh.times(60e9 / 600e9)
        assert energy.p50 > 1.5 * trained.p50
        assert energy.p90 > trained.p90 / 0.2, "where it was measured, generating took 87 %"
        twice = forecast_training(replace(REQUEST, rl_tokens=120e9)).phases[4].energy_kwh
        assert twice.p50 == pytest.approx(2 * energy.p50)

    def test_development_is_assumed_and_not_nothing(self):
        found = forecast_training(REQUEST)
        multiple = assumption(found, "development, as a multiple of the final run")
        assert (multiple.low, multiple.high, multiple.verified) == (0.5, 4.6, False)
        assert found.phases[2].energy_kwh.p50 == pytest.approx(1.5 * found.energy_kwh.p50)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hardware": "H1000"}, "H100"),
        ({"hardware": None}, "the accelerator is None; write its name, such as H100"),
        ({"precision": "fp4"}, "the catalogue has bf16"),
        ({"precision": "int8"}, "training has no precision int8"),
        ({"tokens": 0}, "tokens is 0"),
        ({"tokens": float("nan")}, "tokens is nan"),
        ({"gpus": -1}, "gpus is -1"),
        ({"days": float("inf")}, "days is inf"),
        ({"mfu": 1.2}, "at most 1"),
        ({"mfu": 0}, "mfu is 0"),
        ({"watts": -5}, "watts"),
        ({"development": -1}, "at least 0"),
        ({"storage_tb": float("nan")}, "storage_tb"),
        ({"lifetime_years": 0}, "lifetime"),
        ({"place": Place(zone="Frankreich")}, "unknown zone"),
        ({"place": Place(region="gcp:europe-nord1")}, "gcp:europe-north1"),
        ({"place": Place(pue=0.9)}, "PUE is 0.9"),
        ({"place": Place(intensity_g_per_kwh=-1)}, "carbon intensity is -1"),
        ({"place": Place(intensity_g_per_kwh=float("nan"))}, "carbon intensity is nan"),
        ({"hardware": "Trainium1"}, "rated power of Trainium1 is unknown"),
    ],
)
def test_what_makes_no_sense_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        forecast_training(replace(REQUEST, **change))


def test_unknown_embodied_carbon_is_unknown_and_not_zero():
    found = forecast_training(replace(REQUEST, hardware="MI250X"))
    assert found.embodied_kg is None
    assert found.embodied_t is None
    assert any("embodied carbon of MI250X is unknown" in note for note in found.notes)


def test_embodied_carbon_by_sci():
    """M = TE x TS x RS: 164 kg and the host's share, for 4 years."""
    found = forecast_training(replace(REQUEST, hardware="H100", gpus=1, days=365, lifetime_years=4))
    assert found.embodied_kg.p50 == pytest.approx((164 + 435) / 4)
    tpu = forecast_training(replace(REQUEST, hardware="TPU v5p", gpus=1, days=365, lifetime_years=4))
    assert tpu.embodied_kg.p50 == pytest.approx(1101 / 4), "its figure contains the host"


class TestComparison:
    def test_accelerators_are_sorted_by_emissions(self):
        rows = compare(REQUEST, "hardware", ["V100", "A100", "H100", "B200", "TPU v4"])
        emitted = [forecast.emissions_kg.p50 for _, forecast in rows]
        assert emitted == sorted(emitted)
        names = [name for name, _ in rows]
        assert names.index("H100") < names.index("A100") < names.index("V100")

    def test_montreal_or_mumbai(self):
        places = [Place(region=f"gcp:{name}") for name in ("asia-south1", "northamerica-northeast1")]
        (montreal, best), (mumbai, worst) = compare(REQUEST, "place", places)
        assert (montreal, mumbai) == ("gcp:northamerica-northeast1", "gcp:asia-south1")
        assert worst.emissions_t.p10 > 3 * best.emissions_t.p90
        assert any("leaves out the life cycle" in note for note in best.notes)

    def test_an_unknown_field_is_refused(self):
        with pytest.raises(ValueError, match="hardware"):
            compare(REQUEST, "colour", ["red"])


def test_a_sequence_length_that_cannot_count_is_said():
    """The FLOPs of attention need the shape of the model."""
    by_number = forecast_training(replace(REQUEST, model=model_of("7B"), seq_len=131_072))
    assert any("attention" in note for note in by_number.notes)
    shaped = replace(model_of("7B"), layers=32, hidden=4096)
    assert not any(
        "attention" in n for n in forecast_training(replace(REQUEST, model=shaped, seq_len=131_072)).notes
    )
