"""Advice as text on a rich console."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from carbon_otel.advice.advisor import NOT_ADDED, Advised
from carbon_otel.advice.amounts import emissions_of, energy_of, share
from carbon_otel.advice.literature import BY_TRIAL, CHECKED, WARNING, Factor
from carbon_otel.advice.words import LEVERS, Advice, NothingFound
from carbon_otel.cli.output import Screen
from carbon_otel.lifecycle.total import ratio

_INDENT: Final = "   "
_STYLES: Final = {
    "saves": "bold green",
    "saves at most": "green",
    "costs quality": "bold red",
    "cannot be told apart": "yellow",
}
_COUNTED: Final = {
    "operational": "CO2e",
    "embodied": "embodied CO2e",
    "avoided": "CO2e avoided, which is no footprint",
}
_ALL: Final = "all"


def show(advised: Advised, console: Screen) -> None:
    """Print the advice."""
    total = advised.total
    if advised.lower_bounds:
        total = replace(total, high_wh=math.inf, high_g=math.inf)
    console.print(f"{advised.title}: {energy_of(total)}, {emissions_of(total)} CO2e")
    console.print(f"{_INDENT}{_stages(advised)}", soft_wrap=True)
    for line in advised.lower_bounds:
        console.print(f"{_INDENT}lower bound: {line}", soft_wrap=True)
    console.line()
    console.print("Measured in these runs", style="bold")
    for number, advice in enumerate(advised.measured, 1):
        _advice(number, advice, console)
    if not advised.measured:
        console.print(f"{_INDENT}nothing found; what was looked at:")
    elif len(advised.measured) > 1:
        console.print(f"{_INDENT}{NOT_ADDED}")
    console.line()
    _silent("Nothing to save", advised.nothing_found, console)
    _silent("Not known", advised.lacking, console)
    if advised.left_out:
        console.print(f"{advised.left_out} runs with the least energy were not looked at")
    _literature(advised.literature, console)


def _stages(advised: Advised) -> str:
    total_wh = advised.total.energy_wh
    costs = sorted(advised.by_stage.items(), key=lambda each: each[1].energy_wh, reverse=True)
    return ", ".join(f"{kind} {cost.energy_wh / total_wh if total_wh > 0 else 0:.0%}" for kind, cost in costs)


def _advice(number: int, advice: Advice, console: Screen) -> None:
    console.print(f"{number:>2} {advice.title} ({advice.lever})", style="bold", soft_wrap=True)
    console.print(f"{_INDENT}{_saving(advice)}", style=_STYLES[advice.verdict], soft_wrap=True)
    for line in advice.finding:
        _wrapped(line, console)
    _wrapped(f"from: {advice.source}", console)
    _wrapped(f"to verify: {advice.verify}", console)
    console.print(f"{_INDENT}{advice.command}", soft_wrap=True)
    console.line()


def _saving(advice: Advice) -> str:
    saved, grams = advice.saved, f"{emissions_of(advice.saved)} {_COUNTED[advice.counted]}"
    if saved.energy_wh == 0:
        part = ratio(saved.emissions_g, advice.of.emissions_g)
        text = f"{grams}, {part:.0%} of {emissions_of(advice.of)}, and no energy"
    else:
        text = f"{energy_of(saved)} and {grams}, {share(saved, advice.of):.0%} of {energy_of(advice.of)}"
    if advice.verdict == "cannot be told apart":
        return f"cannot be told apart: the difference is {text}"
    return f"{advice.verdict}: {text}" if advice.verdict == "costs quality" else f"{advice.verdict} {text}"


def _silent(title: str, kinds: tuple[NothingFound, ...], console: Screen) -> None:
    if kinds:
        console.print(title, style="bold")
        for each in kinds:
            _wrapped(f"{each.name}: {each.reason}", console)
        console.line()


def _literature(factors: tuple[Factor, ...], console: Screen) -> None:
    console.print("From the literature", style="bold")
    _wrapped(f"{WARNING} To verify one: {BY_TRIAL}, if nothing else is named.", console)
    if not factors:
        console.print(f"{_INDENT}nothing found: no row applies to these stages and this hardware")
    for lever in (*LEVERS, _ALL):
        of_lever = [each for each in factors if each.lever == lever]
        if of_lever:
            console.line()
            console.print(lever if lever != _ALL else "all together", style="bold")
        for each in of_lever:
            console.print(
                f"{_INDENT}{each.title}: {each.change}",
                style="red" if each.costs_more else "",
                soft_wrap=True,
            )
            for line in _about(each):
                _wrapped(line, console, _INDENT * 2)


def _about(factor: Factor) -> Iterator[str]:
    phase = "" if factor.phase == "both" else f"{factor.phase}; "
    upper = "; an upper limit for energy" if factor.metric == "time" and not factor.costs_more else ""
    yield f"{phase}{factor.condition}{upper} ({factor.measured_on})"
    year = "" if str(factor.year) in factor.source else f", {factor.year}"
    verify = "" if factor.verify == BY_TRIAL else f". To verify: {factor.verify}"
    yield f"{factor.source}{year}; {CHECKED[factor.checked]}{verify}"


def _wrapped(text: str, console: Screen, indent: str = _INDENT) -> None:
    for line in textwrap.wrap(text, max(40, console.width), initial_indent=indent, subsequent_indent=indent):
        console.print(line, soft_wrap=True)
