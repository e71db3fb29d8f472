"""The rows that a run leaves in MLflow: few in a month, and the exact sums at any moment."""

from __future__ import annotations

import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

from carbon_otel.background import Worker
from carbon_otel.footprint import Cost, footprint_of
from carbon_otel.mlflow.delivery.batch import LedgerRun
from carbon_otel.mlflow.delivery.segment import Segment
from carbon_otel.mlflow.runs.recorder import RunRecorder
from carbon_otel.mlflow.schema import contributions, hourly, names
from carbon_otel.records import RUN, Snapshot, StageInfo
from carbon_otel.sinks import Checkpoint, Figures, StageEnd, Tick
from tests.unit.test_segment import BEGIN_S, figures

MONTH_S = 30 * 86400
CHECKPOINT_S = 15
CURVES = {"carbon/energy_wh", "carbon/emissions_g"}


class Rows:
    """Counts the points that batches write, and keeps the last batch."""

    def __init__(self):
        self.at: dict[str, list[int]] = {}
        self.last = None

    def put(self, batch, store=None):
        self.last = batch
        for name in batch.drawn({**batch.values, **batch.gauges}):
            self.at.setdefault(name, []).append(batch.timestamp_ms)

    def __len__(self):
        return sum(map(len, self.at.values()))


def with_gpus(count):
    """A footprint of a run on this many devices."""
    base = figures(1.0, 1.0)
    return lambda at_s: replace(
        base,
        energy_j=count * at_s,
        duration_s=at_s,
        stages={kind: Cost(at_s, at_s) for kind in ("data_processing", "training", "evaluation", RUN)},
        devices_inclusive={f"gpu-{number}": at_s for number in range(count)},
    )


@pytest.mark.parametrize("devices", [2, 12, 64])
def test_a_run_of_a_month_has_at_most_20000_rows(devices):
    segment, rows, at = Segment(1, BEGIN_S, run_id="r"), Rows(), with_gpus(devices)
    moments = range(CHECKPOINT_S, MONTH_S, CHECKPOINT_S)
    # Only the states that get a point are made: the others have no row.
    real = segment._sampling
    for now in moments:
        curves, bars = real.curves_due(now, 2 + devices), real.bars_due(now, 40)
        if curves or bars:
            segment._sampling = SimpleNamespace(
                curves_due=lambda *_, due=curves: due, bars_due=lambda *_, due=bars: due
            )
            rows.put(segment.state(at(now), {}, now))
    rows.put(segment.state(at(MONTH_S), {}, MONTH_S, final=True))
    assert len(rows) <= 20_000
    assert len(rows.at["carbon/energy_wh"]) >= 100
    assert rows.last.values["carbon/energy_wh"] == pytest.approx(devices * MONTH_S / 3600)


def test_every_checkpoint_of_a_short_run_is_a_point_of_its_curves_and_bars_have_few():
    segment, rows, at = Segment(1, BEGIN_S, run_id="r"), Rows(), with_gpus(1)
    for now in range(15, 1500, 15):
        rows.put(segment.state(at(now), {}, now))
    rows.put(segment.state(at(1500), {}, 1500, final=True))
    assert len(rows.at["carbon/energy_wh"]) == 97  # none at the first three checkpoints
    assert len(rows.at["carbon/training/energy_wh"]) <= 9


def test_power_is_the_mean_since_the_last_point_so_that_the_curve_has_all_energy():
    segment, joules, last_s = Segment(1, BEGIN_S, run_id="r"), 0.0, 0.0
    for now in range(15, 40_000, 15):
        at = with_gpus(1)(now)
        batch = segment.state(replace(at, devices_inclusive={"gpu": float(now)}), {}, now)
        for watts in batch.gauges.values():
            joules += watts * (now - last_s)
            last_s = now
    assert joules == pytest.approx(last_s)


def test_a_run_with_hundreds_of_kinds_of_stage_gets_its_bars_at_the_end():
    segment, rows = Segment(1, BEGIN_S, run_id="r"), Rows()
    many = replace(with_gpus(1)(10.0), stages={f"kind_{number}": Cost(1.0, 1.0) for number in range(500)})
    for now in range(15, 3000, 15):
        rows.put(segment.state(many, {}, now))
    assert rows.at.keys() <= CURVES | {"carbon/power/gpu-0_w"}
    rows.put(segment.state(many, {}, 3000, final=True))
    assert len(rows.at["carbon/kind_499/energy_wh"]) == 1


def test_a_resumed_run_is_as_coarse_as_before():
    rows, at = Rows(), with_gpus(1)
    for restart in range(1, 30):
        segment = Segment(
            restart, BEGIN_S + restart * 86400, run_id="r", resumed=True, age_s=restart * 86400.0
        )
        for now in range(15, 3600, 15):
            rows.put(segment.state(at(now), {}, now))
        rows.put(segment.state(at(3600), {}, 3600, final=True))
    assert len(rows.at["carbon/energy_wh"]) < 200


def test_a_run_that_is_resumed_each_hour_of_a_month_has_at_most_20000_rows():
    rows, at = Rows(), with_gpus(2)
    for hour in range(MONTH_S // 3600):
        segment = Segment(hour, BEGIN_S + hour * 3600, run_id="r", resumed=hour > 0, age_s=hour * 3600.0)
        real = segment._sampling
        for now in range(CHECKPOINT_S, 3600, CHECKPOINT_S):
            curves, bars = real.curves_due(now, 4), real.bars_due(now, 40)
            if curves or bars:
                segment._sampling = SimpleNamespace(
                    curves_due=lambda *_, due=curves: due, bars_due=lambda *_, due=bars: due
                )
                rows.put(segment.state(at(now), {}, now))
        segment._sampling = real
        rows.put(segment.state(at(3600), {}, 3600, final=True))
    assert len(rows) <= 20_000


def test_a_window_has_few_rows_and_its_tag_has_every_figure_of_every_state():
    segment = Segment(1, BEGIN_S, ledger_run=LedgerRun("e", "inference m", 1))
    rows, at = Rows(), with_gpus(1)
    for now in range(15, 3600, 15):
        rows.put(segment.state(at(now), {}, now))
        read, _ = names.unpack({}, rows.last.tags)
        assert read["carbon/energy_wh"] == pytest.approx(now / 3600)
    assert len(rows) <= 20


class Uploads(Rows):
    healthy = False

    def __init__(self):
        super().__init__()
        self.read_after_a_kill = []

    def put(self, batch, store=None):
        super().put(batch)
        if batch.values:
            own = contributions.Contribution(batch.values, batch.hourly)
            killed, tags = contributions.figures_and_tags({}, own.written(batch.contribution_id))
            self.read_after_a_kill.append(killed["carbon/energy_wh"])
            quarters = hourly.parsed(tags[names.HOURLY]).values()
            assert sum(quarters) == pytest.approx(killed["carbon/energy_wh"], rel=1e-9)


@pytest.fixture
def recorded():
    """The recorder of one run, its stage and its uploads."""
    uploads, delivery = Uploads(), Worker("test delivery")
    recorder = RunRecorder(
        uploads,
        uploads,
        delivery,
        (),
        lambda record: footprint_of(record, None),
        lambda footprint, status, trace_id: {"carbon.status": status},
        lambda stage: None,
        process="p",
        efficiency_metric=None,
    )
    stage = StageInfo(1, RUN, "r", {}, None, "r", True, int(BEGIN_S * 1e9))
    recorder.expect("r", None, False)
    recorder.stage_opened(stage)
    yield recorder, stage, uploads, delivery
    delivery.close()


def test_what_a_kill_at_any_checkpoint_leaves_is_exact(recorded):
    recorder, stage, uploads, delivery = recorded
    at, moments = with_gpus(2), range(15, 86400, 15)
    for now in moments:
        now_figures = Figures(lambda: None, lambda record, now=now: at(float(now)))
        recorder.tick(Tick(1, Snapshot(()), Checkpoint(0, now_figures, {stage: now_figures})))
        assert delivery.submit(lambda: None).wait(20)
    recorder.stage_closed(stage, StageEnd(Figures(lambda: None, lambda record: at(86400.0)), 1, 86400.0, {}))
    assert delivery.submit(lambda: None).wait(20)
    assert uploads.read_after_a_kill[:-1] == pytest.approx([2 * now / 3600 for now in moments])
    assert len(uploads) < 4000
    assert max(uploads.at["carbon/energy_wh"]) == pytest.approx((BEGIN_S + 86400) * 1000, abs=5000)


@pytest.mark.parametrize("jump_s", [683 * 30 * 86400.0, -50 * 365 * 86400.0])
def test_a_jump_of_the_wall_clock_moves_no_energy_to_other_hours(recorded, monkeypatch, jump_s):
    recorder, stage, uploads, delivery = recorded
    at = with_gpus(2)
    monkeypatch.setattr(time, "time", lambda: BEGIN_S + jump_s)
    for now in (15, 30, 3700):
        now_figures = Figures(lambda: None, lambda record, now=now: at(float(now)))
        wall_ns = int((BEGIN_S + jump_s * (now == 30) + now) * 1e9)
        recorder.tick(Tick(1, Snapshot(()), Checkpoint(wall_ns, now_figures, {stage: now_figures})))
        assert delivery.submit(lambda: None).wait(20)
    hours = hourly.parsed(uploads.last.hourly)
    assert list(hours) == [
        f"2026-09-21T{quarter}" for quarter in ("14:00", "14:15", "14:30", "14:45", "15:00")
    ]
    assert sum(hours.values()) == pytest.approx(2 * 3700 / 3600, rel=1e-5)
    assert uploads.last.timestamp_ms == (BEGIN_S + 3700) * 1000
