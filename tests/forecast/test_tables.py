"""The tables and the constants in the package: provenance row by row, and that the fit gives the constants."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from carbon_otel.carbon import embodied
from carbon_otel.carbon.regions import regions
from carbon_otel.forecast.fit.constants import compute
from carbon_otel.forecast.hardware import accelerator, catalogue
from carbon_otel.forecast.place import site_of
from carbon_otel.forecast.records import Place
from carbon_otel.forecast.tables import fitted, rows

TABLES = ("accelerators", "training_runs", "inference_runs", "node_power")


@pytest.mark.parametrize("name", TABLES)
def test_every_row_has_its_source_and_licence(name):
    assert rows(name)
    for row in rows(name):
        assert row["source"] and row["licence"], row
        assert None not in row and None not in row.values(), row


def test_every_range_encloses_its_value():
    for row in (*rows("node_power"), *embodied.rows()):
        assert float(row["low"]) <= float(row.get("value") or row["watts"]) <= float(row["high"]), row
        assert row["verified"] in ("yes", "no")
        if row.get("part", "accelerator").startswith("accelerator"):
            assert accelerator(row["name"]).name == row["name"]


def test_every_chip_of_the_runs_is_in_the_catalogue():
    for row in rows("training_runs"):
        assert accelerator(row["chip"]).peaks
    for row in rows("inference_runs"):
        assert accelerator(row["gpu"]).bytes_per_s


@pytest.mark.parametrize("device", catalogue(), ids=lambda device: device.name)
def test_a_device_is_plausible(device):
    assert accelerator(device.name) is device
    assert 2010 <= device.year <= 2026
    assert device.peak(None)[1] > 1e12
    assert device.tdp_w is None or 5 <= device.tdp_w <= 1500
    # A dense peak of lower precision is never below that of a higher one, but for integers on the newest chips.
    ordered = [device.peaks[p] for p in ("fp32", "tf32", "bf16", "fp8") if p in device.peaks]
    assert ordered == sorted(ordered)


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("H100", "H100-SXM5-80GB"),
        ("NVIDIA H100 80GB HBM3", "H100-SXM5-80GB"),
        ("NVIDIA H100 PCIe", "H100-PCIe-80GB"),
        ("a100-40gb", "A100-SXM4-40GB"),
        ("NVIDIA A100-SXM4-80GB", "A100-SXM4-80GB"),
        ("NVIDIA A100 80GB PCIe", "A100-PCIe-80GB"),
        ("Tesla V100-SXM2-16GB", "V100-SXM2-16GB"),
        ("Tesla T4", "T4"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("NVIDIA GH200 480GB", "GH200"),
        ("AMD Instinct MI300X", "MI300X"),
        ("tpu-v5p", "TPU v5p"),
        ("Trillium", "TPU v6e"),
    ],
)
def test_a_device_by_the_names_that_drivers_and_people_use(spelling, name):
    assert accelerator(spelling).name == name


@pytest.mark.parametrize(("wrong", "near"), [("H1000", "H100-SXM5-80GB"), ("RTX 4080", "RTX 4090")])
def test_an_unknown_device_is_an_error_with_the_nearest_names(wrong, near):
    with pytest.raises(ValueError, match=near) as error:
        accelerator(wrong)
    assert repr(wrong) in str(error.value)


@pytest.mark.parametrize("wrong", ["", "  ", "\x00", "🦙"])
def test_any_other_text_is_a_value_error(wrong):
    with pytest.raises(ValueError, match="such as H100"):
        accelerator(wrong)


def test_the_shipped_constants_are_those_that_the_fit_gives():
    """`python -m carbon_otel.forecast.fit` writes them; another machine may differ in the last digits."""
    assert flat(compute()) == pytest.approx(flat(fitted()), rel=1e-4)


def flat(content: object, name: str = "") -> dict[str, float]:
    """Every number of a nested content by its path."""
    if isinstance(content, dict):
        return {k: v for key, each in content.items() for k, v in flat(each, f"{name}/{key}").items()}
    if isinstance(content, list):
        return {k: v for i, each in enumerate(content) for k, v in flat(each, f"{name}/{i}").items()}
    return {name: content} if isinstance(content, int | float) else {f"{name}={json.dumps(content)}": 0.0}


def test_importing_the_package_reads_no_table_of_the_forecast():
    program = "import sys, carbon_otel; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not [name for name in done.stdout.split() if name.startswith("carbon_otel.forecast.")]


class TestPlaces:
    @pytest.mark.parametrize("region", regions())
    def test_every_region_has_a_site(self, region):
        site = site_of(Place(region=region))
        assert 1 <= site.pue.p10 <= site.pue.p90 < 2.2
        assert 0 < site.g_per_kwh.p50 < 1000

    def test_the_order_is_given_then_zone_then_region(self):
        region_, zone = Place(region="gcp:asia-south1"), Place(region="gcp:asia-south1", zone="FR")
        assert site_of(zone).g_per_kwh.p50 < site_of(region_).g_per_kwh.p50
        given = Place(region="gcp:asia-south1", zone="FR", intensity_g_per_kwh=7, pue=1.5, water_l_per_kwh=2)
        site = site_of(given)
        assert (site.g_per_kwh.p50, site.pue.p50, site.water_l_per_it_kwh.width) == (7, 1.5, 1)
        assert {each.source for each in site.assumptions} == {"given"}

    def test_an_unknown_place_has_the_worlds_range_and_says_so(self):
        site = site_of(Place())
        assert site.g_per_kwh.width > 5
        assert any("place is unknown" in note for note in site.notes)

    def test_a_zone_of_direct_emissions_is_forecast_with_an_estimate_of_its_life_cycle(self):
        """By hand: eGRID SRVC 2023 270.5 direct, and its fuel mix by the IPCC medians 61.6 upstream."""
        site = site_of(Place(zone="US-SRVC"))
        assert site.g_per_kwh.p50 == pytest.approx(270.5 + 61.6)
        assert any("270.5 g/kWh" in note and "estimate" in note for note in site.notes)

    def test_direct_emissions_without_a_known_mix_have_a_wider_band_and_a_note(self):
        site = site_of(Place(zone="CA-QC"))
        assert (site.g_per_kwh.p50, site.g_per_kwh.p90) == pytest.approx((2.6, 2.6 * 1.4 + 40))
        assert any("leaves out the life cycle" in note for note in site.notes)
