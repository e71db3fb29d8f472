"""The journal is one file, where it was when the session began."""

from __future__ import annotations

import json
from pathlib import Path

from carbon_otel.footprint import NOT_MEASURED
from carbon_otel.journal import Journal


def test_a_program_that_changes_directory_keeps_its_journal(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    journal = Journal(Path("journal.json"), 1.0, lambda: NOT_MEASURED)
    journal.close(0)
    monkeypatch.chdir(tmp_path / "elsewhere")
    (tmp_path / "journal.json").write_text("{}")
    journal.close(0)
    assert json.loads((tmp_path / "journal.json").read_text())["status"] == "final"
    assert not list((tmp_path / "elsewhere").iterdir())
