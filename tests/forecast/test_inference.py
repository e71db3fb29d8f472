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
