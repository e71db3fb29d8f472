"""The journal is one file at the place where the session began, and its last state is that of the session."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from carbon_otel.background import Worker
from carbon_otel.footprint import NOT_MEASURED
from carbon_otel.journal import Journal
from carbon_otel.records import Snapshot
from carbon_otel.sinks import Checkpoint, Figures, Tick


class Metrics:
    """A process whose `kept` grows, and an SDK that exports."""

    kept = 0

    def hand_to(self, take):
        take({"kept": self.kept})

    def around_exports(self, before, after):
        self.before, self.after = before, after


def tick(to_footprint=lambda record: NOT_MEASURED, *, checkpoint: bool = True) -> Tick:
    process = Figures(lambda: None, to_footprint)
    return Tick(1, Snapshot(()), Checkpoint(1, process) if checkpoint else None)


@pytest.fixture
def delivery():
    worker = Worker("test delivery")
    yield worker
    worker.close()


def test_a_program_that_changes_directory_keeps_its_journal(tmp_path, monkeypatch, delivery):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    journal = Journal(Path("journal.json"), delivery, Metrics(), 15)
    journal.tick(tick())
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert journal.close(20)(20)
    assert json.loads((tmp_path / "journal.json").read_text())["status"] == "final"
    assert not list((tmp_path / "elsewhere").iterdir())


def test_the_journal_is_written_at_checkpoints_only(tmp_path, delivery):
    journal = Journal(tmp_path / "journal.json", delivery, Metrics(), 15)
    journal.tick(tick(checkpoint=False))
    assert journal.flush(20)(20)
    assert not (tmp_path / "journal.json").exists()
    journal.tick(tick())
    assert journal.flush(20)(20)
    assert json.loads((tmp_path / "journal.json").read_text())["status"] == "running"


def test_a_slow_disk_changes_neither_ticks_nor_the_order_of_states(tmp_path, delivery):
    reached, go = threading.Event(), threading.Event()

    def slow(record):
        reached.set()
        assert go.wait(20)
        return NOT_MEASURED

    journal = Journal(tmp_path / "journal.json", delivery, Metrics(), 15)
    journal.tick(tick(slow))
    assert reached.wait(20)
    journal.tick(tick())  # returns while the first state is being written
    closed = journal.close(20)
    assert not closed(0)
    go.set()
    assert closed(20)
    assert json.loads((tmp_path / "journal.json").read_text())["status"] == "final"


def test_the_metrics_are_written_before_each_export(tmp_path, delivery):
    metrics = Metrics()
    journal = Journal(tmp_path / "journal.json", delivery, metrics, 15)
    metrics.before()
    assert not (tmp_path / "journal.json").exists()  # no checkpoint yet
    journal.tick(tick())
    metrics.kept = 7
    metrics.before()
    state = json.loads((tmp_path / "journal.json").read_text())
    assert state["metrics"] == {"kept": 7} and state["status"] == "running"
    assert state["checkpoint_interval_s"] == 15


def test_a_slow_disk_delays_an_export_for_a_bounded_time(tmp_path, delivery, monkeypatch):
    monkeypatch.setattr("carbon_otel.journal._FOR_DISK_S", 0.01)
    go = threading.Event()
    metrics = Metrics()
    journal = Journal(tmp_path / "journal.json", delivery, metrics, 15)
    journal.tick(tick())
    delivery.submit(lambda: go.wait(20))
    metrics.before()  # returns while the disk is busy
    go.set()
    assert journal.close(20)(20)


@pytest.mark.parametrize(
    ("exports", "exported"),
    [
        (["before", "close", "taken"], False),  # of older sums
        (["close", "before", "taken"], True),
        (["close", "before", "refused"], False),
        (["close", "before", "refused", "before", "taken"], True),
        (["before", "taken", "close"], False),
        (["close"], False),
    ],
)
def test_only_an_export_of_the_final_metrics_counts(exports, exported, tmp_path, delivery):
    metrics = Metrics()
    journal = Journal(tmp_path / "journal.json", delivery, metrics, 15)
    journal.tick(tick())
    for event in exports:
        if event == "close":
            assert journal.close(20)(20)
        elif event == "before":
            metrics.before()
        else:
            metrics.after(event == "taken")
    assert json.loads((tmp_path / "journal.json").read_text())["exported"] is exported
