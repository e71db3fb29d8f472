"""A proof as text for people."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

from carbon_otel import quantities
from carbon_otel.lifecycle.better import direction
from carbon_otel.lifecycle.repeats import MOST_REPEATS
from carbon_otel.records import RUN
from carbon_otel.units import J_PER_WH

if TYPE_CHECKING:
    from carbon_otel.lifecycle.proof import Proof, Side
    from carbon_otel.lifecycle.repeats import Interval

# With fewer, an interval is as wide as the figure.
_ENOUGH_REPEATS: Final = 3
# The mean of equal floats may differ from them by their last digit.
_ROUNDING: Final = 1e-12


def text(proof: Proof, per_day: float | None = None) -> str:
    """The proof: verdict, table, and what it needs. `per_day`: units of work a day, for the payback in days."""
    return "\n".join(
        [
            f"{_capital(proof.verdict)}: {_energy(proof)}",
            *(f"  {reason}" for reason in proof.reasons),
            "",
            *_table(proof),
            "",
            _quality(proof),
            *_repeats(proof),
            *_payback(proof, per_day),
            *(f"left out: {line}" for line in proof.left_out),
        ]
    )


def _energy(proof: Proof) -> str:
    per = _per(proof)
    if proof.ratio is None:
        return f"{proof.base.name} and {proof.variant.name} were not measured alike"
    saved = proof.saving
    assert saved is not None
    less = saved.value >= 0
    sign = 1 if less else -1
    change = f"{_percent(abs(saved.value))} {'less' if less else 'more'} energy {per} than {proof.base.name}"
    if math.isinf(saved.low):
        return f"{proof.variant.name} used {change}, by too few runs for an interval"
    ends = sorted((sign * saved.low, sign * saved.high))
    return f"{proof.variant.name} uses {change} ({_number(100 * ends[0])} to {_percent(ends[1])})"


def _per(proof: Proof) -> str:
    stage, unit = proof.work
    return f"per {_one(unit)}" if stage == RUN else f"per {_one(unit)} of {stage}"


def _table(proof: Proof) -> Iterator[str]:
    one = _one(proof.work.unit)
    rows: list[tuple[str, Callable[[Side], str]]] = [
        ("", lambda side: side.name),
        ("runs", lambda side: str(len(side.run_ids))),
        (proof.metric, lambda side: f"{side.quality:.6g}"),
        (f"energy per {one}", _joules),
    ]
    if proof.emissions_alike:
        rows.append((f"emissions per {one}", lambda side: quantities.emissions(side.g_per_unit)))
    rows += [
        ("spread of the repeats", lambda side: "unknown" if side.spread is None else _percent(side.spread)),
        ("measured by a sensor", lambda side: f"{100 * side.measured_fraction:.0f} %"),
    ]
    cells = [(label, cell(proof.base), cell(proof.variant)) for label, cell in rows]
    wide, middle = (max(len(row[column]) for row in cells) for column in (0, 1))
    for label, one, two in cells:
        yield f"{label:<{wide}}  {one:<{middle}}  {two}".rstrip()


def _one(unit: str) -> str:
    return unit[:-1] if unit.endswith("s") and unit != RUN else unit


def _joules(side: Side) -> str:
    joules = side.wh_per_unit * J_PER_WH
    return quantities.energy(joules, joules * side.low, joules * side.high)


def _quality(proof: Proof) -> str:
    gain = proof.quality
    sides = f"{proof.metric} is {_gain(gain.value)}"
    better = "lower" if proof.lower_is_better else "higher"
    allowed = f"{better} is better, and {proof.tolerance:g} worse is allowed"
    if math.isinf(gain.low):
        return f"Quality: {sides}, by single values; {allowed}."
    if gain.high - gain.low < _ROUNDING:
        return f"Quality: {sides} in all repeats; {allowed}."
    return f"Quality: {sides} ({_gain(gain.low)} to {_gain(gain.high)}); {allowed}."


def _gain(value: float) -> str:
    if abs(value) < _ROUNDING:
        return "equal"
    return f"{abs(value):.3g} {'better' if value > 0 else 'worse'}"


def _repeats(proof: Proof) -> Iterator[str]:
    if proof.ratio is None:
        return
    if proof.detectable is None:
        again = shlex.join(
            ["carbon-otel", "prove", proof.base.name, proof.variant.name, "--metric", proof.metric]
            + ["--tolerance", f"{proof.tolerance:g}", *_direction(proof)]
        )
        yield (
            f"Repeats: run each {_ENOUGH_REPEATS} times or more, in turn, under one run name for each, "
            f"and ask again: {again}"
        )
        return
    present = min(len(proof.base.run_ids), len(proof.variant.run_ids))
    shown = f"{present} of each show a saving of {_percent(proof.detectable)} in 4 cases of 5"
    if proof.repeats_needed is None:
        needed = f"none, or more than {MOST_REPEATS:,}, would show this difference"
    else:
        needed = f"about {proof.repeats_needed} of each are needed to show this difference"
    yield f"Repeats: {shown}; {needed}."


def _direction(proof: Proof) -> list[str]:
    """The option that says which values are better, unless the name of the metric says the same."""
    if direction(proof.metric) is proof.lower_is_better:
        return []
    return ["--lower-is-better" if proof.lower_is_better else "--higher-is-better"]


def _payback(proof: Proof, per_day: float | None) -> Iterator[str]:
    back = proof.payback
    if back is None:
        return
    what = ", ".join(back.names)
    once = f"{what} ({quantities.energy(back.one_off_wh * J_PER_WH)})"
    yield f"Payback of {once}: {_units(back.energy, proof.work.unit, per_day)}."
    if back.emissions is not None and back.one_off_g is not None:
        grams = quantities.emissions(back.one_off_g)
        yield f"Payback of its emissions ({grams} CO2e): {_units(back.emissions, proof.work.unit, per_day)}."


def _units(interval: Interval, unit: str, per_day: float | None) -> str:
    name = "runs" if unit == RUN else unit
    if math.isinf(interval.value):
        return "never, since the variant saves nothing"
    days = f", {_number(interval.value / per_day)} days" if per_day else ""
    if math.isinf(interval.high):
        return (
            f"not shown, since the saving may be 0; by its mean after {_count(interval.value)} {name}{days}"
        )
    band = f"{_count(interval.low)} to {_count(interval.high)}"
    return f"after {_count(interval.value)} {name} ({band}){days}"


def _percent(part: float) -> str:
    return f"{_number(100 * part)} %"


def _number(value: float) -> str:
    """Two decimals below 10, one below 100: a per cent of a per cent is never of interest."""
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}" if abs(value) < 100 else f"{value:,.0f}"


def _count(value: float) -> str:
    return _number(value) if value < 100 else f"{float(f'{value:.3g}'):,.0f}"


def _capital(words: str) -> str:
    return words[0].upper() + words[1:]
