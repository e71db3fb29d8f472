"""A report as table and CSV, with any text in the names of entries."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import replace

import pytest

from carbon_otel.cli.formats import codecarbon
from carbon_otel.cli.output import Screen, write_csv
from carbon_otel.cli.report_view import show
from carbon_otel.lifecycle.beside import EntryBeside
from carbon_otel.lifecycle.entry import LedgerCost
from carbon_otel.lifecycle.ledger import Ledger
from carbon_otel.lifecycle.report import ROW, report_of
from tests.unit.test_report import entry

STRANGE = "[bold]</pre><script>{x}[/red]"


def text_of(report, width=200):
    console = Screen(file=io.StringIO(), width=width)
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


@pytest.mark.parametrize("width", [60, 80])
def test_figures_are_whole_on_a_narrow_terminal(width):
    stages = {
        "data_processing": LedgerCost(0.0000303, 0.00000126),
        "inference": LedgerCost(0.000922, 0.0000382),
    }
    beside = EntryBeside(embodied={"data_processing": 0.00000873, "inference": 0.000266})
    text = text_of(report_of(Ledger("churn", (replace(entry(), stages=stages, beside=beside),))), width)
    assert "…" not in text and "churn: 1 entry\n" in text
    row = re.search(r"data_processing +0.109 J +1.26 µg +8.73 µg +3.2%", text)
    assert row, text


HOSTILE = "\x1b[31mred\x07\u202e\x9b2J\nfake line\udc80[link=http://evil]x[/link]:bomb:"
UNSAFE = ("\x1b", "\x07", "\x9b", "\u202e", "\nfake", "\udc80")


def hostile():
    tags = {**entry().tags, "carbon.method": HOSTILE, "carbon.zone": HOSTILE, "carbon.hardware": HOSTILE}
    one = replace(entry(), name=HOSTILE, status=HOSTILE, stages={HOSTILE: LedgerCost(1.0, 1.0)}, tags=tags)
    return report_of(Ledger(HOSTILE, (one,), (HOSTILE,), (f"{HOSTILE}: cut",)))


def test_escapes_and_invalid_characters_in_names_do_nothing(capsys):
    write_csv(hostile().rows(), ROW)
    for text in (text_of(hostile()), capsys.readouterr().out):
        text.encode()
        assert not [character for character in UNSAFE if character in text]
        assert "red" in text and "\\x1b" in text


@pytest.mark.parametrize("begin", ["=", "+", "-", "@", "\t=", "\r=", " =", "\uff1d"])
def test_a_name_is_no_formula_of_a_spreadsheet(begin, capsys):
    name = f"{begin}HYPERLINK(1)"
    report = report_of(Ledger("churn", (replace(entry(), name=name, stages={name: LedgerCost(-1.0, 1.0)}),)))
    write_csv(report.rows(), ROW)
    write_csv(codecarbon.rows(replace(report, title=name)), codecarbon.COLUMNS)
    own, theirs = map(csv.DictReader, map(io.StringIO, capsys.readouterr().out.split("timestamp")[:2]))
    (row,) = own
    assert row["run_name"][0] == row["stage"][0] not in "=+-@\t\r \uff1d" or row["run_name"].startswith("'")
    assert row["energy_wh"] == "-1.0"  # a number stays a number
    assert f",{name}" not in ",".join(theirs.fieldnames)


def test_an_entry_without_stages(capsys):
    """A run without its own energy: all of it belongs to nested runs."""
    report = report_of(
        Ledger("churn", (replace(entry(), stages={}, low_wh=0.0, high_wh=0.0, measured_wh=0.0),))
    )
    write_csv(report.rows(), ROW)
    assert capsys.readouterr().out == ",".join(ROW) + "\n"
    write_csv(codecarbon.rows(report), codecarbon.COLUMNS)
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert (row["timestamp"], row["energy_consumed"]) == ("1970-01-01T00:00:00", "0.0")
    assert "0 J" in text_of(report)


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
