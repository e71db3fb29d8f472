"""The table of calls in the page of the instrumentation is that of the code, and each call has a test."""

from __future__ import annotations

import re

import pytest

from tests.docs.pages import PAGES, ROOT
from tests.docs.test_contributing import names_of_tests
from tests.frameworks import calls_table

PAGE = PAGES["carbon_otel/instrumentation/README.md"]


def test_every_call_is_in_the_table():
    found = re.search(r"<!-- calls -->\n(.*?)\n<!-- /calls -->", PAGE.text, re.DOTALL)
    made = calls_table.table()
    assert found and found[1] == made, f"write between the markers:\n{made}"


def test_each_test_of_the_table_exists():
    for row in calls_table.rows():
        file = ROOT / "tests" / "frameworks" / row.file
        assert not row.test or row.test in names_of_tests(file), row


def test_a_call_without_a_test_is_named(monkeypatch):
    kept = [row for row in calls_table.rows() if row.function != "Booster.inplace_predict"]
    monkeypatch.setattr(calls_table, "rows", lambda: kept)
    with pytest.raises(KeyError, match=r"Booster\.inplace_predict has no test"):
        calls_table.tested()
