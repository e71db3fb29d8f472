"""A report as table, page and CSV, with any text in the names of entries."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import replace
from html import unescape

import pytest
from rich.console import Console

from carbon_otel.cli.formats import codecarbon
from carbon_otel.cli.html_report import page
from carbon_otel.cli.report import _csv
from carbon_otel.cli.report_view import show
from carbon_otel.lifecycle.entry import LedgerCost
from carbon_otel.lifecycle.ledger import Ledger
from carbon_otel.lifecycle.report import ROW, report_of
from tests.unit.test_report import entry

STRANGE = "[bold]</pre><script>{x}[/red]"


def text_of(report):
    console = Console(file=io.StringIO(), width=200)
    show(report, console)
    return console.file.getvalue()


def strange():
    tags = {**entry().tags, "carbon.method": STRANGE, "carbon.status": "running"}
    stages = {STRANGE: LedgerCost(10.0, 5.0), "inference": LedgerCost(1.0, 1.0)}
    one = replace(
        entry(), name=STRANGE, status=STRANGE, stages=stages, tags=tags, units={f"inference/{STRANGE}": 2.0}
    )
    return report_of(Ledger(STRANGE, (one,), (STRANGE,), (f"{STRANGE}: cut",)))


def test_names_are_literal_text_in_a_table():
    text = text_of(strange())
    assert text.count(STRANGE) >= 8
    assert f"unreadable, not in the sums: {STRANGE}: cut" in text and f"not measured: {STRANGE}" in text


def test_names_are_literal_text_on_a_page():
    html = page(strange())
    assert "<script" not in html and html.count("</pre>") == 1
    assert unescape(re.sub(r"<[^>]*>", "", html)).count(STRANGE) >= 8


def test_a_page_has_the_tables_and_is_self_contained():
    html = page(report_of(Ledger("churn", (entry(), entry(1)))))
    assert html.startswith("<!doctype html>") and html.count("<h1>churn</h1>") == 1
    for shown in ("run 0", "run 1", "training", "1970-01", "20 Wh", "100% by a sensor", "intensity source"):
        assert shown in html
    assert not [word for word in ("http://", "https://", "<script", "src=", "url(") if word in html]


def test_an_entry_without_stages():
    """A run without its own energy: all of it belongs to nested runs."""
    report = report_of(
        Ledger("churn", (replace(entry(), stages={}, low_wh=0.0, high_wh=0.0, measured_wh=0.0),))
    )
    assert _csv(report.rows(), ROW) == ",".join(ROW) + "\n"
    (row,) = csv.DictReader(io.StringIO(_csv(codecarbon.rows(report), codecarbon.COLUMNS)))
    assert (row["timestamp"], row["energy_consumed"]) == ("1970-01-01T00:00:00", "0.0")
    assert "0 Wh" in text_of(report) and "0 Wh" in page(report)


def test_inference_against_training():
    days = " ".join(f"2026-11-{day:02}=1" for day in range(1, 31))
    tags = {**entry().tags, "carbon.hourly_wh": days}
    served = replace(entry(1), stages={"inference": LedgerCost(30.0, 1.0)}, tags=tags)
    report = report_of(Ledger("churn", (entry(), served)))
    assert report.passed_training == "2026-11-11"
    shown = [line for line in text_of(report).splitlines() if re.match(r" *2026-11-\d\d ", line)]
    assert len(shown) == 8
    assert (
        "2026-11-01" in shown[0] and "10%" in shown[0] and "2026-11-30" in shown[-1] and "300%" in shown[-1]
    )
    assert len(set(report.by_month)) == 2


@pytest.mark.parametrize("columns", [ROW, codecarbon.COLUMNS])
def test_columns_are_different(columns):
    assert len(set(columns)) == len(columns)


def test_rows_have_the_columns():
    (row,) = report_of(Ledger("churn", (entry(),))).rows()
    assert tuple(row) == ROW
