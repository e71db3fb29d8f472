"""What is filed: an Annex XI paragraph and the scores of SCI for AI, from a forecast or from a ledger."""

from __future__ import annotations

import json

import pytest

from carbon_otel.forecast.filing import annex_xi, sci_ai
from carbon_otel.forecast.records import Assumption, Forecast, Interval, Phase
from carbon_otel.lifecycle.beside import NOTHING_BESIDE, EntryBeside
from carbon_otel.lifecycle.entry import Entry, LedgerCost
from carbon_otel.lifecycle.ledger import Ledger
from carbon_otel.lifecycle.report import report_of

ENERGY = Interval(80_000.0, 100_000.0, 130_000.0)
CARBON = Interval(28_000.0, 35_000.0, 46_000.0)


def training() -> Forecast:
    return Forecast(
        kind="training",
        title="30B parameters",
        scope="node",
        energy_kwh=ENERGY,
        it_energy_kwh=ENERGY.times(1 / 1.15),
        emissions_kg=CARBON,
        assumptions=(Assumption("node power", 700.0, 600.0, 800.0, "W", "memory", verified=False),),
        flops=Interval.exact(1e23),
        tokens=Interval.exact(6e11),
        params=Interval.exact(3e10),
        embodied_kg=Interval.exact(5_000.0),
        phases=(
            Phase("training", ENERGY, CARBON, "the forecast"),
            Phase("development", ENERGY.times(0.5), CARBON.times(0.5), "0.5 of it"),
            Phase("inference", ENERGY.times(9), CARBON.times(9), "a month"),
        ),
    )


def inference() -> Forecast:
    return Forecast(
        kind="inference",
        title="serving",
        scope="node",
        energy_kwh=Interval.exact(1.2),
        it_energy_kwh=Interval.exact(1.0),
        emissions_kg=Interval.exact(0.48),
        embodied_kg=Interval.exact(0.12),
        assumptions=(),
        j_per_output_token=Interval(2.0, 3.0, 4.0),
        j_per_input_token=Interval(0.1, 0.2, 0.3),
    )


def ledger(measured_wh=90.0, beside=NOTHING_BESIDE):
    entry = Entry(
        run_id="0" * 32,
        name="a run",
        experiment_id="1",
        status="FINISHED",
        start_ms=0,
        stages={"training": LedgerCost(80.0, 40.0), "inference": LedgerCost(20.0, 10.0)},
        low_wh=90.0,
        high_wh=120.0,
        low_g=25.0,
        high_g=75.0,
        measured_wh=measured_wh,
        duration_s=3600.0,
        units={"training/tokens": 1000.0, "inference/tokens": 100.0},
        components={},
        tags={"carbon.status": "final", "carbon.method": "measured.counter"},
        beside=beside,
    )
    return report_of(Ledger("churn", (entry,)))


def test_the_paragraph_of_a_forecast_says_estimated_method_and_interval():
    filed = annex_xi(training())
    assert filed.text.startswith(
        "Estimated energy consumption of the model (30B parameters): 150 MWh (120 to 195)"
    )
    for part in ("training, development", "10th and 90th percentile", "Annex XI", "not verified: node power"):
        assert part in filed.text
    figures = filed.as_dict()
    assert figures["status"] == "estimated"
    assert figures["energy_mwh"] == {"p10": 120.0, "p50": 150.0, "p90": 195.0}
    json.dumps(figures)


def test_a_forecast_of_inference_cannot_be_filed_as_the_model():
    with pytest.raises(ValueError, match="forecast its training"):
        annex_xi(inference())


@pytest.mark.parametrize(("measured_wh", "status"), [(90.0, "Known"), (10.0, "Estimated")])
def test_the_paragraph_of_a_ledger_is_known_only_if_sensors_measured_it(measured_wh, status):
    filed = annex_xi(ledger(measured_wh))
    assert filed.text.startswith(f"{status} energy consumption of the model (churn): 80.0 Wh (72.0 to 96.0)")
    assert "measured.counter" in filed.text and "for training, in 1 recorded runs" in filed.text
    json.dumps(filed.as_dict())


def test_the_providers_score_has_every_phase_but_inference_and_the_embodied_carbon():
    scores = {(s["role"], s["per"]): s["g"]["p50"] for s in sci_ai(training()).as_dict()["scores"]}
    grams = (35_000 * 1.5 + 5_000) * 1000
    assert scores == pytest.approx(
        {
            ("provider", "training token"): grams / 6e11,
            ("provider", "parameter"): grams / 3e10,
            ("provider", "FLOP (effective: model FLOPs)"): grams / 1e23,
        }
    )


def test_the_consumers_score_is_per_token_with_the_sites_overhead():
    scores = {(s["role"], s["per"]): s["g"] for s in sci_ai(inference()).as_dict()["scores"]}
    # 3 J of IT energy, 1.2 of PUE, 500 g per kilowatt-hour at the meter.
    assert scores["consumer", "output token"]["p50"] == pytest.approx(3 * 1.2 / 3.6e6 * 500)
    assert scores["consumer", "input token"]["p90"] == pytest.approx(
        1.2 / 3.6e6 * (0.3 * 400 + 0.2 * 100)  # the making is known exactly here
    )


def test_the_consumers_interval_has_the_uncertainty_of_the_grid():
    from dataclasses import replace

    grid = replace(inference(), emissions_kg=Interval(0.24, 0.48, 0.96), embodied_kg=None)
    scores = {(s["role"], s["per"]): s["g"] for s in sci_ai(grid).as_dict()["scores"]}
    found = Interval(**scores["consumer", "output token"])
    expected = Interval(2.0, 3.0, 4.0) * Interval(0.5, 1.0, 2.0)
    assert found.width == pytest.approx(expected.width)


def test_a_ledger_has_both_scores_and_says_that_they_must_not_be_added():
    filed = sci_ai(ledger())
    scores = {(s["role"], s["per"]): s["g"]["p50"] for s in filed.as_dict()["scores"]}
    assert scores == {("provider", "training token"): 0.04, ("consumer", "token"): 0.1}
    assert "must not be added" in filed.text and "without embodied" in filed.text


def test_the_scores_of_a_ledger_have_its_embodied_carbon_if_that_is_known():
    made = EntryBeside({"training": 20.0, "inference": 4.0}, 12.0, 48.0)
    filed = sci_ai(ledger(beside=made))
    scores = {(s["role"], s["per"]): s["g"] for s in filed.as_dict()["scores"]}
    assert scores["provider", "training token"]["p50"] == pytest.approx((40 + 20) / 1000)
    assert scores["consumer", "token"]["p50"] == pytest.approx((10 + 4) / 100)
    assert filed.as_dict()["embodied"] is True and "with embodied" in filed.text


def test_without_a_unit_there_is_no_score():
    from dataclasses import replace

    with pytest.raises(ValueError, match=r"stage\.units"):
        sci_ai(replace(training(), tokens=None, params=None, flops=None))
