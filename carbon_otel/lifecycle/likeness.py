"""In what the runs of two groups are alike, and what their ratio does not know where they are not."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

from carbon_otel.lifecycle.comparison import shares_that_differ
from carbon_otel.lifecycle.repeat import Repeat, band_of, measured_fraction
from carbon_otel.lifecycle.repeats import difference
from carbon_otel.provenance import quadrature

HOST: Final = "carbon.host"
# Two kinds of work at one utilisation may differ in power by this factor (k=2). An estimate: no figure is
# published for all processors. It counts for the modelled part of the energy.
SAME_UTILISATION: Final = 1.2

Group = Sequence[Repeat]


def not_alike(base: Group, variant: Group, tags: Mapping[str, str]) -> list[str]:
    """The tags in which the runs differ, with the reason why that matters."""
    lines = []
    for tag, why in tags.items():
        ours, theirs = (
            sorted({each.entry.tags.get(tag, "none") for each in group}) for group in (base, variant)
        )
        if len({*ours, *theirs}) > 1:
            each = f"base: {', '.join(ours)}; variant: {', '.join(theirs)}"
            lines.append(f"{tag.removeprefix('carbon.')} ({why}): {each}")
    return lines


def systematic_error(base: Group, variant: Group) -> tuple[float, list[str]]:
    """The error of the logarithm of the ratio that more repeats do not reduce (k=2), and what it is."""
    errors, reasons = [], []
    modelled = 1 - min(measured_fraction(base), measured_fraction(variant))
    if modelled > 1e-9:
        errors.append(modelled * math.log(SAME_UTILISATION))
        reasons.append(
            f"{100 * modelled:.0f} % of the energy is modelled by the time and utilisation of processors; the "
            f"interval has {100 * math.expm1(errors[-1]):.0f} % for power that may differ at equal utilisation"
        )
    if len({each.entry.tags.get(HOST, "") for each in (*base, *variant)}) > 1:
        for low, high in (band_of(base), band_of(variant)):
            errors.append(max(-math.log(low), math.log(high)) if low > 0 else math.inf)
        reasons.append("the runs are from several hosts, and the errors of their meters do not cancel")
    return quadrature(errors), reasons


def not_borne_out(
    base: Group, variant: Group, base_log: Sequence[float], variant_log: Sequence[float], systematic: float
) -> str | None:
    """Why other work on the host may be the reason for a change of log energy; None if it is not."""
    if not shares_that_differ([each.cost for each in (*base, *variant)]):
        return None
    change = difference(base_log, variant_log, systematic)
    ours, theirs = _by_process(base, base_log), _by_process(variant, variant_log)
    if ours is not None and theirs is not None:
        own = difference(ours, theirs, systematic)
        if (own.high < 0 and change.high < 0) or (own.low > 0 and change.low > 0):
            return None
    return "the shares of the host differ, and the CPU time of the runs does not bear the difference out"


def _by_process(group: Group, logs: Sequence[float]) -> list[float] | None:
    """The logarithms of the energy by the CPU time of the runs; None without their shares."""
    parts = [part for each in group if (part := each.of_process())]
    return (
        [log + math.log(part) for log, part in zip(logs, parts, strict=True)]
        if len(parts) == len(logs)
        else None
    )


def one_after_the_other(base: Group, variant: Group) -> list[str]:
    """A warning if all runs of one group began before those of the other."""
    ours, theirs = ([each.entry.start_ms for each in group] for group in (base, variant))
    in_turn = max(ours) > min(theirs) and max(theirs) > min(ours)
    if in_turn or len(ours) + len(theirs) == 2:
        return []
    return ["one group ran after the other, and a drift of the host is in the ratio; run them in turn"]
