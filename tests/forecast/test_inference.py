"""The forecast of serving a model."""

from __future__ import annotations

from dataclasses import replace

import pytest

from carbon_otel.forecast.architecture import model_of
from carbon_otel.forecast.comparison import compare
from carbon_otel.forecast.inference import forecast_inference
from carbon_otel.forecast.records import InferenceRequest, Place, TrainingRequest
from carbon_otel.forecast.training import forecast_training

SITE = Place(intensity_g_per_kwh=350, pue=1.15)
DEEPSEEK = InferenceRequest(
    "H100",
    model_of("671B", active=37e9),
    gpus=16,
    concurrency=64,
    precision="fp8",
    output_tokens=500,
    place=SITE,
)


def test_the_case_of_the_command():
    found = forecast_inference(DEEPSEEK)
    assert found.j_per_output_token.p10 < found.j_per_output_token.p50 < found.j_per_output_token.p90
    assert found.j_per_input_token.p50 < found.j_per_output_token.p50 / 5
    assert found.scope == "service"
    assert found.gpus.p50 == 16


def test_the_joules_of_a_measured_model_by_concurrency():
    """ML.ENERGY v3: DeepSeek-V3.1 in fp8 on 8 B200. The median follows them over a factor of 8."""
    for concurrency, joules in (
        (8, 10.053),
        (16, 7.343),
        (32, 5.459),
        (64, 3.517),
        (128, 1.802),
        (256, 1.335),
    ):
        request = replace(
            DEEPSEEK, hardware="B200", gpus=8, scope="gpu", input_tokens=256, output_tokens=8900,
            concurrency=concurrency,
        )  # fmt: skip
        assert forecast_inference(request).j_per_output_token.p50 == pytest.approx(joules, rel=0.26)


def test_accelerators_are_chosen_by_memory():
    found = forecast_inference(replace(DEEPSEEK, gpus=None))
    assert found.gpus.p50 == 16
    assert any("671 GB" in note for note in found.notes)
    assert forecast_inference(replace(DEEPSEEK, gpus=None, model=model_of("8B"))).gpus.p50 == 1


def test_too_few_accelerators_are_refused():
    with pytest.raises(ValueError, match="671 GB in fp8, more than the 320 GB of 4 x"):
        forecast_inference(replace(DEEPSEEK, gpus=4))


def test_the_month_in_which_inference_passes_the_training():
    training = forecast_training(TrainingRequest("H100", model_of("7B"), tokens=1e12, place=SITE))
    request = replace(DEEPSEEK, model=model_of("7B"), gpus=1, training=training)
    without = forecast_inference(request)
    assert without.months_to_training is None
    assert any("give requests per month" in note for note in without.notes)
    found = forecast_inference(replace(request, requests_per_month=1e9))
    assert found.months_to_training.p50 == pytest.approx(training.energy_kwh.p50 / found.energy_kwh.p50)
    assert any("passes the training" in note for note in found.notes)


def test_the_energy_of_a_training_may_be_a_number():
    request = replace(DEEPSEEK, requests_per_month=1e9, training=5e6)
    found = forecast_inference(request)
    assert found.months_to_training.p50 == pytest.approx(5e6 / found.energy_kwh.p50)


@pytest.mark.parametrize("scope", ["gpu", "node"])
def test_a_training_has_the_scope_of_a_service(scope):
    """Its energy has the host and the PUE, so it is not compared with less."""
    with pytest.raises(ValueError, match="scope service"):
        forecast_inference(replace(DEEPSEEK, scope=scope, requests_per_month=1e9, training=5e6))


def test_water_has_the_pue_only_where_the_energy_has_it():
    pues = [1.0, 1.5, 2.0]
    for scope in ("gpu", "node", "service"):
        litres = [
            forecast_inference(replace(DEEPSEEK, scope=scope, place=replace(SITE, pue=pue))).water_l.p50
            for pue in pues
        ]
        if scope == "service":
            assert litres == sorted(litres) and litres[0] < litres[-1]
        else:
            assert litres[0] == litres[1] == litres[2]


def test_long_prompts_dominate_the_uncertainty_of_short_answers():
    """Each part counts by its share of the energy."""

    def share(input_tokens, output_tokens):
        found = forecast_inference(
            replace(DEEPSEEK, input_tokens=input_tokens, output_tokens=output_tokens)
        ).influences
        assert sum(each.share for each in found) == pytest.approx(1)
        return next((each.share for each in found if each.name == "energy of reading a prompt"), 0.0)

    assert share(0, 500) == 0
    assert 0 < share(500, 500) < share(5000, 500) < share(100_000, 10)
    assert share(100_000, 10) > 0.4


def test_the_scope_says_what_is_included():
    gpu = forecast_inference(replace(DEEPSEEK, scope="gpu"))
    service = forecast_inference(DEEPSEEK)
    names = [{each.name for each in forecast.assumptions} for forecast in (gpu, service)]
    assert "PUE" not in names[0]
    assert {"PUE", "host factor", "idle reserve of a service"} <= names[1]
    assert gpu.energy_kwh == gpu.it_energy_kwh
    assert 1.4 < service.energy_kwh.p50 / gpu.energy_kwh.p50 < 2


def test_an_accelerator_without_measurements_has_a_wider_interval():
    measured, unmeasured = (
        forecast_inference(replace(DEEPSEEK, hardware=name, gpus=8)) for name in ("B200", "MI300X")
    )
    assert unmeasured.j_per_output_token.width > measured.j_per_output_token.width


def test_precisions_are_compared():
    rows = compare(replace(DEEPSEEK, gpus=32), "precision", ["bf16", "fp8", "mxfp4"])
    assert [name for name, _ in rows] == ["mxfp4", "fp8", "bf16"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"precision": "fp2"}, "unknown precision 'fp2' of weights; write one of fp32"),
        ({"concurrency": 0}, "concurrency is 0"),
        ({"output_tokens": -1}, "output_tokens is -1"),
        ({"input_tokens": float("nan")}, "input_tokens is nan"),
        ({"gpus": 0}, "gpus is 0"),
        ({"scope": "rack"}, "unknown scope 'rack'; write gpu, node or service"),
        ({"input_tokens": -1}, "input_tokens is -1; write a number of at least 0"),
        ({"hardware": "Inferentia2"}, "unknown; choose another accelerator"),
        ({"hardware": "Z80"}, "unknown accelerator"),
        ({"hardware": None}, "the accelerator is None; write its name, such as H100"),
        ({"training": -5}, "training is -5; write a number above 0"),
        ({"training": forecast_inference(DEEPSEEK)}, "a forecast of inference"),
    ],
)
def test_what_makes_no_sense_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        forecast_inference(replace(DEEPSEEK, **change))


def test_the_share_of_the_rated_power_behind_the_hours_is_an_assumption():
    found = forecast_inference(DEEPSEEK)
    share = next(each for each in found.assumptions if each.name == "share of the rated power, decoding")
    joules = found.it_energy_kwh.p50 * 3.6e6 / (1.3 * (1 + 10 / 83))
    assert found.gpu_hours.p50 * 3600 * 700 * share.value == pytest.approx(joules)


def test_a_pue_that_the_scope_leaves_out_is_said():
    found = forecast_inference(replace(DEEPSEEK, scope="gpu"))
    assert any("PUE" in note for note in found.notes)
    assert not any("PUE" in note for note in forecast_inference(DEEPSEEK).notes)
