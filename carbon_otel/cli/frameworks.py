"""`carbon-otel doctor --frameworks`: which installed libraries become stages, and by which calls."""

from __future__ import annotations

from dataclasses import asdict

from rich.table import Table

from carbon_otel.cli.output import Screen, write_json
from carbon_otel.instrumentation import BUILT_IN
from carbon_otel.instrumentation.inventory import by_library, inventory


def show_frameworks(*, as_json: bool) -> None:
    """Print the calls of each installed library. Imports none of them."""
    calls = inventory(BUILT_IN)
    if as_json:
        write_json([asdict(call) for call in calls])
        return
    console = Screen()
    table = Table()
    for column in ("library", "version", "kind", "as a", "calls"):
        table.add_column(column, overflow="fold")
    for library, seen in by_library(calls).items():
        groups: dict[tuple[str, str], dict[str, None]] = {}
        for call in seen:
            if call.present:
                groups.setdefault((call.kind, call.weight), {})[call.call] = None
        first = library, seen[0].version
        for (kind, weight), names in groups.items():
            table.add_row(*first, kind, weight, ", ".join(names))
            first = "", ""
    console.print(table)
    console.print("A share is a part of the energy of the stage around it, by the time of its calls.")
    absent = [f"{call.library} {call.call}" for call in calls if not call.present]
    if absent:
        console.print(f"Not in the installed version: {', '.join(absent)}", soft_wrap=True)
    if not calls:
        console.print(
            "None of the libraries that carbon_otel knows is installed; write `with carbon_otel.stage(...)`."
        )
