"""The catalogue of accelerators: `data/accelerators.csv`, with the source and the licence of each row.

Peaks are those of dense matrices. Those of GeForce cards accumulate in fp32, as training does.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from carbon_otel.carbon import device_names
from carbon_otel.forecast.tables import rows

PRECISIONS: Final = ("bf16", "fp16", "fp8", "int8", "tf32", "fp32")
_FLOP_PER_TFLOP: Final = 1e12
_BYTES_PER_GB: Final = 1e9


@dataclass(frozen=True, slots=True)
class Accelerator:
    """One row of the catalogue. None is unknown.

    Attributes:
        name: the catalogue's name.
        vendor: its maker.
        year: of its release.
        memory_bytes: capacity of its memory.
        bytes_per_s: bandwidth of its memory.
        tdp_w: rated power of the card or module, without the host.
        peaks: floating-point operations per second by precision; `int8` counts integer ones.
        unverified: columns of the row that were not read in a source; `all` for the whole row.
        source: of the row.
        licence: of the row.
    """

    name: str
    vendor: str
    year: int
    memory_bytes: float | None
    bytes_per_s: float | None
    tdp_w: float | None
    peaks: Mapping[str, float]
    unverified: frozenset[str]
    source: str
    licence: str

    def peak(self, precision: str | None) -> tuple[str, float]:
        """The precision and its peak in operations per second; None takes bf16, else fp16, else fp32.

        Raises:
            ValueError: for a precision that the row lacks.
        """
        if precision is None:
            precision = next(p for p in ("bf16", "fp16", "fp32") if p in self.peaks)
        precision = precision.strip().lower()
        if precision not in self.peaks:
            known = ", ".join(self.peaks)
            raise ValueError(f"no peak of {self.name} for precision {precision!r}; the catalogue has {known}")
        return precision, self.peaks[precision]

    def verified(self, column: str) -> bool:
        """Whether the value of a column was read in a source."""
        return not self.unverified & {"all", column}


def accelerator(name: str) -> Accelerator:
    """The accelerator with this name, in any spelling: `H100`, `A100-80GB`, `NVIDIA A100-SXM4-80GB`, `tpu-v5p`.

    Raises:
        ValueError: for a name that the catalogue lacks, with the nearest ones, and for what is no name.
    """
    if not isinstance(name, str):
        raise ValueError(f"the accelerator is {name!r}; write its name, such as H100")
    key = device_names.key(name)
    found = _by_key().get(key) or _by_words().get(device_names.words(name))
    if found is None:
        near = difflib.get_close_matches(key, _by_key(), n=6, cutoff=0.4)
        starts = [other for other in _by_key() if key and other.startswith(key[:3])]
        names = dict.fromkeys(_by_key()[other].name for other in (near or starts))
        hint = f"; the nearest names are {', '.join(list(names)[:4])}" if names else ""
        raise ValueError(
            f"unknown accelerator {name!r}{hint}. The catalogue has {len(catalogue())} devices, such as H100, "
            "A100-80GB, MI300X and TPU v5p"
        )
    return found


@functools.cache
def catalogue() -> tuple[Accelerator, ...]:
    """All rows."""
    return tuple(_accelerator(row) for row in rows("accelerators"))


def _accelerator(row: Mapping[str, str]) -> Accelerator:
    return Accelerator(
        name=row["name"],
        vendor=row["vendor"],
        year=int(row["year"]),
        memory_bytes=_value(row["memory_gb"], _BYTES_PER_GB),
        bytes_per_s=_value(row["memory_gb_per_s"], _BYTES_PER_GB),
        tdp_w=_value(row["tdp_w"]),
        peaks={p: float(row[f"peak_{p}"]) * _FLOP_PER_TFLOP for p in PRECISIONS if row[f"peak_{p}"]},
        unverified=frozenset(filter(None, row["unverified"].split("|"))),
        source=row["source"],
        licence=row["licence"],
    )


def _value(text: str, factor: float = 1.0) -> float | None:
    return float(text) * factor if text else None


def _names() -> Iterator[tuple[str, Accelerator]]:
    """Every name with its row: the names of all rows first, then the aliases."""
    for device in catalogue():
        yield device.name, device
    for row, device in zip(rows("accelerators"), catalogue(), strict=True):
        for alias in filter(None, row["aliases"].split("|")):
            yield alias, device


@functools.cache
def _by_key() -> Mapping[str, Accelerator]:
    found: dict[str, Accelerator] = {}
    for name, device in _names():
        found.setdefault(device_names.key(name), device)
    return found


@functools.cache
def _by_words() -> Mapping[frozenset[str], Accelerator]:
    # Drivers put the words in another order: `NVIDIA A100 80GB PCIe`.
    found: dict[frozenset[str], Accelerator] = {}
    for name, device in _names():
        found.setdefault(device_names.words(name), device)
    return found
