"""`carbon-otel forecast`: the same figures in every format, comparisons, and errors that say what to write."""

from __future__ import annotations

import json
import re

import pytest
from typer.testing import CliRunner

import carbon_otel
from carbon_otel.cli import app

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


def test_the_table_has_the_figures_of_the_json():
    table, found = call(*LLM).stdout, values(*LLM)
    row = next(line for line in table.splitlines() if "energy with PUE, MWh" in line)
    shown = [float(text) for text in re.findall(r"[\d.]+", row.partition("MWh")[2])]
    assert shown == pytest.approx(list(found["energy_mwh"].values()), rel=1e-3)
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
    "a file that is not there": (("--config", "none.json", "--gpu", "H100"), "none.json"),
    "an unknown zone": (("--params", "3B", "--tokens", "1T", "--gpu", "H100", "--zone", "Atlantis"), "FR"),
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
    # 6 FLOPs for each parameter and token.
    g = {each["per"]: each["g"]["p50"] for each in scores}
    assert g["training token"] / g["FLOP (effective: model FLOPs)"] == pytest.approx(6 * 30e9, rel=0.01)
    assert {each["role"] for each in values(*SERVING, "--filing", "sci")["scores"]} == {"consumer"}


def test_the_function_gives_what_the_command_gives():
    found = values(*LLM)
    forecast = carbon_otel.forecast(
        "30B", tokens="600B", hardware="A100-80GB", gpus=256, pue=1.15, intensity=350, remember=False
    )
    assert forecast.energy_mwh.as_dict() == pytest.approx(found["energy_mwh"])


@pytest.mark.parametrize(
    ("arguments", "settings", "remedy"),
    [
        (("30B",), {"tokens": "1T"}, "hardware='H100'"),
        (("30B",), {"tokens": "1T", "hardware": "H100", "chips": 8}, "gpus"),
        ((None,), {"inference": True, "hardware": "H100"}, "inference=True"),
    ],
)
def test_wrong_arguments_of_the_function(arguments, settings, remedy):
    with pytest.raises(ValueError, match=re.escape(remedy)):
        carbon_otel.forecast(*arguments, **settings)


def test_an_estimator_without_its_data_is_refused():
    from sklearn.linear_model import Ridge

    with pytest.raises(ValueError, match=r"forecast\(estimator, X, y\)"):
        carbon_otel.forecast(Ridge())
    with pytest.raises(ValueError, match="leave these out"):
        carbon_otel.forecast(Ridge(), [[1.0], [2.0]], [1.0, 2.0], tokens=5)


def test_a_busy_machine_makes_the_interval_wider(monkeypatch):
    from sklearn.linear_model import Ridge

    widths = {}
    for load in (0.5, 1.0, 4.0, 9.0, 1000.0):
        monkeypatch.setattr("carbon_otel.foresight.ask._load", lambda load=load: load)
        monkeypatch.setattr("carbon_otel.foresight.ask._timed", lambda call: (call(), 0.1)[1])
        forecast = carbon_otel.forecast(
            Ridge(), [[float(i)] for i in range(50)], list(range(50)), remember=False
        )
        widths[load] = forecast.days.width
        assert any(each.name == "other work on this machine" for each in forecast.assumptions) == (load > 1)
    assert widths[0.5] == widths[1.0] < widths[4.0] < widths[9.0] == widths[1000.0]
    assert widths[4.0] > 4


def test_the_place_of_an_estimator():
    from sklearn.linear_model import Ridge

    def grid(**place):
        found = carbon_otel.forecast(
            Ridge(), [[float(i)] for i in range(50)], list(range(50)), remember=False, **place
        )
        return next(each for each in found.assumptions if each.name == "carbon intensity")

    assert grid(intensity=100).value == 100
    assert grid(zone="FR").value < grid(zone="PL").value
    assert "countries" in grid().source
    assert grid(region="gcp:europe-north1").source != grid().source
    carbon_otel.instrument(zone="FR")
    assert grid().value == grid(zone="FR").value
    with pytest.raises(ValueError, match="Atlantis"):
        grid(zone="Atlantis")


def test_an_estimator_without_a_measurement_has_an_assumed_power():
    from sklearn.linear_model import Ridge

    forecast = carbon_otel.forecast(Ridge(), [[float(i)] for i in range(50)], list(range(50)), remember=False)
    power = next(each for each in forecast.assumptions if each.name == "power")
    assert not power.verified and "instrument()" in power.source and power.low < power.value < power.high
