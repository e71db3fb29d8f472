"""`carbon-otel zones`: the zones that `instrument(zone=...)` knows, and the cloud regions."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich import box
from rich.table import Table

from carbon_otel.carbon import grid, regions
from carbon_otel.carbon.intensity import Intensity
from carbon_otel.carbon.regions import CloudRegion
from carbon_otel.cli.output import Screen, refuse, write_json


def zones(
    word: Annotated[
        str, typer.Argument(help="Part of a code, a name, a town or a region; all zones without it.")
    ] = "",
    year: Annotated[int | None, typer.Option(help="Year of the average; by default the newest one.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List grid zones with their carbon intensity, and cloud regions with their PUE."""
    found, clouds = grid.find(word, year), regions.find(word) if word.strip() else []
    if as_json:
        write_json({"zones": list(map(_zone, found)), "regions": list(map(_region, clouds))})
        return
    if not found and not clouds:
        _refuse(word, year)
    console = Screen()
    if found:
        console.print(_zones(found))
        console.print("counts: lifecycle figures have fuel and power stations in them; direct ones do not.")
    if clouds:
        console.print(_regions(clouds))


def _refuse(word: str, year: int | None) -> None:
    try:
        known = grid.intensity(word, year).name
    except ValueError as error:
        refuse(str(error))
    refuse(f"no zone is named {word!r}; do you mean {known}?")


def _zones(found: list[Intensity]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("zone", "name", "g/kWh", "band", "year", "counts"):
        table.add_column(
            name, no_wrap=name != "name", justify="right" if name in ("g/kWh", "band") else "left"
        )
    for each in found:
        low, high = (each.g_per_kwh * end for end in (each.band.low, each.band.high))
        counts = f"{each.signal.scope}, {each.signal.basis}"
        table.add_row(
            each.zone, each.name, f"{each.g_per_kwh:.0f}", f"{low:.0f} to {high:.0f}", str(each.year), counts
        )
    return table


def _regions(clouds: list[CloudRegion]) -> Table:
    table = Table("region", "place", "zone", "PUE", "CFE", box=box.SIMPLE_HEAD)
    for each in clouds:
        pue = "" if each.pue is None else f"{each.pue.value:.2f}"
        cfe = "" if each.cfe is None else f"{each.cfe.value:.0%}"
        table.add_row(each.name, each.place, each.zone, pue, cfe)
    return table


def _zone(each: Intensity) -> dict[str, Any]:
    return {
        "zone": each.zone,
        "name": each.name,
        "g_per_kwh": each.g_per_kwh,
        "low": each.g_per_kwh * each.band.low,
        "high": each.g_per_kwh * each.band.high,
        "year": each.year,
        "signal": each.signal._asdict(),
        "losses": each.losses,
        "source": each.source,
        "licence": each.licence,
    }


def _region(each: CloudRegion) -> dict[str, Any]:
    return {
        "region": each.name,
        "place": each.place,
        "zone": each.zone,
        "pue": each.pue and each.pue.value,
        "pue_source": each.pue and str(each.pue),
        "wue": each.water_l_per_kwh,
        "cfe": each.cfe and each.cfe.value,
    }
