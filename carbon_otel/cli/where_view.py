"""The comparison of cloud regions as text, a table and bars on a rich console."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from rich import box
from rich.table import Table

from carbon_otel.cli.output import Screen
from carbon_otel.lifecycle.where import Elsewhere, Where
from carbon_otel.units import emissions, energy

_BAR: Final = 10
_WIDE: Final = 130


def show(where: Where, console: Screen, most_rows: int | None = None) -> None:
    """Print the comparison; the cleanest regions only, if there are more than `most_rows`."""
    console.print(f"{where.title}: the same energy in {len(where.regions)} cloud regions")
    console.print(f"energy     {energy(where.energy_wh)} ({energy(where.low_wh)} to {energy(where.high_wh)})")
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
        f"here       {here.name}: {emissions(here.emissions_g)} CO2e ({emissions(here.low_g)} to "
        f"{emissions(here.high_g)}), {here.g_per_kwh:.4g} g/kWh, PUE {here.pue:.3g}; as logged: "
        f"{emissions(where.logged_g)}"
    )


def _table(regions: Sequence[Elsewhere], console: Screen) -> Table:
    """All columns where they are readable, else those that matter most."""
    most = max((each.emissions_g for each in regions), default=0.0) or 1.0
    names = _COLUMNS if console.width >= _WIDE else _NARROW
    columns = {name: _COLUMNS[name] for name in names if any(map(_COLUMNS[name], regions))}
    table = Table(box=box.SIMPLE_HEAD)
    for name in columns:
        is_text = name in ("region", "place", "differs")
        table.add_column(name, justify="left" if is_text else "right", no_wrap=name != "place")
    if console.width >= _WIDE:
        table.add_column("", style="green", no_wrap=True)
    for each in regions:
        bar = ["█" * max(1, round(_BAR * each.emissions_g / most))] if console.width >= _WIDE else []
        table.add_row(*(cell(each) for cell in columns.values()), *bar)
    return table


def _known(value: float | None, style: str) -> str:
    return "" if value is None else format(value, style)


_COLUMNS: Final[Mapping[str, Callable[[Elsewhere], str]]] = {
    "region": lambda each: each.region,
    "place": lambda each: each.place,
    "g/kWh": lambda each: f"{each.g_per_kwh:.0f}",
    "PUE": lambda each: f"{each.pue:.2f}",
    "emissions": lambda each: emissions(each.emissions_g),
    "at least": lambda each: emissions(each.low_g),
    "at most": lambda each: emissions(each.high_g),
    "to here": lambda each: _known(each.ratio, ".2f"),
    "differs": lambda each: "no" if each.difference == "within the bands" else each.difference or "",
    "CFE": lambda each: _known(each.cfe, ".0%"),
    "km": lambda each: _known(each.distance_km, ".0f"),
    "ms": lambda each: _known(each.round_trip_ms, ".0f"),
}
_NARROW: Final = ("region", "PUE", "emissions", "to here", "differs", "CFE", "ms")


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
    yield "ms: there and back at the speed of light in glass along the great circle; routes take up to twice that"
    yield from (f"lower bound: {line}" for line in where.lower_bounds)
    yield from (f"not comparable: {line}" for line in where.not_comparable)
