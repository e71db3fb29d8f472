"""Runs whose tags and metrics any program has changed: they are named, nothing waits for them, and nothing fails.

Every name that a real run has is changed in turn, and so is every name that a reader asks for.
"""

from __future__ import annotations

import contextlib
import copy
import json
import math
import time
from datetime import datetime, timezone
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import carbon_otel
from carbon_otel.lifecycle.comparison import NotMeasured, RunCost, differences, pareto, verdict
from carbon_otel.lifecycle.entry import Entry
from carbon_otel.lifecycle.ledger import read
from carbon_otel.lifecycle.report import report_of
from carbon_otel.lifecycle.where import where_of
from carbon_otel.mlflow.delivery.batch import Batch
from carbon_otel.mlflow.delivery.uploader import Uploader
from carbon_otel.mlflow.runs import orphans
from carbon_otel.mlflow.schema.checked import Unreadable
from carbon_otel.pages import report as report_page
from carbon_otel.pages.environment import Made
from tests.fakes.powercap import server
from tests.integration.stores import tracking
from tests.unit.test_checked import Client

mlflow = pytest.importorskip("mlflow")

MADE = Made(datetime(2026, 11, 26, tzinfo=timezone.utc), "carbon-otel report churn")


@pytest.fixture(scope="module")
def runs(tmp_path_factory, empty_store):
    """The data of a plain run, of a resumed run with a nested one, and of a window on the ledger."""
    folder = tmp_path_factory.mktemp("hostile")
    with tracking(empty_store.copy(folder)):
        client = mlflow.MlflowClient()
        client.search_experiments()
        tree = server(folder / "sys")
        carbon_otel.instrument(zone="FR", powercap_root=tree.root, interval_s=30, lineage="churn")

        def work():
            with carbon_otel.stage("training") as stage:
                time.sleep(0.02)
                tree.package[0].add(1)
                stage.units(samples=3)

        work()
        with mlflow.start_run() as plain:
            work()
        with mlflow.start_run(run_id=plain.info.run_id):
            work()
            with mlflow.start_run(nested=True):
                work()
        carbon_otel.flush(30)
        carbon_otel.uninstrument()
        everywhere = [each.experiment_id for each in client.search_experiments()]
        return [client.get_run(run.info.run_id) for run in client.search_runs(everywhere)]


class Store:
    """A store with one run. It accepts what MLflow on sqlite accepts, and raises as that does."""

    def __init__(self, run):
        self.run, self.written = run, []

    def get_run(self, run_id):
        return self.run

    def log_batch(self, run_id, metrics, params, tags):
        from mlflow.utils.validation import _validate_metric, _validate_tag

        for m in metrics:
            _validate_metric(m.key, m.value, m.timestamp, m.step)
            if not (-(1 << 63) <= m.step < 1 << 63 and -(1 << 63) <= m.timestamp < 1 << 63):
                raise OverflowError("Python int too large to convert to SQLite INTEGER")
        for tag in tags:
            _validate_tag(tag.key, tag.value)
            tag.value.encode()
        self.written += [m.key for m in metrics]


def changed(run, metrics=(), tags=(), points=()):
    """The run with other values."""
    data = SimpleNamespace(
        metrics={**run.data.metrics, **dict(metrics)},
        tags={**run.data.tags, **dict(tags)},
        _metric_objs=[copy.copy(m) for m in run.data._metric_objs],
        params={},
    )
    for point in data._metric_objs:
        for field, value in dict(points).items():
            setattr(point, f"_{field}", value)
    info = SimpleNamespace(
        run_id="strange",
        run_name="strange",
        experiment_id="1",
        status="RUNNING",
        start_time=1_800_000_000_000,
    )
    return SimpleNamespace(info=info, data=data, inputs=None)


def resumed_and_written(run):
    """Another process joins the run and writes its last state: its points and its tags arrive."""
    store = Store(run)
    batch = Batch(
        run_id="strange",
        segment=1,
        values={"carbon/energy_wh": 1.0, "carbon/emissions_g": 1.0, "carbon/training/energy_wh": 1.0},
        tags={"carbon.status": "final", "carbon.process": "p"},
        step=0,
        timestamp_ms=1_800_000_000_000,
        contribution_id="joined",
        hourly="2026-11-24T13=1",
        resumed=True,
        final=True,
        efficiency_metric="carbon/energy_wh",
    )
    Uploader(store)._write([batch])
    assert "carbon/energy_wh" in store.written


def both(run, good):
    """The ledger of a run and of a good one."""
    other = SimpleNamespace(info=SimpleNamespace(**{**vars(run.info), "run_id": "good", "run_name": "good"}))
    other.data, other.inputs = good.data, None
    return read(Client(run, other), "churn")


def everything(run, good):
    """What all readers and writers do with a run; the good run beside it is not affected."""
    ledger = both(run, good)
    assert len(ledger.entries) + len(ledger.unmeasured) + len(ledger.unreadable) in (1, 2)
    assert any(entry.run_id == "good" for entry in ledger.entries)
    report = report_of(ledger, zone="PL")
    text = json.dumps(report.as_dict(), allow_nan=True)
    text.encode()
    assert math.isfinite(report.total.energy_wh) and math.isfinite(report.total.high_g)
    assert report.total.low_wh <= report.total.energy_wh * (1 + 1e-9) and 0 <= report.measured_fraction <= 1
    found = orphans.find(Client(run), silent_s=0)
    assert len(found.runs) + len(found.unreadable) <= 1
    orphans.reconcile(Client(run), silent_s=0)
    try:
        cost = RunCost.of("strange", "strange", run.data.metrics, run.data.tags)
    except (NotMeasured, Unreadable):
        pass  # the readers above have named it
    else:
        differences([cost, cost])
        verdict(cost, cost)
        pareto([cost], {"strange": 1.0})
    resumed_and_written(run)


class Asked(dict):
    """A mapping that notes the names that a reader asks for."""

    def __init__(self, content, asked):
        super().__init__(content)
        self._asked = asked

    def get(self, name, default=None):
        self._asked.add(name)
        return super().get(name, default)

    def __getitem__(self, name):
        self._asked.add(name)
        return super().__getitem__(name)


@pytest.fixture(scope="module")
def all_names(runs):
    """The names of the tags and of the metrics that a run has, or that a reader asks for."""
    tags, metrics = set(), set()
    for run in runs:
        spied = changed(run)
        spied.data.tags, spied.data.metrics = Asked(spied.data.tags, tags), Asked(spied.data.metrics, metrics)
        everything(spied, runs[0])
        tags |= spied.data.tags.keys()
        metrics |= {name for name in spied.data.metrics if name.startswith("carbon/")}
    tags = {name for name in tags if name and name.startswith(("carbon.", "mlflow."))}
    return sorted(tags), sorted(filter(None, metrics))


def test_the_names_are_those_of_real_runs(all_names):
    tags, metrics = all_names
    hidden = {"mlflow.carbon_otel.run", "mlflow.carbon_otel.window"}
    assert {"carbon.zone", "carbon.status", "mlflow.note.content", *hidden} <= set(tags)
    assert {"carbon/energy_wh", "carbon/training/energy_wh"} <= set(metrics)


HUGE = "x" * 10_000_000
TEXTS = [
    *(
        "",
        "NaN",
        "nan",
        "1e308",
        "-1e308",
        "-5",
        "inf",
        "null",
        "[]",
        "{}",
        "[1]",
        "true",
        '"',
        "\x00",
        "\udc80",
    ),
    *('{"values":{"carbon/energy_wh":1e308},"hourly":"","step":0,"final":true}',),
    *('{"values":{"carbon/energy_wh":-5},"hourly":"","step":0,"final":true}',),
    *('{"values":{"carbon//../x":5},"hourly":"","step":0,"final":true}',),
    *(
        '{"values":{"carbon/energy_wh":5},"hourly":"9999-99-99T99=1","step":4611686018427387903,"final":false}',
    ),
    *('{"values":{"carbon/energy_wh":NaN},"hourly":"","step":0,"final":true,"process":5}',),
    *("[" * 100_000, '{"a":' * 50_000, "9" * 10_000, "2026-11-24T13=1 " * 50_000, HUGE),
]
NUMBERS = [math.nan, math.inf, -math.inf, 1e308, -1e308, -1.0, 0.0, 5e-324, 1e18]


def test_every_tag_with_every_bad_text(runs, all_names):
    for name in all_names[0]:
        for run in runs:
            for text in TEXTS:
                everything(changed(run, tags={name: text}), runs[0])


def test_every_metric_with_every_bad_number(runs, all_names):
    for name in all_names[1]:
        for run in runs:
            for number in NUMBERS:
                everything(changed(run, metrics={name: number}), runs[0])


@pytest.mark.parametrize("step", [-(1 << 63), -1, (1 << 62) - 1, (1 << 63) - 1])
@pytest.mark.parametrize("timestamp", [-1, 0, (1 << 62), (1 << 63) - 1])
def test_steps_and_times_of_any_size_leave_room_for_further_points(runs, step, timestamp):
    for run in runs:
        everything(changed(run, points={"step": step, "timestamp": timestamp}), runs[0])


def test_a_tag_that_was_cut_at_any_character(runs):
    for run in runs:
        for name, text in run.data.tags.items():
            if name.startswith("carbon."):
                for end in range(len(text)):
                    cut = changed(run, tags={name: text[:end]})
                    with contextlib.suppress(Unreadable):
                        Entry.of(cut)
                    orphans.find(Client(cut), silent_s=0)


strange_texts = st.text(max_size=40) | st.sampled_from(TEXTS[:-1])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(st.data())
def test_several_changes_at_once(runs, all_names, data):
    tags = data.draw(st.dictionaries(st.sampled_from(all_names[0]), strange_texts, max_size=6))
    metrics = data.draw(st.dictionaries(st.sampled_from(all_names[1]), st.floats(), max_size=6))
    everything(changed(data.draw(st.sampled_from(runs)), metrics, tags), runs[0])


def make_page(run, good):
    ledger = both(run, good)
    report = report_of(ledger)
    places = where_of(ledger) if report.total.energy_wh > 0 else None
    html = report_page.page(report, MADE, places)
    html.encode()
    assert len(html) < 200_000


SHOWN = (
    "method",
    "zone",
    "hardware",
    "attribution",
    "intensity_source",
    "version",
    "hourly_wh",
    "status",
    "missing",
)


@pytest.mark.parametrize("name", SHOWN)
def test_a_page_of_any_text(runs, name):
    for text in TEXTS:
        make_page(changed(runs[0], tags={f"carbon.{name}": text}), runs[0])


@pytest.mark.parametrize("number", [1e308, 1e18, 5e-324, 0.0])
def test_a_page_of_any_number(runs, all_names, number):
    for name in all_names[1]:
        make_page(changed(runs[0], metrics={name: number, "accuracy": number, "loss": math.nan}), runs[0])
