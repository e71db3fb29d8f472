"""The summary of a measured program, from journals with any content."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from carbon_otel.cli.run_summary import show


@pytest.mark.parametrize("content", ["", "{", "[]", "5", "{}", '{"footprint":{}}'])
def test_an_unreadable_journal_is_named(tmp_path, content):
    journal = tmp_path / "journal.json"
    journal.write_text(content)
    console = Console(file=io.StringIO(), width=200)
    show([journal], console)
    assert f"{journal} cannot be read" in console.file.getvalue()
