"""Embodied carbon by SCI (ISO/IEC 21031): M = TE x (TiR / EL) x (RR / ToR).

TE are the emissions of making the hardware, TiR / EL the time reserved over the life expected, RR / ToR the share
reserved. `data/embodied.csv` has TE for accelerators and for hosts, each row with its source and licence: a
vendor's figure is the value and a bottom-up model the upper end; all rows end at the factory's gate. What the
table lacks is unknown, never 0.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from carbon_otel.carbon import tables
from carbon_otel.carbon.device_names import words
from carbon_otel.units import KILO, S_PER_YEAR

LIFETIME_YEARS: Final = 4.0


class Made(NamedTuple):
    """The emissions of making one thing, in kilograms of CO2 equivalent."""

    kg: float
    low_kg: float
    high_kg: float
    source: str
    verified: bool = False
    with_host: bool = False

    def times(self, number: float) -> Made:
        """The same for a number of them, or for a part of one."""
        return self._replace(kg=self.kg * number, low_kg=self.low_kg * number, high_kg=self.high_kg * number)


class Reserved(NamedTuple):
    """Grams per second of time that is reserved: for the whole host, and for each of its devices."""

    host: float
    devices: tuple[float, ...]


@dataclass(frozen=True)
class Hardware:
    """The hardware of a process, and the lifetime over which making it is spread.

    Attributes:
        host: the host; None if the figure of `devices` contains it, or if it is unknown.
        devices: by device of the meter; None for those that are no accelerators.
        unknown: the names of the parts without a figure; then the embodied carbon is unknown.
        lifetime_years: years in use.
    """

    host: Made | None
    devices: tuple[Made | None, ...]
    unknown: tuple[str, ...] = ()
    lifetime_years: float = LIFETIME_YEARS

    @functools.cached_property
    def reserved(self) -> Reserved:
        """Grams per second, all 0 if the embodied carbon is unknown."""
        if self.unknown:
            return Reserved(0.0, (0.0,) * len(self.devices))
        one_second = functools.partial(_per_second_g, lifetime_years=self.lifetime_years)
        return Reserved(one_second(self.host), tuple([one_second(part) for part in self.devices]))

    @functools.cached_property
    def band(self) -> tuple[float, float]:
        """The relative band of all parts together. Their sources share methods, so they do not cancel out."""
        parts = self._parts()
        total = sum(part.kg for part in parts) or 1.0
        return sum(part.low_kg for part in parts) / total, sum(part.high_kg for part in parts) / total

    @functools.cached_property
    def source(self) -> str:
        """Every source once, with the kilograms."""
        parts: dict[str, float] = {}
        for part in self._parts():
            parts[part.source] = parts.get(part.source, 0.0) + part.kg
        return "; ".join(f"{kg:.4g} kg: {source}" for source, kg in parts.items())

    def _parts(self) -> list[Made]:
        return [part for part in (self.host, *self.devices) if part is not None]


def embodied_g(kg: float, seconds: float, lifetime_years: float, share: float = 1.0) -> float:
    """M of SCI in grams: what some reserved seconds of a share of the hardware have in making it.

    Raises:
        ValueError: for a lifetime that is not above 0.
    """
    if not 0 < lifetime_years < math.inf:
        raise ValueError(f"the lifetime is {lifetime_years} years; write a number above 0")
    return kg * KILO * seconds / (lifetime_years * S_PER_YEAR) * share


def hardware(
    gpus: Sequence[str | None],
    threads: float,
    memory_gb: float | None,
    *,
    parts: Sequence[float] = (),
    given_kg: float | None = None,
    lifetime_years: float = LIFETIME_YEARS,
) -> Hardware:
    """What is known of a host and its accelerators.

    Args:
        gpus: for each device of the meter its name, if it is a GPU.
        threads: hardware threads of the host.
        memory_gb: memory of the host in gigabytes; None if it cannot be read.
        parts: for each device the part of it that is there, below 1 for an instance of a divided GPU.
        given_kg: the user's figure for the whole host with its accelerators, instead of the table.
        lifetime_years: years in use.
    """
    none = (None,) * len(gpus)
    if given_kg is not None:
        return Hardware(Made(given_kg, given_kg, given_kg, "given", True), none, (), lifetime_years)
    found = [None if name is None else accelerator(name) for name in gpus]
    unknown = [name for name, made in zip(gpus, found, strict=True) if name is not None and made is None]
    sizes = parts or [1.0] * len(gpus)
    devices = tuple(
        None if made is None else made.times(part) for made, part in zip(found, sizes, strict=True)
    )
    has_host = any(made is not None and made.with_host for made in found)
    own_host = None
    if not has_host and memory_gb is not None:
        own_host = host(threads, memory_gb)
    elif not has_host:
        unknown.append("a host whose memory cannot be read")
    return Hardware(own_host, devices, tuple(dict.fromkeys(unknown)), lifetime_years)


def accelerator(name: str) -> Made | None:
    """The figure of an accelerator by the name of the catalogue or of its driver; None if it is unknown."""
    # An instance is named like its GPU: `NVIDIA A100-SXM4-40GB MIG 1g.5gb`.
    return _by_words().get(words(name.partition(" MIG ")[0].partition(" (")[0]))


def host(threads: float, memory_gb: float) -> Made:
    """The figure of a server, or of a virtual machine as a part of one, by its hardware threads and its memory.

    No figure of a laptop or of a workstation is in the table: theirs is this one too, within its wide band.
    """
    by_thread, by_gb = _one("host per thread"), _one("host per gigabyte")
    parts = by_thread.times(threads), by_gb.times(memory_gb)
    kg, low, high = (sum(each) for each in zip(*(part[:3] for part in parts), strict=True))
    about = f"{threads:g} threads and {memory_gb:.0f} GB of a server"
    return Made(kg, low, high, f"{about}, {by_thread.source}", by_thread.verified and by_gb.verified)


def host_share() -> Made:
    """The share of one accelerator in a typical host of accelerators."""
    return _one("host share")


def lifetime() -> Made:
    """Years of use, with the range in use elsewhere; the fields are years, not kilograms."""
    return _one("lifetime")


def rows() -> Sequence[Mapping[str, str]]:
    """The rows of the table, as text."""
    return _rows()


@functools.cache
def _rows() -> tuple[dict[str, str], ...]:
    return tuple(tables.rows("embodied.csv"))


@functools.cache
def _by_words() -> Mapping[frozenset[str], Made]:
    found: dict[frozenset[str], Made] = {}
    for row in _rows():
        if row["part"].startswith("accelerator"):
            for name in _names(row):
                found.setdefault(words(name), _made(row))
    return found


def _names(row: Mapping[str, str]) -> Iterable[str]:
    return filter(None, (row["name"], *row["aliases"].split("|")))


@functools.cache
def _one(part: str) -> Made:
    return next(_made(row) for row in _rows() if row["part"] == part)


def _made(row: Mapping[str, str]) -> Made:
    value, low, high = (float(row[column]) for column in ("value", "low", "high"))
    return Made(value, low, high, row["source"], row["verified"] == "yes", row["part"].endswith("with host"))


def _per_second_g(part: Made | None, lifetime_years: float) -> float:
    return 0.0 if part is None else embodied_g(part.kg, 1.0, lifetime_years)
