"""Which test makes each call of the tables: `calls.csv`, and the table of the instrumentation's page."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import NamedTuple

from carbon_otel.instrumentation import BUILT_IN
from carbon_otel.instrumentation.inventory import Known, known

FILE = Path(__file__).with_name("calls.csv")


class Row(NamedTuple):
    """A call, the units that are counted of it, and a test that makes it; no test if only its units have one."""

    module: str
    function: str
    units: str
    file: str
    test: str


def rows() -> list[Row]:
    with FILE.open(newline="") as file:
        return [Row(**row) for row in csv.DictReader(file)]


def tested() -> dict[Known, Row]:
    """All calls, as people name them, with their test. Raises KeyError for a call that has none."""
    by_call = {(row.module, row.function): row for row in rows()}
    found: dict[Known, Row] = {}
    missing: list[Known] = []
    for call in known(BUILT_IN):
        row = by_call.get((call.module, call.function))
        if row is not None:
            found[call] = row
        else:
            missing.append(call)
    # The same call may be defined in one module for each backend, or version, of its library.
    named = {(call.library, call.call, call.kind) for call in found}
    for call in missing:
        if (call.library, call.call, call.kind) not in named:
            raise KeyError(f"{call.module}.{call.function} has no test in {FILE.name}")
    return found


def table() -> str:
    """The table as it is written between the markers: calls that have all else in common are one line."""
    lines: dict[tuple[str, str, str, str], list[str]] = {}
    for call, row in tested().items():
        kind = f"`{call.kind}`" + {"share": ", share", "stage*": " *"}.get(call.weight, "")
        file = row.file.removeprefix("test_").removesuffix(".py")
        test = f"{file}: `{row.test}`" if row.test else f"not run here; its units: {file}"
        names = lines.setdefault((call.library, kind, row.units, test), [])
        if call.call not in names:
            names.append(call.call)
    made = ["| library | calls | stage | units | test |", "|---|---|---|---|---|"]
    before = ""
    for (library, kind, units, test), names in lines.items():
        shown = library if library != before else ""
        made.append(f"| {shown} | `{'`, `'.join(names)}` | {kind} | {units} | {test} |")
        before = library
    return "\n".join(made)
