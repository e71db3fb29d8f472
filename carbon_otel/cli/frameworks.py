"""`carbon-otel doctor --frameworks`: which installed libraries become stages, and by which calls."""

from __future__ import annotations

from dataclasses import asdict
from typing import Final

from rich.table import Column, Table

from carbon_otel.cli.output import Screen, write_json
from carbon_otel.instrumentation import BUILT_IN
from carbon_otel.instrumentation.inventory import by_library, inventory

_KIND: Final = 18
_WEIGHT: Final = 6


def show_frameworks(*, as_json: bool) -> None:
    """Print the calls of each installed library. Imports none of them."""
    calls = inventory(BUILT_IN)
    if as_json:
        write_json([asdict(call) for call in calls])
        return
    console = Screen()
    for library, seen in by_library(calls).items():
        groups: dict[tuple[str, str], dict[str, None]] = {}
        for call in seen:
            if call.present:
                groups.setdefault((call.kind, call.weight), {})[call.call] = None
        table = Table.grid(
            Column(width=_KIND), Column(width=_WEIGHT), Column(overflow="fold"), padding=(0, 1, 0, 0)
        )
        for (kind, weight), names in groups.items():
            table.add_row(f"  {kind}", weight, ", ".join(names))
        console.print(f"{library} {seen[0].version}")
        console.print(table)
    console.line()
    console.print("A share is a part of the energy of the stage around it, by the time of its calls.")
    console.print(
        "stage*: the first 20 calls, then one a second and those after a long one; the others are shares."
    )
    absent = [f"{call.library} {call.call}" for call in calls if not call.present]
    if absent:
        console.print(f"Not in the installed version: {', '.join(absent)}", soft_wrap=True)
    if not calls:
        console.print(
            "None of the libraries that carbon_otel knows is installed; write `with carbon_otel.stage(...)`."
        )
