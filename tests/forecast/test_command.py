"""`carbon-otel forecast`: the same figures in every format, comparisons, and errors that say what to write."""

from __future__ import annotations

import contextlib
import json
import os
import re
from dataclasses import replace

import pytest
from typer.testing import CliRunner

import carbon_otel
from carbon_otel.cli import app
from carbon_otel.footprint import NOT_MEASURED
from carbon_otel.forecast.records import Forecast, Interval
from carbon_otel.foresight import other_work
from carbon_otel.foresight.ask import _power
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
    "a part of an accelerator": ((*SERVING, "--gpus", "16.5"), "a whole number"),
    "training of what is served": ((*SERVING, "--tokens", "1T"), "--tokens: of a training"),
    "serving of what is trained": ((*LLM, "--scope", "gpu"), "--scope: of serving; add --inference"),
    "a training that is passed at no rate": ((*SERVING, "--training-tokens", "2T"), "--requests-per-month"),
    "a training without its tokens": ((*SERVED, "--training-gpu", "H100"), "--training-tokens"),
    "two energies of a training": ((*SERVED, "--training-tokens", "2T", "--training-mwh", "5"), "leave out"),
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
        monkeypatch.setattr(os, "getloadavg", lambda load=load: (load * (os.cpu_count() or 1), 0, 0))
        monkeypatch.setattr("carbon_otel.foresight.other_work._others_s", lambda: 0.0)
        monkeypatch.setattr("carbon_otel.foresight.ask._timed", lambda call: (call(), 0.1)[1])
        forecast = carbon_otel.forecast(
            Ridge(), [[float(i)] for i in range(50)], list(range(50)), remember=False
        )
        widths[load] = forecast.days.width
        assert any(each.name == "other work on this machine" for each in forecast.assumptions) == (load > 1)
    assert widths[0.5] == widths[1.0] < widths[4.0] < widths[9.0] == widths[1000.0]
    assert widths[4.0] > 4


def test_what_others_take_in_the_small_fits_makes_the_interval_wider(monkeypatch):
    """The load average lags behind by a minute."""
    monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 0.0, 0.0))
    one = Interval.exact(1.0)
    made = Forecast("estimator", "a forest", "node", one, one, one, (), days=one)
    processors, widths = os.cpu_count() or 1, []
    for share in (0.0, 0.25, 0.5, 1.0, None):
        readings = iter([0.0, 10.0 * share * processors] if share is not None else [None, None])
        times = iter([100.0, 110.0])
        monkeypatch.setattr(other_work, "_others_s", readings.__next__)
        monkeypatch.setattr(other_work.clock, "monotonic", times.__next__)
        with other_work.OtherWork() as others:
            pass
        widths.append(others.widened(made).it_energy_kwh.width)
    alone = made.it_energy_kwh.width
    assert widths[0] == widths[4] == alone < widths[1] < widths[2] < widths[3]
    assert widths[3] < 4 * alone


def test_the_power_of_short_fits_has_a_wide_interval():
    def width(seconds):
        figures = replace(
            NOT_MEASURED,
            energy_j=50 * seconds,
            duration_s=seconds,
            method="measured.counter",
            measured_fraction=1.0,
        )
        power = _power(figures)
        assert power.watts.p50 == pytest.approx(50)
        return power.watts.width

    assert 1.1 < width(100) < width(2) < width(1) < 1.5 < width(0.1)


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


def test_numbers_may_be_written_as_people_write_them():
    settings = {"tokens": "600B", "hardware": "A100", "intensity": 350, "remember": False}
    written = carbon_otel.forecast("30B", gpus="256", rl_tokens="1B", **settings)
    assert written == carbon_otel.forecast("30B", gpus=256.0, rl_tokens=1e9, **settings)
    numpy = pytest.importorskip("numpy")
    assert carbon_otel.forecast(numpy.int64(30_000_000_000), gpus=256, rl_tokens=1e9, **settings) == written


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"gpus": "many"}, ValueError, "gpus is 'many'"),
        ({"hardware": None}, ValueError, "hardware is None; write its name, such as 'H100', or 'auto'"),
        ({"tokens": [1e9]}, ValueError, "tokens is"),
        ({"tuning": "qlora"}, ValueError, "unknown tuning 'qlora'; write full or lora"),
        ({"source": "none/config.json"}, OSError, "none/config.json"),
    ],
)
def test_a_setting_that_makes_no_sense_is_named(settings, error, message):
    settings = {"source": "30B", "hardware": "A100", "remember": False, **settings}
    with pytest.raises(error, match=re.escape(message)):
        carbon_otel.forecast(**settings)


@pytest.mark.parametrize("value", [-1, "", "x", float("nan"), [], {}, object(), True, None])
def test_no_setting_of_another_type_gets_further_than_a_message(value):
    """What makes sense is taken; everything else is a ValueError, in training and in inference."""
    settings = {
        False: "hardware epochs gpus days precision seq_len tuning mfu watts idle past rl_tokens lifetime_years",
        True: "hardware gpus concurrency precision input_tokens requests_per_month scope training",
    }
    for inference, names in settings.items():
        for name in (*names.split(), "zone", "region", "intensity", "pue", "active", "chips"):
            wanted = {"hardware": "H100", "inference": inference, "remember": False, name: value}
            with contextlib.suppress(ValueError):
                assert carbon_otel.forecast("7B", **wanted).energy_kwh.p50 > 0, name


def test_an_estimator_refuses_what_it_would_ignore():
    from sklearn.linear_model import Ridge

    rows = [[float(i)] for i in range(10)]
    for settings, message in (({"hardware": "H100"}, "hardware"), ({"budget_s": -1}, "budget_s is -1")):
        with pytest.raises(ValueError, match=message):
            carbon_otel.forecast(Ridge(), rows, rows, **settings)
    with pytest.raises(ValueError, match="X has 10 rows, y has 9"):
        carbon_otel.forecast(Ridge(), rows, rows[:9])


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


def test_an_estimator_says_what_its_uncertainty_comes_from():
    from sklearn.linear_model import Ridge

    rows = [[float(i)] for i in range(100)]
    found = carbon_otel.forecast(Ridge(), rows, rows, remember=False)
    assert sum(each.share for each in found.influences) == pytest.approx(1)
    assert "carbon intensity" in {each.name for each in found.influences}
