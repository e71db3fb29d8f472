"""The comparison of cloud regions as text, a table and bars on a rich console."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, Literal

from rich import box
from rich.table import Table

from carbon_otel.cli.output import Screen
from carbon_otel.lifecycle.where import Elsewhere, Where
from carbon_otel.quantities import EMISSIONS, Unit, emissions, unit, watt_hours

_BAR: Final = 10
_MS: Final = (
    "ms: there and back at the speed of light in glass along the great circle; routes take up to twice that"
)
_WIDE: Final = 130


def show(where: Where, console: Screen, most_rows: int | None = None) -> None:
    """Print the comparison; the cleanest regions only, if there are more than `most_rows`."""
    console.print(f"{where.title}: the same energy in {len(where.regions)} cloud regions")
    console.print(f"energy     {watt_hours(where.energy_wh, where.low_wh, where.high_wh)}")
    console.print(_here(where), soft_wrap=True)
    console.print(f"grids      {where.signal}; yearly means of {where.year} ({where.source})", soft_wrap=True)
    shown = where.regions[:most_rows]
    console.print(_table(shown, console))
    if len(shown) < len(where.regions):
        console.print(
            f"{len(where.regions) - len(shown)} more regions emit more than these: --all", soft_wrap=True
        )
    for line in _notes(where):
        console.print(line, soft_wrap=True)


def _here(where: Where) -> str:
    here = where.here
    if here is None:
        return f"here       not comparable: {where.why_not_here}"
    return (
        f"here       {here.name}: {emissions(here.emissions_g, here.low_g, here.high_g, of='CO2e')}, "
        f"{here.g_per_kwh:.4g} g/kWh, PUE {here.pue:.3g}; as logged: {emissions(where.logged_g)}"
    )


def _table(regions: Sequence[Elsewhere], console: Screen) -> Table:
    """All columns where they are readable, else those that matter most; none without a figure."""
    most = max((each.emissions_g for each in regions), default=0.0) or 1.0
    mass = unit(EMISSIONS, most)
    is_wide = console.width >= _WIDE
    table = Table(box=box.SIMPLE_HEAD, pad_edge=is_wide, collapse_padding=not is_wide)
    columns = []
    for name in _COLUMNS if is_wide else _NARROW:
        cells = [_COLUMNS[name](each, mass) for each in regions]
        if any(cells):
            columns.append(cells)
            is_text = name in ("region", "place", "differs")
            justify: Literal["left", "right"] = "left" if is_text else "right"
            gives_way = name == ("place" if is_wide else "region")
            title = name.format(mass.name)
            table.add_column(title, justify=justify, no_wrap=not gives_way, overflow="fold")
    if is_wide:
        columns.append(["█" * max(1, round(_BAR * each.emissions_g / most)) for each in regions])
        table.add_column("", style="green", no_wrap=True)
    for row in zip(*columns, strict=True):
        table.add_row(*row)
    return table


def _known(value: float | None, style: str) -> str:
    return "" if value is None else format(value, style)


_COLUMNS: Final[Mapping[str, Callable[[Elsewhere, Unit], str]]] = {
    "region": lambda each, _: each.region,
    "place": lambda each, _: each.place,
    "g/kWh": lambda each, _: f"{each.g_per_kwh:.0f}",
    "PUE": lambda each, _: f"{each.pue:.2f}",
    "{} CO2e": lambda each, mass: mass.number(each.emissions_g),
    "at least": lambda each, mass: mass.number(each.low_g),
    "at most": lambda each, mass: mass.number(each.high_g),
    "to here": lambda each, _: _known(each.ratio, ".2f"),
    "differs": lambda each, _: "no" if each.difference == "within the bands" else each.difference or "",
    "CFE": lambda each, _: _known(each.cfe, ".0%"),
    "km": lambda each, _: _known(each.distance_km, ".0f"),
    "ms": lambda each, _: _known(each.round_trip_ms, ".0f"),
}
_NARROW: Final = ("region", "PUE", "{} CO2e", "to here", "differs", "CFE", "ms")


def _notes(where: Where) -> Iterator[str]:
    if where.here is not None:
        less = sum(each.difference == "less" for each in where.regions)
        more = sum(each.difference == "more" for each in where.regions)
        same = len(where.regions) - less - more
        yield (
            f"beyond the bands of grid and PUE, {less} regions emit less than here and {more} more; {same} cannot "
            "be told from here"
        )
    yield "PUE: of the region, else of its geography or fleet; without a published one, that of a large cloud"
    yield "CFE: share of carbon-free energy by the hour with the provider's contracts; it is in no other column"
    if any(each.round_trip_ms is not None for each in where.regions):
        yield _MS
    yield from (f"lower bound: {line}" for line in where.lower_bounds)
    yield from (f"not comparable: {line}" for line in where.not_comparable)
