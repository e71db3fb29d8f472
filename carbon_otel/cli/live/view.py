"""The states of measured processes as tables and lines, for any width."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from rich import box
from rich.table import Table
from rich.text import Text

from carbon_otel import quantities
from carbon_otel.cli.live.state import DeviceNow, StageNow, State
from carbon_otel.cli.output import Group, RenderableType
from carbon_otel.records import Foresight

_NARROW: Final = 72
_SLIM: Final = 52
_TINY: Final = 32
_MOST_STAGES: Final = 30
_MOST_ENDED: Final = 5
_MOST_UNITS: Final = 2
# A reading that is older is not of now: the process is stopped, or reads its sensors rarely.
_LATE_S: Final = 5.0


def title(state: State) -> str:
    """The program, and how long it has been measured."""
    ended = " · ended" if state.final else ""
    return f"{state.command} · pid {state.process.pid} · {quantities.duration(state.duration_s)}{ended}"


def totals(state: State) -> Iterator[str]:
    """Power, energy and emissions with their bands and sources, a line each."""
    late_s = time.time() - state.written_s
    late = f" · read {quantities.duration(late_s)} ago" if late_s > _LATE_S and not state.final else ""
    if not state.final:
        yield f"power      {quantities.power(state.watts)} now{late}"
    yield (
        f"energy     {quantities.energy(state.energy_j, state.low_j, state.high_j)} · "
        f"{state.measured_fraction:.0%} measured ({state.method})"
    )
    grams = quantities.emissions(state.emissions_g, state.low_g, state.high_g)
    yield f"emissions  {grams} CO2e · {state.grid or 'several grids'}"


def line(states: Sequence[State]) -> str:
    """The sum of the processes in one line, for a log."""
    running = [state for state in states if not state.final]
    grams, joules = (sum(figures) for figures in zip(*_figures(states), strict=True))
    parts = [
        quantities.power(sum(state.watts for state in running)) if running else "ended",
        quantities.energy(joules),
        f"{quantities.emissions(grams)} CO2e",
    ]
    if len(states) > 1:
        parts.insert(0, f"{len(states)} processes")
    else:
        parts.insert(0, quantities.duration(states[0].duration_s))
        parts += [_name(stage) for stage in _opened(states[0].stages) if stage.open][-1:]
    return ", ".join(parts)


def _figures(states: Iterable[State]) -> Iterator[tuple[float, float]]:
    return ((state.emissions_g, state.energy_j) for state in states)


def one(state: State, width: int, *, with_devices: bool = True) -> Group:
    """A process with its devices and its stages."""
    parts: list[RenderableType]
    parts = [Text(title(state), style="bold", overflow="ellipsis", no_wrap=True), *totals(state), ""]
    if with_devices and state.devices and not state.final:
        parts.append(devices(state.devices, width))
    stages = _stages(state, width)
    if stages.row_count:
        parts.append(stages)
    for stage in _opened(state.stages):
        if stage.forecast is not None and not state.final:
            parts.append(f"{_name(stage)}: {expected(stage.forecast)}")
    shares = by_kind([state])
    if shares:
        parts.append(f"so far: {shares}")
    return Group(*parts)


def brief(states: Sequence[State], lines: int) -> Group:
    """The processes in a few lines: one with its devices and its open stages, several with their sum."""
    if not states:
        return _cut(["carbon_otel: no reading yet"], lines)
    if len(states) > 1:
        largest = sorted(states, key=lambda state: (state.final, -state.energy_j))
        each = [f"{line([state])} · {state.command}" for state in largest]
        return _cut([Text(line(states), style="bold"), *each], lines)
    state = states[0]
    parts: list[str | Text] = [Text(title(state), style="bold"), "  ".join(_now(state))]
    parts.append("  ".join(f"{device.name} {quantities.power(device.watts)}" for device in state.devices))
    depth: dict[int, int] = {}
    for stage in _opened(state.stages):
        level = depth[stage.id] = depth.get(stage.parent or -1, -1) + 1
        cells = _cells(stage, f"{'  ' * (level - 1)}└ " if level else "")
        parts.append("  ".join(filter(None, cells.values())))
        if stage.forecast is not None:
            parts.append(f"{'  ' * level}  {expected(stage.forecast)}")
    for stage, count in _ended(state.stages):
        cells = _cells(stage, "✗ " if stage.failed else "✓ ", f" ×{count}" if count > 1 else "")
        parts.append(Text("  ".join(filter(None, cells.values())), style="dim"))
    return _cut(parts, lines)


def _now(state: State) -> Iterator[str]:
    if not state.final:
        yield quantities.power(state.watts)
    yield quantities.energy(state.energy_j, state.low_j, state.high_j)
    yield f"{quantities.emissions(state.emissions_g, state.low_g, state.high_g)} CO2e"
    yield f"{state.measured_fraction:.0%} measured"


def _cut(parts: Sequence[str | Text], lines: int) -> Group:
    """So many lines, each on one line of the terminal."""
    table = Table.grid(expand=True)
    table.add_column(no_wrap=True, overflow="ellipsis")
    for number, part in enumerate(parts[:lines]):
        table.add_row(part, style="reverse" if not number else None)
    return Group(table)


def several(states: Sequence[State], width: int) -> Table:
    """A row for each process, those with the highest power first, and their sum."""
    table = _table(
        ["pid", "program"], ["time", "power now", "energy", "emissions"], width, flexible="program"
    )
    in_order = sorted(states, key=lambda state: (state.final, -state.energy_j))
    joules = quantities.unit(quantities.ENERGY, *(state.energy_j for state in states))
    grams = quantities.unit(quantities.EMISSIONS, *(state.emissions_g for state in states))
    for state in in_order:
        open_stages = [_name(stage) for stage in _opened(state.stages) if stage.open]
        _row(
            table,
            {
                "pid": str(state.process.pid),
                "program": " · ".join([state.command, *open_stages[-1:]]),
                "time": quantities.duration(state.duration_s),
                "power now": "ended" if state.final else quantities.power(state.watts),
                "energy": f"{joules.number(state.energy_j)} {joules.name}",
                "emissions": f"{grams.number(state.emissions_g)} {grams.name}",
            },
        )
    if len(states) > 1:
        table.add_section()
        all_j, all_g = sum(state.energy_j for state in states), sum(state.emissions_g for state in states)
        _row(
            table,
            {
                "program": "together",
                "power now": quantities.power(sum(s.watts for s in states if not s.final)),
                "energy": f"{joules.number(all_j)} {joules.name}",
                "emissions": f"{grams.number(all_g)} {grams.name}",
            },
        )
    return table


def devices(each: Sequence[DeviceNow], width: int, *, of_host: bool = False) -> Table:
    """The power of each device now, and the energy since the measurement has begun."""
    columns = ["power now", "energy"] if of_host else ["power now", "of it ours", "energy"]
    table = _table(["device"], columns, width)
    for device in each:
        _row(
            table,
            {
                "device": device.name,
                "power now": quantities.power(device.watts),
                "of it ours": f"{device.share:.0%}",
                "energy": quantities.energy(device.energy_j),
            },
        )
    return table


def by_kind(states: Iterable[State]) -> str:
    """The shares of the kinds of stage in the energy, the largest first."""
    sums: dict[str, float] = {}
    for state in states:
        for kind, joules in state.kinds.items():
            sums[kind] = sums.get(kind, 0.0) + joules
    total = sum(sums.values())
    if not total:
        return ""
    largest = sorted(sums.items(), key=lambda item: -item[1])
    return " · ".join(f"{kind} {joules / total:.0%}" for kind, joules in largest)


def _stages(state: State, width: int) -> Table:
    table = _table(["stage"], ["time", "energy", "emissions", "per unit"], width, flexible="stage")
    opened = [stage for stage in state.stages if stage.open]
    depth: dict[int, int] = {}
    for stage in _opened(state.stages)[:_MOST_STAGES]:
        level = depth[stage.id] = depth.get(stage.parent or -1, -1) + 1
        _row(table, _cells(stage, f"{'  ' * (level - 1)}└ " if level else ""))
    if len(opened) > _MOST_STAGES:
        _row(table, {"stage": f"and {len(opened) - _MOST_STAGES} others"})
    ended = list(_ended(state.stages))[:_MOST_ENDED]
    if ended:
        table.add_section()
    for stage, count in ended:
        times = f" ×{count}" if count > 1 else ""
        _row(table, _cells(stage, "✗ " if stage.failed else "✓ ", times), style="dim")
    return table


def _opened(stages: Sequence[StageNow]) -> list[StageNow]:
    """The open stages, each before those that are open in it."""
    opened = [stage for stage in stages if stage.open]
    known = {stage.id for stage in opened}
    below: dict[int | None, list[StageNow]] = {}
    for stage in opened:
        below.setdefault(stage.parent if stage.parent in known else None, []).append(stage)
    in_order, todo = [], below.pop(None, [])[::-1]
    while todo:
        stage = todo.pop()
        in_order.append(stage)
        todo += below.pop(stage.id, [])[::-1]
    return in_order


def _ended(stages: Sequence[StageNow]) -> Iterator[tuple[StageNow, int]]:
    """The stages that have ended last, as one for each kind and name, and how many they are; the latest first."""
    alike: dict[tuple[str, str], list[StageNow]] = {}
    for stage in reversed(stages):
        if not stage.open:
            alike.setdefault((stage.kind, stage.name), []).append(stage)
    for group in alike.values():
        units: dict[str, float] = {}
        for stage in group:
            for unit, amount in stage.units.items():
                units[unit] = units.get(unit, 0.0) + amount
        last = group[0]
        together = StageNow(
            last.id,
            last.parent,
            last.kind,
            last.name,
            sum(stage.duration_s for stage in group),
            sum(stage.energy_j for stage in group),
            sum(stage.emissions_g for stage in group),
            units,
            open=False,
            failed=last.failed,
        )
        yield together, len(group)


def _cells(stage: StageNow, before: str, after: str = "") -> dict[str, str]:
    return {
        "stage": f"{before}{_name(stage)}{after}",
        "time": quantities.duration(stage.duration_s),
        "energy": quantities.energy(stage.energy_j),
        "emissions": quantities.emissions(stage.emissions_g),
        "per unit": ", ".join(rates(stage.energy_j, stage.units)),
    }


def rates(joules: float, units: Mapping[str, float]) -> list[str]:
    """The energy for one unit, such as `36 mJ/sample`; the most interesting units first."""
    if math.isnan(joules):
        return []
    in_order = sorted(units, key=lambda unit: unit not in ("samples", "tokens"))
    known = [unit for unit in in_order if units[unit] > 0][:_MOST_UNITS]
    return [f"{quantities.energy(joules / units[unit])}/{_singular(unit)}" for unit in known]


def _singular(unit: str) -> str:
    if unit.endswith("ies"):
        return f"{unit[:-3]}y"
    if unit.endswith(("ches", "shes", "sses", "xes")):
        return unit[:-2]
    return unit.removesuffix("s")


def expected(forecast: Foresight) -> str:
    """A forecast as text: `forecast 4.1 Wh (3.5 to 5.0), 62 % done, 5 min left`."""
    low, median, high = forecast.expected_j
    parts = [f"forecast {quantities.energy(median, low, high)}"]
    if forecast.done:
        parts.append(f"{forecast.done:.0%} done")
    if forecast.left_s is not None and forecast.done < 1:
        parts.append(f"{quantities.duration(forecast.left_s)} left")
    return ", ".join(parts)


def _name(stage: StageNow) -> str:
    return stage.kind if stage.name == stage.kind else f"{stage.kind} {stage.name}"


def _table(texts: Sequence[str], figures: Sequence[str], width: int, flexible: str = "") -> Table:
    """A table; a narrow one lacks the figures that others say in another form."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    left_out = {"emissions", "of it ours"} if width < _NARROW else set()
    if width < _SLIM:
        left_out |= {"per unit", "pid", "power now"} if flexible else {"energy"}
    if width < _TINY:
        left_out.add("time")
    for name in texts:
        if name not in left_out:
            table.add_column(name, no_wrap=True, overflow="ellipsis", ratio=1 if name == flexible else None)
    for name in figures:
        if name not in left_out:
            table.add_column(name, no_wrap=True, overflow="ellipsis", justify="right")
    table.expand = bool(flexible)
    return table


def _row(table: Table, cells: Mapping[str, str], style: str | None = None) -> None:
    table.add_row(*(cells.get(str(column.header), "") for column in table.columns), style=style)
