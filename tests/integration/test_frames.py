"""Footprints, reports and places as frames of pandas."""

from __future__ import annotations

from dataclasses import replace

import pytest

from carbon_otel.footprint import Cost
from carbon_otel.lifecycle.ledger import Ledger
from carbon_otel.lifecycle.report import ROW
from carbon_otel.lifecycle.where import COLUMNS, where_of
from tests.unit.test_footprint_sums import footprint
from tests.unit.test_report import entry, report

pandas = pytest.importorskip("pandas", reason="needs pandas, which comes with mlflow")


def test_a_footprint_has_a_row_for_each_kind_of_stage():
    stages = {"training": Cost(2700.0, 27.0), "unattributed": Cost(900.0, 9.0)}
    frame = footprint(3600.0, stages=stages).to_frame()
    assert list(frame["stage"]) == ["training", "unattributed"]
    assert list(frame["energy_wh"]) == [0.75, 0.25] and list(frame["share"]) == [0.75, 0.25]
    assert list(frame["emissions_g"]) == [27.0, 9.0] and set(frame["zone"]) == {"FR"}


def test_a_footprint_without_kinds_has_one_row():
    frame = replace(footprint(7200.0), method="measured.counter").to_frame()
    assert list(frame["energy_wh"]) == [2.0] and list(frame["method"]) == ["measured.counter"]


@pytest.mark.parametrize(
    ("value", "columns"),
    [
        (report(entry(0), entry(1)), ROW),
        (report(), ROW),
        (where_of(Ledger("churn", (entry(0, wh=1000.0),))), COLUMNS),
    ],
    ids=["report", "empty report", "where"],
)
def test_the_columns_are_those_of_the_rows(value, columns):
    frame = value.to_frame()
    assert isinstance(frame, pandas.DataFrame) and list(frame.columns) == list(columns)
    assert len(frame) == len(value.rows())


def test_the_former_name():
    found = report(entry(0))
    assert found.frame().equals(found.to_frame())
