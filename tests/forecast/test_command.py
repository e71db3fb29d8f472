"""`carbon-otel forecast`: the same figures in every format, comparisons, and errors that say what to write."""

from __future__ import annotations

import json
import re

import pytest
from typer.testing import CliRunner

import carbon_otel
from carbon_otel.cli import app
from tests.forecast.test_llmcarbon import DATABASE

TRAINING = ("--params", "30B", "--tokens", "600B", "--gpu", "A100-80GB", "--gpus", "256", "--pue", "1.15")
LLM = (*TRAINING, "--intensity", "350")
SERVING = (
    "--inference",
    "--params",
    "671B",
    "--active",
    "37B",
    "--gpu",
    "H100",
    "--gpus",
    "16",
    "--precision",
    "fp8",
)
QUANTITIES = (
    "gpu_hours",
    "days",
    "energy_mwh",
    "emissions_t",
    "embodied_t",
    "j_per_output_token",
    "j_per_input_token",
)


def call(*arguments, code=0):
    done = CliRunner().invoke(app, ["forecast", *arguments], env={"COLUMNS": "200"})
    assert done.exit_code == code, done.output
    return done


def values(*arguments):
    return json.loads(call(*arguments, "--json").stdout)


def test_json_has_three_percentiles_of_each_quantity_and_every_assumption():
    found = values(*LLM)
    for name in QUANTITIES[:5]:
        assert 0 < found[name]["p10"] <= found[name]["p50"] <= found[name]["p90"], name
    assert found["j_per_output_token"] is None
    for each in found["assumptions"]:
        assert {"name", "value", "low", "high", "unit", "source", "verified"} <= set(each)
        assert each["source"] and each["low"] <= each["value"] <= each["high"]
    named = {each["name"]: each for each in found["assumptions"]}
    assert named["PUE"]["value"] == 1.15 and named["PUE"]["source"] == "given"
    assert named["carbon intensity"]["value"] == 350
    assert found["emissions_t"]["p50"] == pytest.approx(found["energy_mwh"]["p50"] * 0.35)


def test_serving():
    found = values(*SERVING, "--concurrency", "64", "--output-tokens", "500")
    for name in ("j_per_output_token", "j_per_input_token"):
        assert 0 < found[name]["p10"] < found[name]["p50"] < found[name]["p90"]
    month = values(*SERVING, "--requests-per-month", "1M")
    assert month["energy_mwh"]["p50"] == pytest.approx(1e6 * found["energy_mwh"]["p50"], rel=1e-6)


SERVED = ("--inference", "--params", "7B", "--gpu", "H100", "--requests-per-month", "1B")


def test_when_inference_passes_the_training():
    """In JSON, as a table, as a page and in a comparison: the energy of the training over that of a month."""
    trained = (*SERVED, "--zone", "FR", "--training-tokens", "2T", "--training-gpu", "A100")
    found = values(*trained)
    training = values("--params", "7B", "--tokens", "2T", "--gpu", "A100", "--zone", "FR")
    months = training["energy_mwh"]["p50"] / found["energy_mwh"]["p50"]
    assert found["months_to_training"]["p50"] == pytest.approx(months)
    assert found["months_to_training"]["p10"] < months < found["months_to_training"]["p90"]
    note = next(note for note in found["notes"] if "passes the training" in note)
    for text in (call(*trained).stdout, call(*trained, "--html").stdout):
        assert "months until it has used the training" in text
        assert " ".join(note.split()[:3]) in text
    compared = call(*trained, "--compare", "gpu=A100,H100").stdout
    assert "months to its training" in compared


def test_a_training_of_known_energy_is_passed_too():
    found = values(*SERVED, "--training-mwh", "500")
    assert found["months_to_training"]["p50"] == pytest.approx(500 / found["energy_mwh"]["p50"])
    same_gpu = values(*SERVED, "--training-tokens", "2T")["months_to_training"]
    assert (
        same_gpu == values(*SERVED, "--training-tokens", "2T", "--training-gpu", "H100")["months_to_training"]
    )
    assert values(*SERVED)["months_to_training"] is None


def test_the_table_has_the_figures_of_the_json():
    table, found = call(*LLM).stdout, values(*LLM)
    row = next(line for line in table.splitlines() if "energy with PUE, MWh" in line)
    shown = [float(text) for text in re.findall(r"[\d.]+", row.partition("MWh")[2])]
    # Two digits, since its band is wide.
    assert shown == pytest.approx(list(found["energy_mwh"].values()), rel=0.05)
    assert "The uncertainty comes from: model FLOPs utilisation" in table
    assert "[unverified]" in table and "MLPerf" in table


def test_html_is_one_page():
    page = call(*LLM, "--html").stdout
    assert page.startswith("<!doctype html>") and "<script" not in page and "GPU-hours" in page


def test_comparisons_are_sorted_by_emissions():
    found = values(*LLM, "--compare", "gpu=H100,V100,A100-80GB", "--compare", "params=100B,30B")
    by_gpu, by_size = found["comparisons"]
    for comparison in (by_gpu, by_size):
        emissions = [each["emissions_t"]["p50"] for each in comparison["forecasts"]]
        assert emissions == sorted(emissions)
    assert [each["value"] for each in by_gpu["forecasts"]][-1] == "V100"
    assert [each["value"] for each in by_size["forecasts"]] == ["30B", "100B"]
    table = call(*TRAINING, "--compare", "zone=IN,FR,CA").stdout
    rows = [line for line in table.partition("By zone")[2].splitlines() if re.match(r"\s+\S+\s+\d", line)]
    assert (len(rows) == 3 and "FR" in rows[0]) or "France" in rows[0]


@pytest.mark.parametrize("days", [30, 60])
def test_the_engineer_who_knows_parameters_gpu_days_pue_and_intensity(days):
    """With no number of GPUs it is the answer; with one, the tokens are."""
    known = ("--params", "30B", "--gpu", "A100", "--days", str(days), "--pue", "1.15", "--intensity", "350")
    free = values(*known)
    assert free["days"]["p50"] == days and free["gpus"]["p10"] < free["gpus"]["p90"]
    assert free["tokens"]["p50"] == pytest.approx(600e9)
    fixed = values(*known, "--gpus", "256")
    assert fixed["gpus"]["p50"] == 256 and fixed["tokens"]["p10"] < fixed["tokens"]["p90"]
    # The answer of one direction, asked in the other, gives the first again.
    back = values(*known, "--gpus", str(free["gpus"]["p50"]))
    assert back["tokens"]["p50"] == pytest.approx(600e9, rel=0.01)


def test_a_config_is_read(tmp_path):
    config = tmp_path / "config.json"
    config.write_text(
        json.dumps(
            {
                "model_type": "llama",
                "hidden_size": 4096,
                "intermediate_size": 11008,
                "num_attention_heads": 32,
                "num_hidden_layers": 32,
                "vocab_size": 32000,
            }
        )
    )
    found = values("--config", str(config), "--tokens", "1T", "--gpu", "H100", "--zone", "FR")
    assert found["params"]["p50"] == pytest.approx(6.74e9, rel=0.01)


WRONG = {
    "no accelerator": (("--params", "30B"), "--gpu"),
    "an unknown accelerator": (("--params", "30B", "--gpu", "H1000", "--tokens", "1T"), "H100"),
    "a number that is none": (("--params", "thirty", "--gpu", "H100"), "30B"),
    "a negative number": (("--params", "-3B", "--gpu", "H100"), "above 0"),
    "two models": (("--params", "3B", "--config", "c.json", "--gpu", "H100"), "one of them"),
    "active parameters alone": (("--active", "3B", "--gpu", "H100"), "--params"),
    "nothing to serve": (("--inference", "--gpu", "H100"), "--params or --config"),
    "an unknown field": ((*LLM, "--compare", "colour=red,blue"), "gpu=A100,H100"),
    "one value": ((*LLM, "--compare", "gpu=H100"), "gpu=A100,H100"),
    "a file that is not there": (
        ("--config", "none.json", "--gpu", "H100"),
        "none.json cannot be read: No such",
    ),
    "a folder instead of a file": (("--llmcarbon", "/"), "/ cannot be read: Is a directory"),
    "an unknown zone": (("--params", "3B", "--tokens", "1T", "--gpu", "H100", "--zone", "Atlantis"), "FR"),
    "a part of an accelerator": ((*SERVING, "--gpus", "16.5"), "a whole number"),
    "training of what is served": ((*SERVING, "--tokens", "1T"), "--tokens: of a training"),
    "serving of what is trained": ((*LLM, "--scope", "gpu"), "--scope: of serving; add --inference"),
    "a training that is passed at no rate": ((*SERVING, "--training-tokens", "2T"), "--requests-per-month"),
    "a training without its tokens": ((*SERVED, "--training-gpu", "H100"), "--training-tokens"),
    "two energies of a training": ((*SERVED, "--training-tokens", "2T", "--training-mwh", "5"), "leave out"),
    "one training of two models": (
        (*SERVED, "--training-mwh", "5", "--compare", "params=7B,30B"),
        "a training of its own",
    ),
    "a training of no energy": ((*SERVED, "--training-mwh", "-5"), "above 0"),
    "a training with more in it": ((*SERVED, "--scope", "gpu", "--training-mwh", "5"), "scope service"),
    "a training of what is trained": ((*LLM, "--training-tokens", "2T"), "add --inference"),
    "a filing as a page": ((*LLM, "--filing", "sci", "--html"), "--json"),
    "a filing of inference": ((*SERVING, "--filing", "annex-xi"), "forecast its training"),
}


@pytest.mark.parametrize("case", WRONG)
def test_an_error_says_what_to_write(case):
    arguments, remedy = WRONG[case]
    done = call(*arguments, code=2)
    assert remedy in done.output and "Traceback" not in done.output


def test_filing():
    assert call(*LLM, "--filing", "annex-xi").stdout.startswith("Estimated energy consumption of the model")
    scores = values(*LLM, "--filing", "sci")["scores"]
    assert {each["per"] for each in scores} == {
        "training token",
        "parameter",
        "FLOP (effective: model FLOPs)",
    }
    # 6 FLOPs for each parameter and token, also where days and GPUs are given and the utilisation follows.
    scores += values(*LLM, "--days", "90", "--filing", "sci")["scores"]
    for each in (scores[:3], scores[3:]):
        g = {score["per"]: score["g"]["p50"] for score in each}
        assert g["training token"] / g["FLOP (effective: model FLOPs)"] == pytest.approx(6 * 30e9, rel=0.01)
    assert {each["role"] for each in values(*SERVING, "--filing", "sci")["scores"]} == {"consumer"}


def test_the_function_gives_what_the_command_gives():
    found = values(*LLM)
    forecast = carbon_otel.forecast(
        "30B", tokens="600B", hardware="A100-80GB", gpus=256, pue=1.15, intensity=350, remember=False
    )
    assert forecast.energy_mwh.as_dict() == pytest.approx(found["energy_mwh"])


def test_compared_values_read_as_they_were_written():
    found = values(*TRAINING, "--compare", "tokens=600B,1.4T", "--compare", "gpus=128,512")
    labels = [[each["value"] for each in one["forecasts"]] for one in found["comparisons"]]
    assert labels[0] == ["600B", "1.4T"] and set(labels[1]) == {"128", "512"}


def test_the_compared_model_keeps_its_active_parameters():
    found = values(*SERVING, "--compare", "params=30B,671B")
    rows = {each["value"]: each["energy_mwh"] for each in found["comparisons"][0]["forecasts"]}
    assert rows["671B"] == found["energy_mwh"]


def test_the_label_of_the_energy_says_what_is_in_it():
    assert "energy of the gpu, Wh" in call(*SERVING, "--scope", "gpu").stdout
    assert "energy with PUE, Wh" in call(*SERVING).stdout


def test_mlcarbons_table_as_a_page():
    page = call("--llmcarbon", str(DATABASE), "--html").stdout
    assert page.startswith("<!doctype html>") and "Gshard" in page
    for wrong in (("--filing", "sci"), ("--compare", "gpu=A100,H100")):
        done = call("--llmcarbon", str(DATABASE), *wrong, code=2)
        assert wrong[0] in done.output
