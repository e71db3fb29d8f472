"""What people print: one line, a card that is safe in any page, and a frame; none of them ever raises."""

from __future__ import annotations

import importlib
import math
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

import carbon_otel
from carbon_otel.carbon.grid import intensity
from carbon_otel.footprint import NOT_MEASURED, Cost
from carbon_otel.footprint.shown import html_of, measured, text_of
from carbon_otel.forecast.comparison import forecast_of
from carbon_otel.forecast.records import InferenceRequest, Interval, Model, Place, TrainingRequest
from carbon_otel.foresight.progress import Outlook
from carbon_otel.lifecycle.comparison import RunCost
from carbon_otel.lifecycle.ledger import Ledger
from carbon_otel.lifecycle.where import where_of
from carbon_otel.notebook.card import Card, Figure, Row, html, share
from carbon_otel.stages.engine import Engine
from tests.fakes.powercap import server
from tests.unit.test_footprint_sums import footprint
from tests.unit.test_report import entry, report

HOSTILE = "<script>alert(1)</script> & \"quoted\" 'text' \x1b[31m\n</div> \ud800"
RUN = replace(entry(0, wh=1000.0, grams=50.0, energy_band=0.1), name=HOSTILE)
TRAINING = TrainingRequest(
    hardware="H100", model=Model(HOSTILE, 7e9, 7e9), tokens=1e12, gpus=64, place=Place(zone="FR")
)
OUTLOOK = Outlook(0.12, Interval(3.9, 4.1, 4.4), Interval(0.1, 0.2, 0.3), Interval(60, 90, 120), 1.7e9)
PROCESS = footprint(
    3600.0,
    stages={
        "training": Cost(2000.0, 20.0),
        "data_processing": Cost(600.0, 6.0),
        HOSTILE: Cost(400.0, 4.0),
        "unattributed": Cost(500.0, 5.0),
        "run": Cost(100.0, 1.0),
    },
    units={"samples": 1000.0},
    missing=("gpu",),
)
SHOWN = {
    "footprint": footprint(44_640.0),
    "process": PROCESS,
    "sum": PROCESS + NOT_MEASURED,
    "nothing": footprint(0.0),
    "not measured": NOT_MEASURED,
    "report": report(RUN, entry(1)),
    "empty report": report(),
    "lower bound": report(replace(RUN, tags={**RUN.tags, "carbon.status": "running"})),
    "where": where_of(Ledger(HOSTILE, (RUN,))),
    "where, not comparable": where_of(Ledger(HOSTILE, (entry(0, zone="nowhere"),))),
    "training": forecast_of(TRAINING),
    "inference": forecast_of(InferenceRequest("H100", Model(HOSTILE, 7e9, 7e9), requests_per_month=1e6)),
    "outlook": OUTLOOK,
    "run": RunCost(
        "1" * 32, HOSTILE, 1.0, math.nan, math.nan, math.nan, math.nan, math.nan, math.nan, math.nan, {}
    ),
    "stage": carbon_otel.stage("training", HOSTILE),
    "loop": carbon_otel.progress(range(10)),
}
each = pytest.mark.parametrize("value", SHOWN.values(), ids=SHOWN)
cards = pytest.mark.parametrize(
    "value", [v for v in SHOWN.values() if hasattr(v, "_repr_html_")], ids=lambda value: type(value).__name__
)


class Page(HTMLParser):
    """The tags and the attributes of a fragment; an element that is not closed is an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.open.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@each
def test_one_line(value):
    line = repr(value)
    assert line.startswith(f"{type(value).__name__}(") and line.endswith(")")
    assert len(line.splitlines()) == 1 and len(line) < 250
    assert "nan" not in line and "inf" not in line.replace("inference", "")


def test_the_line_of_a_footprint():
    shown = footprint(44_640.0, below=0.048, above=0.056)
    shown = replace(shown, emissions_g=0.512, measured_fraction=0.98, duration_s=3.2)
    assert repr(shown) == "Footprint(12.4 Wh (11.8 to 13.1), 512 mg CO2e, 98% measured, 3.2 s)"
    without = replace(shown, missing=("gpu",))
    assert repr(without) == (
        "Footprint(12.4 Wh (11.8 to 13.1), 512 mg CO2e, 98% measured, 3.2 s, without gpu)"
    )
    assert repr(NOT_MEASURED) == "Footprint(not measured: call carbon_otel.instrument() before it)"


@pytest.mark.parametrize(
    ("fraction", "text"),
    [(0, "0%"), (0.001, "<1%"), (0.5, "50%"), (0.994, "99%"), (0.9999, ">99%"), (1, "100%")],
)
def test_neither_all_nor_nothing_is_rounded_to(fraction, text):
    assert measured(fraction) == f"{text} measured"


@cards
def test_a_card_is_closed_loads_nothing_and_runs_nothing(value):
    page = Page(value._repr_html_())
    allowed = {"div", "span", "table", "thead", "tbody", "tr", "th", "td", "details", "summary"}
    assert set(page.tags) <= allowed
    assert {name for name, _ in page.attributes} <= {"style", "class", "role", "aria-label", "title"}
    assert not re.search(r"url\(|https?:", " ".join(text or "" for _, text in page.attributes))
    assert "nan" not in page.text.replace("resonan", "") and "inf" not in re.sub(
        r"inf[eol]\w+", "", page.text
    )
    value._repr_html_().encode("utf-8")


@cards
def test_the_text_of_a_card_has_the_colour_of_the_page(value):
    styles = " ".join(text or "" for name, text in Page(value._repr_html_()).attributes if name == "style")
    assert set(re.findall(r"(?<![-\w])color:([^;]+)", styles)) <= {"inherit"}
    # A background is that of a bar, and of nothing that has text.
    for found in re.finditer(
        r"<(div|span|td|tr|table)[^>]*background:(?!none)[^>]*>([^<]*)", value._repr_html_()
    ):
        assert found[2] == ""


def test_the_texts_of_users_stay_text():
    text = Page(PROCESS._repr_html_()).text
    assert "<script>alert(1)</script> & \"quoted\" 'text' \\x1b[31m\\n</div> \\ud800" in text


def test_the_card_of_a_process():
    page = Page(html_of(PROCESS, "this session"))
    for text in (
        "this session",
        "1.00 Wh",
        "0.900 to 1.20",
        "training",
        "data processing",
        "outside of stages",
    ):
        assert text in page.text
    assert "runs, outside of stages" in page.text and "for each of 1,000 samples" in page.text
    assert "Not in the figures: gpu" in page.text
    label = dict(page.attributes)["aria-label"]
    assert label is not None and label.startswith("training 56%, data processing 17%")


def test_what_has_no_kind_is_shown():
    both = footprint(100.0, stages={"training": Cost(100.0, 1.0)}) + footprint(300.0)
    assert "not by kind" in Page(both._repr_html_()).text


def test_a_sum_over_two_grids_says_so():
    both = footprint(100.0) + footprint(100.0, grid=intensity("DE"))
    assert "several grids" in Page(both._repr_html_()).text


def test_a_bar_ends_at_the_upper_end_of_its_band():
    card = Card(
        "", energy=Figure(100.0, 80.0, 200.0), of="stage", rows=[Row("training", 75.0), Row("x", 25.0)]
    )
    widths = re.findall(r"width:([\d.]+)%", html(card))
    assert widths[:2] == ["37.500", "12.500"]  # of 200 J
    assert "margin-left:40.000%;width:60.000%" in html(card)


def test_the_upper_end_of_a_lower_bound_is_open():
    card = Card("", energy=Figure(100.0, 80.0, math.inf), of="stage", rows=[Row("training", 100.0)])
    assert "border-right:none" in html(card) and "at least 80" in html(card)


numbers = st.floats(allow_nan=True, allow_infinity=True) | st.floats(-1e3, 1e3)


@given(st.tuples(*[numbers] * 9), st.text(max_size=20))
def test_no_figure_and_no_text_raises(figures, text):
    energy_j, low_j, high_j, grams, low_g, high_g, duration_s, fraction, part = figures
    any_footprint = replace(
        PROCESS,
        energy_j=energy_j,
        low_j=low_j,
        high_j=high_j,
        emissions_g=grams,
        low_g=low_g,
        high_g=high_g,
        duration_s=duration_s,
        measured_fraction=fraction,
        stages={text: Cost(part, grams), "training": Cost(energy_j, part)},
    )
    for value in (any_footprint, replace(any_footprint, stages={}, components={text: part})):
        assert repr(value) and text_of(value) if value.stages else repr(value)
        Page(html_of(value, text))
        value.rows()
    assert isinstance(share(part, energy_j), str)


@pytest.fixture
def measuring(tmp_path):
    carbon_otel.instrument(zone="FR", powercap_root=server(tmp_path).root, interval_s=30)
    yield
    carbon_otel.uninstrument()


def test_a_stage_says_how_far_it_is(measuring, monkeypatch):
    stage = carbon_otel.stage("training", "fit")
    assert repr(stage) == "Stage('training', 'fit', not begun)"
    reads = []
    monkeypatch.setattr(Engine, "at_moment", lambda *_: reads.append(1))
    with stage:
        assert re.fullmatch(r"Stage\('training', 'fit', open for [\d.]+ [µm]?s\)", repr(stage))
        assert not reads, "the line of an open stage must not read a sensor"
        monkeypatch.undo()
        assert "(still open)" in stage._repr_html_()
    assert re.fullmatch(r"Stage\('training', 'fit', .* CO2e, \d+% measured, [\d.]+ m?s\)", repr(stage))
    assert "training: fit" in stage._repr_html_()
    assert repr(carbon_otel.stage("training")) == "Stage('training', not begun)"


def test_a_stage_without_a_measurement():
    with carbon_otel.stage("training") as stage:
        pass
    assert repr(stage) == "Stage('training', not measured: call carbon_otel.instrument() before it)"
    assert "Not measured" in stage._repr_html_()


@pytest.mark.parametrize("name", ["footprint", "report", "where"])
def test_without_pandas_the_error_says_what_to_do(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"pip install pandas, or use rows\(\)"):
        SHOWN[name].to_frame()


def test_best_start_says_its_verdict():
    of_pricing = importlib.import_module("tests.unit.test_intensity_pricing")
    best = of_pricing.best_start(
        [of_pricing.use(0, 1, 1)], of_pricing.forecast(100, 90, 85, 95), of_pricing.START, 2
    )
    assert repr(best) == f"BestStart({best.verdict})"
