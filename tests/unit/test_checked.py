"""Tags and metrics that were cut, changed or invented: they never stop a reader, and their runs are named."""

from __future__ import annotations

import gc
import json
import math
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbon_otel.cli.report import _without_collections
from carbon_otel.lifecycle.comparison import NotMeasured, RunCost, differences, verdict
from carbon_otel.lifecycle.entry import Entry
from carbon_otel.lifecycle.ledger import NotFound, read
from carbon_otel.lifecycle.report import report_of
from carbon_otel.mlflow.runs import orphans
from carbon_otel.mlflow.schema import contributions, hourly, names
from carbon_otel.mlflow.schema.checked import Unreadable

FIGURES = {
    "carbon/energy_wh": 3.0,
    "carbon/emissions_g": 1.0,
    "carbon/energy_low_wh": 2.5,
    "carbon/energy_high_wh": 3.5,
    "carbon/emissions_low_g": 0.5,
    "carbon/emissions_high_g": 1.5,
    "carbon/energy_measured_wh": 3.0,
    "carbon/duration_s": 60.0,
    "carbon/inference/energy_wh": 3.0,
    "carbon/inference/emissions_g": 1.0,
    "carbon/units/inference/requests": 10.0,
    "carbon/components/cpu_wh": 3.0,
}
TAGS = {
    "carbon.status": "final",
    "carbon.hardware": "a",
    "carbon.zone": "FR",
    "carbon.pue": "1.5",
    "carbon.hourly_wh": "2026-11-24T13=3",
    "carbon.entry_id": "e",
}


def run(metrics=FIGURES, tags=TAGS, name="run", run_id="r", start_time=1_800_000_000_000):
    info = SimpleNamespace(
        run_id=run_id, run_name=name, experiment_id="1", status="FINISHED", start_time=start_time
    )
    return SimpleNamespace(
        info=info,
        data=SimpleNamespace(
            metrics=dict(metrics),
            params={},
            tags=dict(tags),
            _metric_objs=[
                SimpleNamespace(key=name, value=value, timestamp=start_time or 0, step=0)
                for name, value in metrics.items()
            ],
        ),
        inputs=SimpleNamespace(dataset_inputs=[]),
    )


class Page(list):
    token = None


class Client:
    """An MLflow store with these runs in one experiment, `churn`."""

    def __init__(self, *runs):
        self.runs = runs
        self.ended = []

    def get_experiment_by_name(self, name):
        return SimpleNamespace(experiment_id="1", name="churn") if name == "churn" else None

    def search_experiments(self, page_token=None):
        return Page([SimpleNamespace(experiment_id="1", name="churn")])

    def search_model_versions(self, condition):
        return Page()

    def search_runs(self, experiments, condition="", max_results=0, order_by=None, page_token=None):
        self.collects_garbage = gc.isenabled()
        # The part of the time without a lower limit has all runs.
        return Page(self.runs[:1] if order_by else self.runs if ">=" not in condition else ())

    def log_batch(self, run_id, metrics=(), params=(), tags=()):
        pass

    def set_terminated(self, run_id, status, end_time):
        self.ended.append(run_id)


@pytest.fixture
def _mlflow():
    """Reading a ledger needs MLflow's exceptions."""
    pytest.importorskip("mlflow")


def with_kinds(kinds):
    """Figures with a number of further kinds of stage."""
    figures = dict(FIGURES)
    for number in range(kinds):
        figures[f"carbon/stage_number_{number}/energy_wh"] = 1.0 / (number + 3)
        figures[f"carbon/stage_number_{number}/emissions_g"] = 2.0 / (number + 3)
        figures[f"carbon/units/stage_number_{number}/requests"] = 7.0
    return figures


def window(kinds):
    """The metrics and tags of a window with such figures."""
    return names.pack(with_kinds(kinds), TAGS)


@pytest.mark.parametrize("kinds", [1, 20, 80, 1000])
def test_a_window_of_any_size_is_read_back_to_the_last_figure(kinds):
    metrics, tags = window(kinds)
    assert max(map(len, tags.values())) <= 8000
    assert names.unpack(metrics, tags) == (with_kinds(kinds), TAGS)
    assert len(Entry.of(run(metrics, tags)).stages) == kinds + 1


def test_a_shorter_window_leaves_further_tags_of_the_longer_one():
    longer, shorter = window(200), window(1)
    tags = longer[1] | shorter[1]
    assert len(tags) > len(shorter[1])
    assert names.unpack(shorter[0], tags) == names.unpack(*shorter)


def test_one_tag_of_an_earlier_version():
    content = json.dumps({"metrics": {"carbon/duration_s": 1}, "tags": {"carbon.zone": "FR"}})
    assert names.unpack({}, {"carbon.window": content}) == ({"carbon/duration_s": 1}, {"carbon.zone": "FR"})


def packed(content):
    return {"carbon.status": "final", names.WINDOW: content}


METRICS = {"carbon/energy_wh": 3.0, "carbon/emissions_g": 1.0}
WINDOWS = [
    "",
    window(1)[1][names.WINDOW][:40],
    "[]",
    "null",
    "{}",
    '{"metrics":{},"tags":null}',
    '{"metrics":[],"tags":{}}',
    '{"metrics":{"carbon/duration_s":"60"},"tags":{}}',
    '{"metrics":{"carbon/duration_s":true},"tags":{}}',
    '{"metrics":{"carbon/duration_s":Infinity},"tags":{}}',
    '{"metrics":{"carbon/duration_s":1e999},"tags":{}}',
    '{"metrics":{"carbon/duration_s":' + "9" * 400 + '},"tags":{}}',
    '{"metrics":{},"tags":{"carbon.zone":5}}',
    '{"metrics":{},"tags":{"carbon.zone":"\\ud800"}}',
    '{"metrics":{"carbon/\\udfff/energy_wh":1},"tags":{}}',
    '{"metrics":' + "[" * 100_000,
]


def changed(metrics=(), tags=()):
    return run({**FIGURES, **dict(metrics)}, {**TAGS, **dict(tags)}, name="bad")


def without(*figures):
    return run({name: value for name, value in FIGURES.items() if name not in figures}, name="bad")


BAD_RUNS = [
    *(run(METRICS, packed(content), name="bad") for content in WINDOWS),
    changed({"carbon/energy_wh": math.inf}),
    changed({"carbon/energy_wh": -3.0}),
    changed({"carbon/energy_wh": 1e30}),
    changed({"carbon/inference/energy_wh": -3.0}),
    changed({"carbon/inference/emissions_g": -3.0}),
    changed({"carbon/inference/emissions_g": math.nan}),
    changed({"carbon/energy_low_wh": math.nan}),
    without("carbon/inference/emissions_g"),
    without("carbon/emissions_high_g"),
    changed(tags={"carbon.pue": "cheap"}),
    changed(tags={"carbon.pue": "nan"}),
    changed(tags={"carbon.pue": "-1"}),
    run(name="bad", start_time=None),
    run(name="bad", start_time=-5),
    run(name="bad", start_time=1 << 62),
]


@pytest.mark.usefixtures("_mlflow")
@pytest.mark.parametrize("bad", BAD_RUNS, ids=range(len(BAD_RUNS)))
def test_a_run_that_cannot_be_read_is_named_and_the_others_are_added_up(bad):
    ledger = read(Client(bad, run(name="good")), "churn")
    assert [entry.name for entry in ledger.entries] == ["good"]
    (line,) = ledger.unreadable
    assert line.startswith("bad: ") and len(line) > len("bad: ")
    report = report_of(ledger, zone="PL")
    assert report.total.energy_wh == pytest.approx(3.0)
    assert report.unreadable == (line,) and report.as_dict()["unreadable"] == [line]
    assert ledger.unmeasured == ()


@pytest.mark.usefixtures("_mlflow")
def test_a_lineage_of_which_no_run_can_be_read_says_so():
    with pytest.raises(NotFound, match=r"none of its runs can be read; bad: carbon.pue is 'cheap'"):
        read(Client(changed(tags={"carbon.pue": "cheap"})), "churn")


@pytest.mark.usefixtures("_mlflow")
def test_a_ledger_is_read_with_the_garbage_collector_of_the_application_left_on():
    client = Client(run())
    read(client, "churn")
    assert client.collects_garbage and gc.isenabled()


@pytest.mark.parametrize("enabled", [True, False])
def test_the_command_reads_without_the_collector_and_leaves_it_as_it_was(enabled):
    was_enabled = gc.isenabled()
    (gc.enable if enabled else gc.disable)()
    try:
        with _without_collections():
            assert not gc.isenabled()
        assert gc.isenabled() is enabled
    finally:
        (gc.enable if was_enabled else gc.disable)()


@pytest.mark.usefixtures("_mlflow")
def test_energy_that_is_nan_was_not_measured():
    ledger = read(Client(changed({"carbon/energy_wh": math.nan}), run(name="good")), "churn")
    assert ledger.unmeasured == ("bad",) and ledger.unreadable == ()


@pytest.mark.parametrize("content", WINDOWS, ids=range(len(WINDOWS)))
def test_an_unreadable_orphan_is_named_and_not_changed(content):
    bad = run(tags={"carbon.status": "running", names.WINDOW: content}, run_id="bad")
    client = Client(bad)
    found = orphans.find(client)
    assert found.runs == [] and found.unreadable[0].startswith("bad: ")
    assert orphans.reconcile(client) == client.ended == []


@pytest.mark.parametrize("at", ["", "soon", "0000-00-00T00:00:00Z", "0001-01-01T00:00:00Z", "9" * 5000])
def test_a_checkpoint_without_a_time_counts_from_the_start_of_its_run(at):
    began = run(tags={"carbon.updated_at": at}, start_time=1000)
    assert orphans._wrote_s(began, began.data.tags) == 1.0
    assert orphans._wrote_s(run(start_time=None), {}) == 0.0


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        '{"values":{},"hourly":"","step":0}',
        '{"values":{"a":"1"},"hourly":"","step":0,"final":true}',
        '{"values":{"a":1e999},"hourly":"","step":0,"final":true}',
        '{"values":{},"hourly":5,"step":0,"final":true}',
        '{"values":{},"hourly":"","step":-1,"final":true}',
        '{"values":{},"hourly":"","step":1.5,"final":true}',
        '{"values":{},"hourly":"","step":' + "9" * 30 + ',"final":true}',
        '{"values":{},"hourly":"","step":0,"final":"yes"}',
    ],
)
def test_a_contribution_with_wrong_types_is_empty_and_unfinished(text):
    tags = {f"{contributions.PREFIX}x": text}
    assert contributions.read(tags) == {"x": contributions.Contribution(readable=False)}
    entry = Entry.of(run(tags=TAGS | tags))
    assert entry.energy_wh == 3.0 and entry.lower_bound == "has not ended in order"


@pytest.mark.parametrize(
    ("text", "shares"),
    [
        ("2026-11-24T13=1 2026-12", {"2026-11": 1.0}),
        ("2026-11-24T13=1=2 2026-12=nan 2026-10=1e999 =5 x=1", {}),
        ("2026-11=-1 2026-12=2", {"2026-12": 1.0}),
        ("2026-11=0 " + "9" * 5000 + "=1", {}),
    ],
)
def test_hours_that_cannot_be_read_are_left_out(text, shares):
    assert hourly.shares(text, hourly.MONTH) == shares
    assert hourly.added(text, "2026-11-24T13=1")


def test_unreadable_runs_in_a_comparison():
    with pytest.raises(Unreadable, match=r"mlflow\.carbon_otel\.window is cut"):
        RunCost.of("1", "a", METRICS, packed(WINDOWS[1]))
    with pytest.raises(Unreadable, match="carbon/energy_wh is -3"):
        RunCost.of("1", "a", {"carbon/energy_wh": -3.0}, {})
    part = contributions.Contribution(METRICS, final=True)
    tags = {"carbon.status": "final"} | part.written("run") | part.written("0123456789ab")
    resumed = RunCost.of("1", "a", METRICS, tags)
    assert differences([resumed]) == ["a was resumed; its tags are those of its last segment"]


own_names = st.sampled_from([
    "carbon.window", "carbon.window.1", "carbon.part.x", "carbon.part.x.1", "carbon.part.", "carbon.status",
    names.WINDOW, f"{names.WINDOW}.1", "mlflow.carbon_otel.run", "mlflow.carbon_otel.run.1",
    "mlflow.carbon_otel.1",
    "carbon.hourly_wh", "carbon.pue", "carbon.zone", "carbon.segments", "carbon.updated_at", "carbon.process",
    "carbon.missing", "carbon.method", "carbon.entry_id", "carbon.hardware",
])  # fmt: skip
leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
keys = st.sampled_from([
    "metrics", "tags", "values", "hourly", "step", "final", "carbon/energy_wh", "carbon/inference/energy_wh",
    "carbon/duration_s", "carbon.pue", "carbon/units/inference/requests",
    "writer", "places", "foreseen", "wh", "g",
]) | st.text(max_size=4)  # fmt: skip
nested = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=5),
    max_leaves=20,
)
texts = (
    st.text(max_size=40)
    | nested.map(json.dumps)
    | st.builds(lambda value, length: json.dumps(value)[:length], nested, st.integers(0, 60))
    | st.sampled_from([*WINDOWS[:-1], "2026-11-24T13=1", "running", "final"])
)
figures = st.dictionaries(st.sampled_from(sorted(FIGURES)), st.floats())


@pytest.mark.usefixtures("_mlflow")
@given(figures, st.dictionaries(own_names, texts, max_size=8))
def test_no_text_in_a_tag_and_no_figure_in_a_metric_raises(metrics, tags):
    strange = run({**FIGURES, **metrics}, {**TAGS, **tags}, name="strange")
    ledger = read(
        Client(strange, run(name="good", run_id="g", tags=TAGS | {"carbon.entry_id": "g"})), "churn"
    )
    assert len(ledger.entries) + len(ledger.unmeasured) + len(ledger.unreadable) == 2
    report = report_of(ledger, zone="PL")
    json.dumps(report.as_dict()).encode()
    assert math.isfinite(report.total.energy_wh) and math.isfinite(report.total.high_g)
    assert sum(cost.energy_wh for cost in report.by_month.values()) == pytest.approx(report.total.energy_wh)
    assert len(orphans.find(Client(strange), silent_s=0).unreadable) <= 1
    try:
        cost = RunCost.of("1", "strange", strange.data.metrics, strange.data.tags)
    except (NotMeasured, Unreadable):
        return
    differences([cost, cost])
    verdict(cost, cost)
