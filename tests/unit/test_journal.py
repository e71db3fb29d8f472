"""The journal is one file, where it was when the session began, and its last state is the session's."""

from __future__ import annotations

import json
import threading
from pathlib import Path

from carbon_otel.footprint import NOT_MEASURED
from carbon_otel.journal import Journal
from carbon_otel.meter.meter import Snapshot

EMPTY = Snapshot(())


def test_a_program_that_changes_directory_keeps_its_journal(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    journal = Journal(Path("journal.json"), 1.0, lambda: NOT_MEASURED)
    journal.tick(EMPTY)
    monkeypatch.chdir(tmp_path / "elsewhere")
    (tmp_path / "journal.json").write_text("{}")
    journal.close(0)
    assert json.loads((tmp_path / "journal.json").read_text())["status"] == "final"
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_tick_that_is_slow_does_not_undo_the_end(tmp_path):
    reached, go, states = threading.Event(), threading.Event(), []

    def totals():
        if not states:
            states.append("slow")
            reached.set()
            assert go.wait(20)
        return NOT_MEASURED

    journal = Journal(tmp_path / "journal.json", 0.0, totals)
    tick = threading.Thread(target=journal.tick, args=(EMPTY,))
    tick.start()
    assert reached.wait(20)
    end = threading.Thread(target=journal.close, args=(0,))
    end.start()
    end.join(0.2)  # without an order, it would have been written by now
    go.set()
    tick.join(20), end.join(20)
    journal.tick(EMPTY)
    assert json.loads((tmp_path / "journal.json").read_text())["status"] == "final"
