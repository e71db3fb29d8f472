"""What MLflow's pages show of a run, the hidden tags with the rest, and runs that move."""

from __future__ import annotations

from dataclasses import replace

import pytest

from carbon_otel.carbon.intensity import AVERAGE, Intensity
from carbon_otel.lifecycle.by_hour import reprice
from carbon_otel.lifecycle.entry import Entry
from carbon_otel.mlflow.delivery.joined_file import JoinedFiles
from carbon_otel.mlflow.delivery.segment import Segment
from carbon_otel.mlflow.schema import contributions, hourly, metric_points, names, pages
from carbon_otel.mlflow.schema.contributions import Contribution
from carbon_otel.provenance import Band
from tests.unit.test_checked import FIGURES, TAGS, run
from tests.unit.test_delivery_worker import Controlled, Store, batch
from tests.unit.test_joined_file import ADDRESS, part
from tests.unit.test_segment import BEGIN_S, figures

pytest.importorskip("mlflow")


@pytest.mark.parametrize(
    ("figure", "metric"),
    [
        ("carbon/energy_kwh", "carbon/energy_kwh"),
        ("carbon/training/energy_wh", "carbon/training/energy_wh"),
        ("carbon/my_stage/emissions_g", "carbon/my_stage/emissions_g"),
        ("carbon/training/j_per_1k_samples", "carbon/training/j_per_1k_samples"),
        ("carbon/inference/sci_g_per_1k_requests", "carbon/inference/sci_g_per_1k_requests"),
        ("carbon/power/gpu-0_w", "system/carbon/power/gpu-0_w"),
        ("carbon/components/cpu_wh", "system/carbon/components/cpu_wh"),
        ("carbon/forecast/delta", "carbon/forecast/delta"),
        ("carbon/forecast/energy_p10_wh", None),
        ("carbon/run/energy_wh", None),
        ("carbon/nested/training/energy_wh", None),
        ("carbon/energy_low_wh", None),
        ("carbon/devices/gpu-0_wh", None),
        ("carbon/units/training/samples", None),
        ("carbon/training/sci_g_per_1k_samples", None),
    ],
)
def test_the_metric_that_shows_a_figure(figure, metric):
    assert pages.metric(figure) == metric
    assert metric is None or pages.figure(metric) == figure


def test_a_metric_of_an_earlier_version_shows_the_figure_of_its_name():
    assert pages.figure("carbon/components/cpu_wh") == "carbon/components/cpu_wh"
    assert pages.figure("system/cpu_utilization_percentage") is pages.figure("accuracy") is None


def test_the_totals_come_first_and_then_the_stages_of_a_pipeline():
    shuffled = ["evaluation/energy_wh", "training/emissions_g", "emissions_g", "tuning/energy_wh",
                "data_processing/energy_wh", "training/energy_wh", "energy_kwh", "forecast/delta"]  # fmt: skip
    assert sorted((f"carbon/{name}" for name in shuffled), key=pages.order) == [
        "carbon/energy_kwh",
        "carbon/emissions_g",
        "carbon/data_processing/energy_wh",
        "carbon/tuning/energy_wh",
        "carbon/training/energy_wh",
        "carbon/training/emissions_g",
        "carbon/evaluation/energy_wh",
        "carbon/forecast/delta",
    ]


def test_sums_get_their_zero_once_and_means_none():
    begun: set[str] = set()
    values = {"carbon/energy_wh": 2.0, "carbon/training/j_per_1k_samples": 7.0, "carbon/power/cpu_w": 5.0}
    first = metric_points.new(values, 3, 5000, 1000, begun)
    assert [(m.key, m.value, m.step, m.timestamp) for m in first] == [
        ("carbon/energy_wh", 0.0, 0, 1000),
        ("carbon/energy_wh", 2.0, 4, 5000),
        ("carbon/training/j_per_1k_samples", 7.0, 0, 5000),
        ("system/carbon/power/cpu_w", 5.0, 4, 5000),
    ]
    assert len(metric_points.new(values, 4, 6000, 1000, begun)) == 3


def test_parts_of_the_runs_of_this_process_have_numbers_and_those_of_others_ids(tmp_path):
    store, opener, files = Store(), Controlled(tmp_path), JoinedFiles(tmp_path)
    opener.put(replace(batch(1, 1.0, final=False), contribution_id=contributions.CREATOR), store)
    assert opener.wait(20)
    for number in range(3):
        files.put(ADDRESS, part(0.5, writer=f"child{number}"))
    files.put(ADDRESS, part(0.5, run_id="other", writer="child"))
    assert opener.flush(20)
    opener.put(replace(batch(1, 1.0, step=1), contribution_id=contributions.CREATOR), store)
    assert opener.wait(20)
    opener.close(20)
    ours = {name for name in store.tags["r"] if name.startswith(pages.HIDDEN)}
    assert ours == {f"{pages.HIDDEN}{name}" for name in ("run", "1", "2", "3")}
    assert store.values("r")[-1] == 2.5
    assert f"{pages.HIDDEN}child" in store.tags["other"]
    written = contributions.read(store.tags["r"])
    assert written.keys() == {"run", "child0", "child1", "child2"}


def test_a_part_that_two_processes_have_sent_counts_once():
    """The process of the run has sent a state under a number, and after its end another one a later state."""
    former = Contribution({names.ENERGY_WH: 2.0}).written("0123456789ab", "1")
    later = Contribution({names.ENERGY_WH: 3.0}, final=True).written("0123456789ab")
    for tags in (former | later, later | former):
        assert contributions.total(contributions.read(tags).values()).values[names.ENERGY_WH] == 3.0


FR = {"carbon.zone": "FR", "carbon.pue": "1", "carbon.lifetime_years": "4"}
PL = {"carbon.zone": "PL", "carbon.pue": "1.5", "carbon.lifetime_years": "6"}


def test_a_run_that_moves_within_a_process_keeps_the_energy_of_each_place():
    segment = Segment(1, BEGIN_S, run_id="r")
    segment.opening(FR)
    segment.state(figures(100, 900), FR, 900)
    batch = segment.state(figures(400, 1800), PL, 1800)
    own = Contribution(
        batch.values, batch.hourly, tags=PL, places=contributions.places.parsed([*batch.places])
    )
    french, polish = contributions.places_of(own.written("run"))
    assert (french.energy_wh * 3600, polish.energy_wh * 3600) == pytest.approx((100, 300))
    assert french.emissions_g + polish.emissions_g == pytest.approx(batch.values["carbon/emissions_g"])
    whole = hourly.parsed(batch.hourly)
    assert sum(whole.values()) * 3600 == pytest.approx(400)
    assert hourly.parsed(hourly.added(french.hourly, polish.hourly)) == pytest.approx(whole)
    assert segment.state(figures(500, 1900), PL, 1900).places[0]["tags"]["carbon.zone"] == "FR"


def moved():
    half = {name: value / 2 for name, value in FIGURES.items()}
    at = {"hourly": "2026-11-24T13=1.5"}
    first = Contribution(half, **at, final=True, tags={**TAGS, **FR, "carbon.updated_at": "2026-11-24"})
    second = Contribution(half, **at, final=True, tags={**TAGS, **PL, "carbon.updated_at": "2026-11-25"})
    shown = {"carbon.status": "final", "carbon.zone": "PL"}
    return run({}, shown | first.written("run") | second.written("0123456789ab"))


def test_a_run_of_two_places_names_both():
    entry = Entry.of(moved())
    assert entry.energy_wh == 3.0
    assert entry.tags["carbon.zone"] == "FR, PL" and entry.tags["carbon.lifetime_years"] == "4, 6"
    assert names.pue(entry.tags) == 1.25
    assert [place.energy_wh for place in entry.places] == [1.5, 1.5]


def test_a_run_of_two_places_is_not_priced_by_the_grid_of_one_of_them():
    with pytest.raises(ValueError, match=r"has run in FR, PL; name the part to price: --zone FR"):
        _reprice(None)
    with pytest.raises(ValueError, match="has run in FR, PL, so it is not priced by the grid of DE"):
        _reprice("DE")
    priced = _reprice("FR")
    assert priced.priced.share == pytest.approx(0.5)
    assert priced.priced.emissions_g == pytest.approx(1.5 * 100 / 1000)
    assert priced.yearly_g == pytest.approx(0.5)


class Grid:
    """100 g/kWh at all times."""

    name, signal = "grid", AVERAGE

    def history(self, zone, start, end):
        return [
            Intensity(
                zone, zone, 100.0, start, end, Band(0.9, 1.1, "", "estimate"), "a test", "CC0", signal=AVERAGE
            )
        ]


def _reprice(zone):
    return reprice(moved(), Grid(), zone)
