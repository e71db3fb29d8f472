"""The arithmetic of Patterson et al. 2021 (arXiv 2104.10350, Table 4), and the power prior on measured runs."""

from __future__ import annotations

import pytest

from carbon_otel.forecast.architecture import model_of
from carbon_otel.forecast.compute import training_flops
from carbon_otel.forecast.hardware import accelerator
from carbon_otel.forecast.power import training_power
from carbon_otel.forecast.records import Place, TrainingRequest
from carbon_otel.forecast.tables import rows
from carbon_otel.forecast.training import forecast_training

# chip, chips, days, watts with host, PUE, gross g/kWh, MWh, gross tCO2e, TFLOP/s per chip, FLOPs
TABLE_4 = {
    "Evolved Transformer NAS": ("TPU v2", 200, 6.8, 208, 1.10, 431, 7.5, 3.2, 24.8, 2.91e21),
    "T5": ("TPU v3", 512, 20, 310, 1.12, 545, 85.7, 46.7, 45.6, 4.05e22),
    "Meena": ("TPU v3", 1024, 30, 289, 1.09, 415, 232, 96.4, 42.3, 1.12e23),
    "GShard-600B": ("TPU v3", 1024, 3.1, 288, 1.09, 201, 24.1, 4.8, 48.0, 1.33e22),
    "Switch": ("TPU v3", 1024, 27, 245, 1.10, 403, 179, 72.2, 34.4, 8.22e22),
    "GPT-3": ("V100", 10_000, 14.8, 330, 1.10, 429, 1287, 552.1, 24.6, 3.14e23),
}


@pytest.mark.parametrize("name", TABLE_4)
def test_energy_and_emissions_from_chips_days_and_watts(name):
    chip, chips, days, watts, pue, intensity, mwh, tonnes, _, _ = TABLE_4[name]
    place = Place(pue=pue, intensity_g_per_kwh=intensity)
    found = forecast_training(TrainingRequest(chip, gpus=chips, days=days, watts=watts, place=place))
    assert found.gpu_hours.p10 == found.gpu_hours.p90 == chips * days * 24
    assert found.energy_mwh.p10 == found.energy_mwh.p90 == pytest.approx(mwh, rel=0.01)
    assert found.emissions_t.p50 == pytest.approx(tonnes, rel=0.015)
    assert found.emissions_kg.p50 == pytest.approx(found.energy_kwh.p50 * intensity / 1000, rel=1e-12)
    assert found.energy_kwh.p50 == pytest.approx(found.it_energy_kwh.p50 * pue, rel=1e-12)


@pytest.mark.parametrize("name", TABLE_4)
def test_days_from_flops_chips_and_utilisation(name):
    chip, chips, days, _, _, _, _, _, tflops, flops = TABLE_4[name]
    device = accelerator(chip)
    model = model_of(1e9)
    request = TrainingRequest(
        chip,
        model,
        tokens=flops / 6e9,
        gpus=chips,
        mfu=tflops * 1e12 / device.peak(None)[1],
        place=Place(zone="US"),
    )
    # The rounded days and TFLOP/s of the table.
    assert forecast_training(request).days.p50 == pytest.approx(days, rel=0.03)


def test_flops_of_gpt_3():
    """175 billion parameters and 300 billion tokens take 3.14e23 FLOPs."""
    assert training_flops(model_of("174.6B"), 300e9) == pytest.approx(3.14e23, rel=0.005)


def measured_at_the_node() -> list[dict]:
    """Runs whose watts were measured with the host's share."""
    other = ("GPU only", "RAPL", "borrowed", "not stated")
    return [
        row
        for row in rows("training_runs")
        if row["avg_power_w"] and not any(word in row["power_scope"] for word in other)
    ]


def test_the_table_of_watts_marks_what_the_prior_was_made_from(table):
    """All of it: the rows of TPU, V100 and P100 are in `node_power.csv`, the share was set by the logs of H100."""
    own = {row["name"] for row in rows("node_power")}
    found = []
    for row in measured_at_the_node():
        device = accelerator(row["chip"])
        power, _ = training_power(device, float(row["chips"]), None)
        kind = "is the prior" if device.name in own else "set its share"
        watts = [f"{w:.0f}" for w in (power.p10, power.p50, power.p90)]
        found.append((row["model"], row["chip"], row["chips"], row["avg_power_w"], *watts, kind))
    table(
        "Watts per accelerator with host: measured, and the prior's p10, p50, p90. No score: these runs made the "
        "prior, and are too few to leave any out",
        ("run", "chip", "chips", "measured", "p10", "p50", "p90", "this run"),
        found,
    )
    assert {row[-1] for row in found} == {"is the prior", "set its share"}
    assert {row[1] for row in found if row[-1] == "set its share"} == {"H100"}


def test_power_of_an_h100_node():
    """MLPerf Training v4.0, at the wall: 857 to 901 W on one node, 635 to 901 W on many."""
    one, _ = training_power(accelerator("H100"), 8, None)
    many, _ = training_power(accelerator("H100"), 512, None)
    assert one.p10 <= 857 and one.p90 >= 901
    assert many.p50 < one.p50
    assert many.p10 <= 728 and many.p90 >= 901
    for row in measured_at_the_node():
        if row["chip"] == "H100":
            power, _ = training_power(accelerator("H100"), float(row["chips"]), None)
            assert power.p10 <= float(row["avg_power_w"]) <= power.p90, row["model"]
