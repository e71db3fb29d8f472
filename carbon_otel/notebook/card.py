"""What notebooks show of a value: its figures, a bar with the band, a table, and where the figures come from.

Colours and borders are inline and follow the colour of the text around them, so a card is readable in light and in
dark themes. It has no script and loads nothing. An element tree escapes every text.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from carbon_otel.quantities import EMISSIONS, ENERGY, Unit, emissions, energy, unit
from carbon_otel.text import shown

# Readable on white and on black.
_COLOURS: Final = {
    "training": "#3f87d6",
    "data processing": "#d07a1c",
    "evaluation": "#2f9e77",
    "inference": "#a06cd5",
    "cpu": "#2aa0b4",
    "gpu": "#8f9a2b",
    "memory": "#6f7fd8",
    "host": "#b5794a",
}
_OTHER_COLOURS: Final = ("#2aa0b4", "#8f9a2b", "#d0567f", "#6f7fd8", "#b5794a", "#c2603f")
_ALTERNATIVE: Final = "#3f87d6"
_QUIET_COLOURS: Final = ("#747982", "#8f949c", "#666b73")
_LINE: Final = "1px solid rgba(128,128,128,.35)"
_FAINT: Final = "opacity:.72"
# JupyterLab and VS Code have styles for tables, which these replace.
_CELL: Final = (
    "padding:2px 14px 2px 0;border:none;background:none;font-weight:inherit;font-size:inherit;color:inherit;"
    "max-width:none;vertical-align:baseline;"
)
_LEFT: Final = f"{_CELL}text-align:left;overflow-wrap:anywhere"
_RIGHT: Final = f"{_CELL}text-align:right;white-space:nowrap"
_TRACK: Final = "display:flex;height:12px;border-radius:3px;overflow:hidden;background:rgba(128,128,128,.18)"
_CARD: Final = (
    f"max-width:640px;margin:4px 0;padding:10px 14px;border:{_LINE};border-radius:6px;color:inherit;"
    "font-size:13px;line-height:1.5;font-variant-numeric:tabular-nums;overflow-wrap:anywhere"
)


class Figure(NamedTuple):
    """A value with its band; the ends of the band are NaN where it is unknown."""

    value: float
    low: float = math.nan
    high: float = math.nan


class Row(NamedTuple):
    """A row of the table, in joules and grams; `quiet` rows are grey."""

    name: str
    energy_j: float = math.nan
    emissions_g: float = math.nan
    note: str = ""
    quiet: bool = False


@dataclass(frozen=True, slots=True)
class Card:
    """What is shown of a value.

    Attributes:
        title: what the value is of.
        energy: joules; None if it has no energy.
        emissions: grams of CO2 equivalent; None if it has none.
        texts: what stands beside the two figures, such as a duration.
        of: what the rows are, such as `stage`.
        rows: the table.
        parts: whether the rows add up to the figure; else they are alternatives, each with its own bar.
        legend: whether a line with the shares of the rows is enough, in place of the table.
        facts: lines that are always shown, such as the provenance.
        more: names and texts that are shown when they are asked for.
    """

    title: str
    energy: Figure | None = None
    emissions: Figure | None = None
    texts: Sequence[str] = ()
    of: str = ""
    rows: Sequence[Row] = ()
    parts: bool = True
    legend: bool = False
    facts: Sequence[str] = ()
    more: Sequence[tuple[str, str]] = ()


def html(card: Card) -> str:
    """The card as a fragment of HTML."""
    colours = _colours(card)
    children = [
        _element("div", shown(card.title), style="font-weight:600;margin-bottom:2px") if card.title else None,
        _headline(card),
        *(_bar(card, colours) if card.parts else ()),
        _rows(card, colours) if card.rows else None,
        *(_element("div", shown(fact), style=f"font-size:12px;{_FAINT}") for fact in card.facts),
        _details(card.more) if card.more else None,
    ]
    whole = _element("div", *(child for child in children if child is not None), style=_CARD)
    whole.set("class", "carbon-otel")
    return ElementTree.tostring(whole, encoding="unicode", method="html")


def share(part: float, whole: float) -> str:
    """A share as text; neither nearly nothing nor nearly all is rounded away."""
    ratio = part / whole if whole > 0 else math.nan
    if math.isnan(ratio):
        return ""
    if 0 < ratio < 0.005:
        return "<1%"
    return ">99%" if 0.995 <= ratio < 1 else f"{ratio:.0%}"


def co2e(grams: float, low_g: float = math.nan, high_g: float = math.nan, name: str = "CO2e") -> str:
    """Emissions as text with what they count: `3.2 mg CO2e (2.9 to 3.5)`."""
    value, bracket, band = emissions(grams, low_g, high_g).partition(" (")
    return f"{value} {name}{bracket}{band}"


def _element(tag: str, *children: Element | str, style: str = "") -> Element:
    made = Element(tag, {"style": style} if style else {})
    last: Element | None = None
    for child in children:
        if isinstance(child, Element):
            made.append(child)
            last = child
        elif last is None:
            made.text = (made.text or "") + child
        else:
            last.tail = (last.tail or "") + child
    return made


def _headline(card: Card) -> Element | None:
    figures = []
    if card.energy is not None:
        figures.append(energy(*card.energy))
    if card.emissions is not None:
        figures.append(co2e(*card.emissions, name="CO₂e"))
    items: list[Element | str] = []
    for figure in (*figures, *card.texts):
        value, bracket, band = shown(figure).partition(" (")
        strong = _element("span", value, style="font-size:17px;font-weight:600")
        faint = _element("span", f"{bracket}{band}", style=f"font-size:12px;{_FAINT}")
        # The blanks are for pages that ignore styles, such as a preview.
        items += [_element("span", strong, faint, style="margin-right:18px;white-space:nowrap"), " "]
    return _element("div", *items) if items else None


def _bar(card: Card, colours: Sequence[str]) -> Iterator[Element]:
    """The rows as one bar, with a bracket from the lower to the upper end of the band."""
    rows = [(row, value) for row in card.rows if (value := _measure(card, row)) > 0]
    figure = card.energy or card.emissions
    if figure is None or not rows:
        return
    total = sum(value for _, value in rows)
    low, high = figure.low, figure.high
    has_band = low <= total <= high
    end = high if has_band and math.isfinite(high) else total
    of = dict(zip(card.rows, colours, strict=True))
    parts = [
        _element("div", style=f"width:{_percent(value, end)};background:{of[row]}") for row, value in rows
    ]
    bar = _element("div", *parts, style=f"{_TRACK};margin-top:6px")
    bar.set("role", "img")
    bar.set("aria-label", shown(", ".join(f"{row.name} {share(value, total)}" for row, value in rows)))
    yield bar
    if has_band:
        place = f"margin-left:{_percent(low, end)};width:{_percent(end - low, end)}"
        bracket = _element(
            "div",
            style=f"box-sizing:border-box;height:6px;margin-top:2px;{place};min-width:2px;"
            "border:1px solid currentColor;border-top:none;opacity:.55"
            + ("" if math.isfinite(high) else ";border-right:none"),
        )
        bracket.set("title", "the band: where the true figure is expected")
        yield bracket


def _rows(card: Card, colours: Sequence[str]) -> Element:
    if not card.legend:
        return _table(card, colours)
    measures = [_measure(card, row) for row in card.rows]
    total = sum(value for value in measures if value > 0)
    items: list[Element | str] = []
    for row, value, colour in zip(card.rows, measures, colours, strict=True):
        text = shown(f"{row.name} {share(value, total)}")
        items += [_element("span", _mark(colour), text, style="margin-right:14px"), " "]
    return _element("div", *items, style="font-size:12px;margin:4px 0 2px")


def _mark(colour: str) -> Element:
    return _element(
        "span",
        style="display:inline-block;width:9px;height:9px;border-radius:2px;margin-right:7px;"
        f"background:{colour}",
    )


def _table(card: Card, colours: Sequence[str]) -> Element:
    joules = [row.energy_j for row in card.rows]
    grams = [row.emissions_g for row in card.rows]
    columns: list[tuple[str, list[str], str]] = []
    for values, units, what, whole in (
        (joules, ENERGY, "", card.energy),
        (grams, EMISSIONS, " CO₂e", card.emissions),
    ):
        if not all(map(math.isnan, values)):
            # The unit of the figure above, where the rows are its parts.
            chosen = unit(units, *([whole.value] if card.parts and whole is not None else values))
            numbers = [_number(chosen, value) for value in values]
            columns.append((f"{chosen.name}{what}", numbers, _RIGHT))
    measures = [_measure(card, row) for row in card.rows]
    if card.parts:
        total = sum(value for value in measures if value > 0)
        columns.append(("share", [share(value, total) for value in measures], _RIGHT))
    if any(row.note for row in card.rows):
        columns.append(("", [row.note for row in card.rows], _LEFT))
    head = [
        _element("th", card.of, style=f"{_LEFT};{_FAINT}"),
        *(_element("th", name, style=f"{style};{_FAINT}") for name, _, style in columns),
    ]
    body = []
    for number, row in enumerate(card.rows):
        cells = [_element("td", shown(texts[number]), style=style) for _, texts, style in columns]
        mark = [_mark(colours[number])] if card.parts else []
        name = _element("td", *mark, shown(row.name), style=_LEFT)
        if not card.parts:
            bar = _own_bar(measures, number, colours[number])
            cells.append(_element("td", bar, style=_CELL.replace("baseline", "middle")))
        body.append(_element("tr", name, *cells, style="background:none"))
    if not card.parts:
        head.append(_element("th", style=_CELL))
    return _element(
        "table",
        _element("thead", _element("tr", *head, style="background:none"), style="border:none"),
        _element("tbody", *body),
        style="border-collapse:collapse;border:none;margin:6px 0 4px;width:auto;table-layout:auto;"
        "font-size:13px;color:inherit;display:table",
    )


def _own_bar(measures: Sequence[float], number: int, colour: str) -> Element:
    known = [value if value > 0 else 0.0 for value in measures]
    part = _element("div", style=f"width:{_percent(known[number], max(known))};background:{colour}")
    return _element("div", part, style=f"{_TRACK};width:120px")


def _details(more: Sequence[tuple[str, str]]) -> Element:
    rows = [
        _element(
            "tr",
            _element("td", shown(name), style=f"{_LEFT};{_FAINT};min-width:90px"),
            _element("td", shown(text), style=_LEFT),
            style="background:none",
        )
        for name, text in more
    ]
    table = _element(
        "table",
        _element("tbody", *rows),
        style="border-collapse:collapse;border:none;font-size:12px;color:inherit;margin:2px 0",
    )
    summary = _element("summary", "details", style=f"cursor:pointer;font-size:12px;{_FAINT}")
    return _element("details", summary, table)


def _measure(card: Card, row: Row) -> float:
    """What a row's bar shows."""
    return row.energy_j if card.energy is not None and card.parts else row.emissions_g


def _colours(card: Card) -> list[str]:
    """A colour for each part; alternatives have one in common."""
    others, quiet = itertools.cycle(_OTHER_COLOURS), itertools.cycle(_QUIET_COLOURS)
    if not card.parts:
        return [_QUIET_COLOURS[0] if row.quiet else _ALTERNATIVE for row in card.rows]
    return [next(quiet) if row.quiet else _COLOURS.get(row.name) or next(others) for row in card.rows]


def _number(chosen: Unit, value: float) -> str:
    return "" if math.isnan(value) else chosen.number(value)


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole if whole > 0 else 0:.3f}%"
