"""The pages of report, compare and where: their figures, any text in them, and that a browser can rely on them."""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from dataclasses import replace
from datetime import datetime, timezone
from html import unescape
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("jinja2", reason="Jinja2 comes with mlflow")

from carbon_otel._version import __version__
from carbon_otel.lifecycle.beside import EntryBeside
from carbon_otel.lifecycle.comparison import differences, pareto, verdict
from carbon_otel.lifecycle.day_profile import day_profile
from carbon_otel.lifecycle.entry import LedgerCost
from carbon_otel.lifecycle.ledger import Ledger
from carbon_otel.lifecycle.report import report_of
from carbon_otel.lifecycle.where import where_of
from carbon_otel.mlflow.schema import names
from carbon_otel.mlflow.schema.rank_figures import RankFigures
from carbon_otel.pages import charts, compare, report, where
from carbon_otel.pages.environment import Made, percent
from carbon_otel.pages.values import chosen
from tests.fakes import model_life
from tests.unit.test_report import entry

MADE = Made(datetime(2026, 11, 26, 17, 30, tzinfo=timezone.utc), "carbon-otel report churn --format html")
VOID = {"meta", "link", "br", "hr", "img", "input"}


class Document(HTMLParser):
    """A page as a browser sees it: its elements, and the text of each."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.in_order = True
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag):
        self.in_order = self.in_order and bool(self.open) and self.open.pop() == tag

    def all(self, attribute):
        return [attrs[attribute] for _, attrs in self.elements if attribute in attrs]


def text(html):
    """What people read, on one line."""
    body = re.sub(r'<span class="tip".*?</span>', "", html[html.index("<body") :], flags=re.DOTALL)
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]*>", " ", body)))


def page(*entries, made=MADE, metric=None, **options):
    ledger = Ledger("churn", entries or (entry(), entry(1)))
    found = report_of(ledger, **options)
    return report.page(found, made, where_of(ledger) if found.total.energy_wh > 0 else None, metric)


def life_pages(clouds=()):
    ledger = model_life.ledger()
    costs, quality = model_life.costs()
    verdicts, front = [verdict(costs[0], other) for other in costs[1:]], pareto(costs, quality)
    return {
        "report": report.page(report_of(ledger, water=True), MADE, where_of(ledger), "accuracy"),
        "where": where.page(where_of(ledger, clouds), MADE),
        "compare": compare.page(
            costs, verdicts, differences(costs), [], MADE, metric="accuracy", quality=quality, front=front
        ),
    }


@pytest.fixture(scope="module")
def pages():
    return life_pages()


@pytest.mark.parametrize("kind", ["report", "where", "compare"])
class TestEveryPage:
    def test_asks_for_nothing_from_elsewhere_and_has_no_script(self, pages, kind):
        html = pages[kind]
        assert html.startswith("<!doctype html>")
        assert not [w for w in ("http://", "https://", "<script", "src=", "url(", "@import") if w in html]
        assert "default-src 'none'" in html
        assert set(Document(html).all("href")) - {"data:,"} == {
            h for h in Document(html).all("href") if h[0] == "#"
        }

    def test_its_elements_are_closed_in_order(self, pages, kind):
        document = Document(pages[kind])
        assert document.in_order and not document.open

    def test_its_links_and_descriptions_lead_somewhere_and_ids_are_unique(self, pages, kind):
        document = Document(pages[kind])
        ids = Counter(document.all("id"))
        assert set(ids.values()) == {1}
        targets = [h[1:] for h in document.all("href") if h.startswith("#")]
        targets += document.all("aria-describedby") + document.all("aria-labelledby")
        assert targets and not set(targets) - set(ids)

    def test_it_has_landmarks_and_headings_in_order(self, pages, kind):
        tags = [tag for tag, _ in Document(pages[kind]).elements]
        assert {tags.count(tag) for tag in ("header", "nav", "main", "footer", "h1")} == {1}
        levels = [int(tag[1]) for tag in tags if re.fullmatch("h[1-6]", tag)]
        assert levels[0] == 1 and all(after - before <= 1 for before, after in itertools.pairwise(levels))

    def test_its_tables_have_captions_and_scopes_and_scroll_with_the_keyboard(self, pages, kind):
        document = Document(pages[kind])
        tags = [tag for tag, _ in document.elements]
        assert tags.count("table") == tags.count("caption") > 0
        assert all(attrs.get("scope") in ("col", "row") for tag, attrs in document.elements if tag == "th")
        scrolled = [attrs for _, attrs in document.elements if attrs.get("class") == "scroll"]
        assert len(scrolled) == tags.count("table")
        assert all(attrs["tabindex"] == "0" and attrs["aria-label"] for attrs in scrolled)

    def test_it_says_when_and_by_what_it_was_made(self, pages, kind):
        made = f"Made on 2026-11-26 at 17:30 UTC by carbon_otel {__version__} with the command"
        assert made in text(pages[kind]) and MADE.command in text(pages[kind])


class TestText:
    """Names that others have written stay text."""

    STRANGE = "[bold]</pre></td><script>alert(1)</script>{{ 7*7 }}{% raw %}\"'><img src=x onerror=alert(1)>"

    def strange(self, name):
        tags = {**entry().tags, "carbon.method": name, "carbon.status": "running", "carbon.hardware": name}
        one = replace(
            entry(),
            name=name,
            status=name,
            stages={name: LedgerCost(10.0, 5.0), "inference": LedgerCost(1.0, 1.0)},
            tags=tags,
            units={f"inference/{name}": 2.0},
            params={name: name},
            metrics={name: 0.5},
            ranks=(RankFigures(*[0.0] * len(RankFigures._fields)),),
            dataset=name,
        )
        ledger = Ledger(name, (one,), (name,), (f"{name}: cut",))
        return report.page(report_of(ledger), MADE._replace(command=name), where_of(ledger), name)

    def test_markup_and_templates_are_shown_as_written(self):
        html = self.strange(self.STRANGE)
        document = Document(html)
        assert document.in_order and not document.open
        assert not {"script", "img"} & {tag for tag, _ in document.elements}
        assert "49" not in text(html).replace(self.STRANGE, "")
        assert text(html).count("[bold]</pre></td><script>alert(1)</script>{{ 7*7 }}") >= 10

    def test_escapes_and_bidirectional_characters_do_nothing(self):
        html = self.strange("\x1b[31mred\x07\u202eevil\u2066x\x9b2J\nfake line\udc80")
        html.encode()
        unsafe = ("\x1b", "\x07", "\x9b", "\u202e", "\u2066", "\nfake", "\udc80")
        assert not [character for character in unsafe if character in html]
        assert "\\u202e" in html and "\\x1b" in html

    def test_a_name_of_ten_thousand_characters_is_cut(self):
        html = self.strange("n" * 10_000)
        assert "(10,000 characters)" in html and len(html) < 120_000

    def test_secrets_are_hidden_in_names_parameters_and_the_command(self):
        html = self.strange("postgresql://me:hunter2hunter2@host/db?token=sesame-open-123456")
        assert "postgresql://me" in html
        assert "hunter2" not in html and "sesame" not in html

    def test_a_secret_is_hidden_before_the_text_is_cut(self):
        """A half of it would not be known as a secret."""
        html = self.strange("x" * 60 + " https://me:hunter2hunter2hunter2@host")
        assert "hunter2" not in html

    def test_in_the_comparison_and_the_places(self):
        costs, quality = model_life.costs()
        named = [replace(cost, name=self.STRANGE, tags={"carbon.method": self.STRANGE}) for cost in costs[:2]]
        html = compare.page(
            named, [self.STRANGE], [self.STRANGE], [self.STRANGE], MADE, metric=self.STRANGE, quality=quality
        )
        html += where.page(where_of(Ledger(self.STRANGE, (entry(),))), MADE)
        assert "<script" not in html and "<img" not in html and text(html).count("{{ 7*7 }}") >= 8


class TestReport:
    def test_the_headline_has_the_bands_and_the_measured_share(self):
        shown = text(page(entry(), entry(1)))
        assert "Energy 20.0 Wh band : 18.0 to 22.0" in shown
        assert "Measured by sensors 100 %" in shown
        assert "Embodied carbon unknown" in shown

    def test_a_lower_bound_has_no_upper_end(self):
        killed = replace(entry(1), tags={**entry().tags, "carbon.status": "running"})
        shown = text(page(entry(), killed))
        assert "band : at least 18" in shown and "run 1 has not ended in order" in shown
        assert "≥ 10.0 at least 9.00" in shown

    def test_stages_add_up_and_have_letters_beside_their_colours(self):
        stages = {
            "training": LedgerCost(30.0, 3.0),
            "mine": LedgerCost(10.0, 1.0),
            "run": LedgerCost(0.0, 0.0),
        }
        html = page(replace(entry(), stages=stages))
        assert 'aria-label="Energy by stage: training 75 %, mine 25 %, run 0 %"' in html
        assert "A training 30.0 75 %" in text(html) and "B mine 10.0 25 %" in text(html)

    def test_many_kinds_of_stage_are_added_up(self):
        stages = {f"kind {number}": LedgerCost(number, 1.0) for number in range(20)}
        shown = text(page(replace(entry(), stages=stages)))
        others = sum(range(12))
        assert f"12 others {others}.0" in shown and "A kind 19 19.0" in shown

    def test_embodied_carbon_is_beside_the_emissions_and_in_no_sum(self):
        made = EntryBeside({"training": 7.0}, 6.0, 8.0)
        shown = text(page(replace(entry(grams=5.0), beside=made), entry(1, grams=5.0)))
        assert "Embodied carbon 7.00 g CO 2 e band: 6.00 to 8.00; not in the emissions" in shown
        assert "Both known for 1 of 2 entries" in shown
        assert (
            "operational 5.00 g" in re.sub("Operational|Emissions of[^.]*[.]", "", shown) or "5.00 g" in shown
        )
        assert "12.0 g" not in shown and "17.0 g" not in shown

    def test_attempts_have_date_id_parameters_and_metrics(self):
        one = replace(
            entry(1), start_ms=86_400_000, params={"depth": "4", "seed": "7"}, metrics={"loss": 0.25}
        )
        other = replace(
            entry(2), params={"depth": "8", "seed": "7"}, metrics={"loss": 0.5, "accuracy": 0.875}
        )
        shown = text(page(one, other, metric="accuracy"))
        assert "depth accuracy loss Energy" in shown and "seed" not in shown
        assert "run 1 00000000 1970-01-02 00:00, 1 h ✓" not in shown, "the mark is of the style"
        assert "run 1 00000000 1970-01-02 00:00, 1 h finished unknown 4 0.25 10.0" in shown
        assert "run 2 00000000 1970-01-01 00:00, 1 h finished unknown 8 0.875 0.5 10.0" in shown

    def test_a_long_value_of_a_parameter_is_cut(self):
        shown = text(page(replace(entry(), params={"prompt": "x" * 100})))
        assert f"{'x' * 24}… (100 characters)" in shown and "x" * 25 not in shown

    def test_a_metric_that_no_run_has_is_refused(self):
        with pytest.raises(ValueError, match="none of these runs has a metric 'acuracy'"):
            page(metric="acuracy")

    def test_of_many_attempts_the_largest_are_shown_and_the_others_add_up(self):
        many = [entry(number, wh=1.0 + number / 1000, grams=1.0) for number in range(1000)]
        html = page(*many)
        rows = re.findall(r"<bdi>run \d+</bdi>", html[html.index('id="attempts"') : html.index('id="place"')])
        assert len(rows) == 100 and "<bdi>run 999</bdi>" in rows and "<bdi>run 0</bdi>" not in rows
        shown_wh = sum(1.0 + number / 1000 for number in range(900, 1000))
        total_wh = sum(1.0 + number / 1000 for number in range(1000))
        assert f"and 900 others {total_wh - shown_wh:,.0f} 900 All {total_wh:,.0f} 1,000" in text(html)

    def test_ten_thousand_entries_with_long_names_are_a_small_page(self):
        many = [
            replace(
                entry(number),
                name=f"{number} " + "x" * 2000,
                params={f"p{place}": str(number) for place in range(30)},
                tags={**entry().tags, "carbon.status": "running", "carbon.hardware": f"host {number}"},
            )
            for number in range(10_000)
        ]
        ledger = Ledger("churn", tuple(many), tuple(f"none {n}" for n in range(10_000)))
        html = report.page(report_of(ledger), MADE, where_of(ledger))
        assert len(html) < 1_000_000
        assert "and 9,980 more" in html and "and 9,900 others" in html

    def test_months_without_energy_have_a_place_of_their_own(self):
        hours = {**entry().tags, names.HOURLY: "2026-01-05=1 2026-04-05=3"}
        shown = text(page(replace(entry(), tags=hours)))
        for row in ("2026-01 2.50", "2026-02 0 0", "2026-03 0 0", "2026-04 7.50"):
            assert row in shown

    def test_one_month_is_no_chart(self):
        assert 'id="months"' not in page(entry())

    def test_the_months_of_decades_are_one_bar(self):
        months = " ".join(f"{2000 + number // 12}-{number % 12 + 1:02}=1" for number in range(120))
        html = page(replace(entry(wh=120.0), tags={**entry().tags, names.HOURLY: months}))
        assert "before 2008-01 96.0" in text(html) and "2009-12 1.00" in text(html)

    def test_dates_that_no_calendar_has_are_in_the_sums(self):
        tags = {**entry().tags, names.HOURLY: "2026-99-99=1 2026-02-31=1 0000-01-01=1 2026-03-01=1"}
        served = replace(entry(1), stages={"inference": LedgerCost(4.0, 1.0)}, tags=tags)
        shown = text(page(entry(), served))
        assert "no date 1.00" in shown and "2026-03 1.00" in shown and "before" in shown

    def test_inference_against_training(self):
        days = " ".join(f"2026-11-{day:02}=1" for day in range(1, 31))
        served = replace(
            entry(1),
            stages={"inference": LedgerCost(30.0, 1.0)},
            tags={**entry().tags, names.HOURLY: days},
            units={"inference/requests": 3000.0},
        )
        html = page(entry(), served)
        assert "inference has used more than all training since 2026-11-11" in text(html)
        assert "2026-11-30 30.0 Wh 300 %" in text(html) and "all training, 10.0 Wh" in text(html)
        assert "requests 10.0 Wh 333 mg unknown" in text(html)
        (line,) = re.findall(r'<polyline class="line" points="([^"]*)"', html)
        points = [tuple(map(float, point.split(","))) for point in line.split()]
        assert points[0] == (0.0, 100.0) and points[-1][0] == 100.0 and points == sorted(points)
        assert points[-1][1] == pytest.approx(100 - 100 / 1.08, abs=0.01)

    def test_without_inference_there_is_no_amortisation(self):
        assert 'id="amortisation"' not in page(entry())

    def test_other_grids_and_recomputed_ones_are_named(self):
        mixed = page(entry(), entry(1, zone="DE"))
        assert "The emissions mix several grids" in text(mixed)
        recomputed = text(page(entry(), zone="PL", year=2022))
        assert "emissions recomputed for Poland 2022" in recomputed and "PL, " in recomputed

    def test_ranks_and_market_and_water(self):
        rank = RankFigures(*[1.0] * len(RankFigures._fields))._replace(rank=0)
        one = replace(entry(), ranks=(rank,) * 20, beside=EntryBeside(market_g=2.0, water_l=(1.0, 0.5, 2.0)))
        shown = text(page(one, entry(1), water=True))
        assert "and 4 ranks that wait longer" in shown
        assert "2.00 g CO 2 e, unknown for 1 of 2 entries" in shown
        assert "Market-based" in shown and " L (" in shown

    def test_an_entry_without_energy(self):
        nothing = replace(entry(), stages={}, low_wh=0.0, high_wh=0.0, measured_wh=0.0)
        shown = text(page(nothing))
        assert "Energy 0 J" in shown and "These runs have no energy to move." in shown


class TestWhere:
    def test_regions_are_counted_and_ranked(self, pages):
        found = where_of(model_life.ledger())
        less = sum(each.difference == "less" for each in found.regions)
        shown = text(pages["where"])
        assert f"Regions that emit less than here beyond the bands of grid and PUE: {less} ; more:" in shown
        assert f"{len(found.regions) - 20} more regions" in shown
        assert all(each.region in shown for each in found.regions)

    def test_each_region_has_a_mark_of_its_kind(self, pages):
        swarm = pages["where"][pages["where"].index('class="swarm"') : pages["where"].index("</figcaption>")]
        found = where_of(model_life.ledger())
        assert swarm.count('class="dot-') == len(found.regions)
        assert swarm.count('class="dot-less"') == sum(each.difference == "less" for each in found.regions)

    def test_a_place_that_is_not_comparable_says_so(self):
        html = where.page(where_of(Ledger("churn", (entry(zone="WORLD"),))), MADE)
        assert (
            "The place of the runs is not comparable" in text(html)
            and "here-line" not in html[3000:].split("</style>")[1]
        )


class TestCompare:
    def test_figures_verdicts_and_the_front(self, pages):
        costs, quality = model_life.costs()
        shown = text(pages["compare"])
        assert verdict(costs[0], costs[1]) in shown
        assert shown.count("Pareto front") >= len(pareto(costs, quality))
        assert "cut off" in shown and "≥ 1.8 kWh at least 1.7" in shown

    def test_unknown_figures_are_unknown(self):
        costs, _ = model_life.costs()
        bare = replace(
            costs[0], low_wh=math.nan, high_wh=math.nan, duration_s=math.nan, measured_fraction=math.nan
        )
        shown = text(compare.page([bare, costs[1]], ["one"], [], ["run x: cut"], MADE))
        assert "unknown unknown" in shown and "unreadable: run x: cut" in shown
        assert "They were measured in the same way." in shown and "nan" not in shown

    def test_one_value_of_the_metric_is_no_chart(self):
        costs, _ = model_life.costs()
        html = compare.page(costs[:2], ["one"], [], [], MADE, metric="f1", quality={costs[0].run_id: 0.5})
        assert 'id="quality"' not in html and "unknown" in text(html)


class TestCharts:
    values = st.lists(st.floats(0, 1e12), min_size=1, max_size=20)

    @given(values)
    def test_parts_are_the_whole(self, values):
        found = charts.parts(values)
        assert sum(found) == pytest.approx(100) or not any(values) or sum(values) == 0

    @given(st.lists(st.tuples(*[st.floats(0, 1e12) | st.just(math.nan)] * 3), min_size=1))
    def test_ranges_stay_in_their_box(self, figures):
        for each in charts.ranges(figures):
            assert 0 <= each.low <= each.value <= each.high <= 100

    def test_a_lower_bound_has_a_range_to_the_edge(self):
        (one,) = charts.ranges([(10.0, 9.0, math.inf)])
        assert one.high == 100 and one.low < one.value < 100

    @given(st.floats(1e-9, 1e12))
    def test_ticks_are_few_round_and_within_the_axis(self, most):
        found = charts.ticks(most, charts.energy_scale([most]))
        assert 2 <= len(found) <= 7
        assert found[0] == (0.0, "0") and all(0 <= mark.percent <= 100 + 1e-6 for mark in found)

    def test_ticks_by_hand(self):
        found = charts.ticks(12_000.0, charts.energy_scale([12_000.0]))
        assert [mark.text for mark in found] == ["0", "5", "10"]
        assert found[1].percent == pytest.approx(5000 / 120)


class TestValues:
    def test_those_that_differ_between_the_rows_that_have_some(self):
        found = chosen([{}, {"a": "1", "same": "x"}, {"a": "2", "same": "x"}])
        assert found == (["a"], [[""], ["1"], ["2"]], 0)

    def test_of_one_row_all(self):
        assert chosen([{"a": "1"}]).names == ["a"]

    def test_too_many_are_counted(self):
        found = chosen([{str(n): str(n) for n in range(9)}, {}, {str(n): "0" for n in range(1, 9)}], "8")
        assert found.names[0] == "8" and len(found.names) == 5 and found.left_out == 4

    def test_numbers_are_short(self):
        found = chosen([{"a": "x" * 100, "b": 0.123456}, {"a": "y", "b": math.nan}])  # type: ignore[list-item]
        assert found.rows == [["x" * 100, "0.1235"], ["y", "nan"]]


def test_shares_as_text():
    assert [percent(share) for share in (0.0, 0.0001, 0.0123, 0.5, 1.0, math.nan)] == [
        "0 %",
        "under 0.1 %",
        "1.2 %",
        "50 %",
        "100 %",
        "unknown",
    ]


@given(
    st.lists(
        st.sampled_from(
            ["", "2026-11-24T13=1,2", "2026-11-24T23:45=3", "2026-11-24=5", "2026-11-24T99=1", "x"]
        ),
        min_size=1,
    )
)
def test_the_hours_of_the_day_and_what_is_unknown_add_up_to_the_energy(texts):
    entries = [replace(entry(n), tags={**entry().tags, names.HOURLY: text}) for n, text in enumerate(texts)]
    found = day_profile(entries)
    assert sum(found.by_hour_wh) + found.unknown_wh == pytest.approx(10.0 * len(entries))


def test_energy_is_in_the_hours_in_which_it_was_used():
    tags = {**entry().tags, names.HOURLY: "2026-11-24T13=1,3 2026-11-25T13=1"}
    found = day_profile([replace(entry(wh=5.0), tags=tags)])
    assert (found.by_hour_wh[13], found.by_hour_wh[14], found.unknown_wh) == pytest.approx((2.0, 3.0, 0.0))
