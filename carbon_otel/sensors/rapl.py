"""Linux powercap: the RAPL counters of Intel and AMD processors.

The zones that are read (kernel documentation, power/powercap/powercap.rst):

* every `package-*` zone, and the `dram` zones, which on servers lie outside the package;
* never `core` or `uncore`: the package contains them;
* `psys` only if no package is readable: it contains the packages and more, so it is a whole-host meter;
* an `intel-rapl-mmio` zone only if the tree has no `intel-rapl` zone of the same package;
* one of several dies that mirror one counter (some AMD parts).

A zone is identified by the content of its `name`; the zones' numbers do not follow the sockets.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

from carbon_otel.guard import pass_on
from carbon_otel.provenance import Band
from carbon_otel.sensors.base import Device, DeviceType, SensorError
from carbon_otel.sensors.files import KernelFile, read_held
from carbon_otel.units import MICRO

DEFAULT_ROOT: Final = Path("/sys/class/powercap")

_ZONE = re.compile(r"intel-rapl(?P<mmio>-mmio)?:[0-9a-f]+(?::[0-9a-f]+)?")
_PACKAGE = re.compile(r"package(?:-(?P<package>\d+)(?:-die-\d+)?)?")
_KNOWN: Final = ("core", "uncore", "dram", "psys")
# 2^32 units of 2^-14 J: the range of most Intel packages, for trees that state no range.
_DEFAULT_RANGE_UJ: Final = 262_143_328_850
_MIRROR_TOLERANCE: Final = 1e-6
# A number of another file is not so little above the last reading. A package draws this in about 10 ms.
_CERTAIN_UJ: Final = 1_000_000
# A counter is updated every millisecond.
_MOVES_WITHIN_S: Final = 0.02
# The error of a zone in a virtual machine whose hypervisor emulates the register and does not count.
STANDS_AT_ZERO: Final = "the counter stands at 0"

# At k=2; Desrochers et al. (MEMSYS 2016) for Intel packages and DRAM, Schoene et al. (2021) for the modelled
# counters of AMD Zen.
_INTEL_PACKAGE = Band(0.95, 1.05, "RAPL package, Intel: +-5 % (Desrochers et al. 2016)")
_AMD_PACKAGE = Band(0.90, 1.10, "RAPL package, AMD: +-10 % (Schoene et al. 2021)")
_DRAM = Band(0.80, 1.20, "RAPL DRAM: +-20 % (Desrochers et al. 2016)")
_PSYS = Band(0.90, 1.10, "RAPL psys: +-10 %, extent set by the vendor", "estimate")

UDEV_RULE: Final = (
    'SUBSYSTEM=="powercap", KERNEL=="intel-rapl*", '
    'RUN+="/usr/bin/chgrp {group} /sys/%p/energy_uj", RUN+="/usr/bin/chmod g+r /sys/%p/energy_uj"'
)


class RaplZone:
    """One powercap zone, read through a descriptor that is kept open. Counts microjoules."""

    kind: Literal["counter"] = "counter"
    joules_per_unit = MICRO
    update_period_s = quantum_s = 0.001
    edge_interval_s = 0.002
    tick_interval_s = 0.0

    def __init__(self, path: Path, device: Device, most_w: float) -> None:
        self.device = device
        self.power_bounds_w = (0.0, most_w)
        self.wrap = _read_range(path)
        self._most = self.wrap or sys.maxsize
        self._path = path / "energy_uj"
        self._file = KernelFile(self._path)
        self._last = -_CERTAIN_UJ

    def read(self) -> float:
        try:
            try:
                value = int(read_held(self._file.descriptor))
            except (OSError, ValueError) as error:
                pass_on(error)
                value = -_CERTAIN_UJ
            # Whether this is still the counter's descriptor is asked only if the number may be that of another
            # file: the question takes as long as the reading.
            if not 0 <= value - self._last <= _CERTAIN_UJ:
                value = int(self._file.read(32))
        except (OSError, ValueError) as error:
            raise SensorError(f"{self._path}: {error}") from error
        if not 0 <= value <= self._most:
            raise SensorError(f"{self._path}: {value} microjoules is out of range")
        self._last = value
        return value

    def close(self) -> None:
        self._file.close()


@dataclass(frozen=True, slots=True)
class Zone:
    """A zone of the tree. `error` is the reason why it cannot be read, or None."""

    path: Path
    name: str
    parent: str | None
    mmio: bool
    error: str | None

    @property
    def id(self) -> str:
        return self.path.name


def zones(root: Path = DEFAULT_ROOT, sleep: Callable[[float], None] = time.sleep) -> list[Zone]:
    """Every zone below `root`, in the order of their ids, in the flat or the nested layout.

    Waits up to 20 ms if a counter is 0.
    """
    paths: dict[str, Path] = {}
    for path in _zone_paths(root):
        paths.setdefault(path.name, path)
    names = {zone_id: _name(path) for zone_id, path in paths.items()}
    found = [
        Zone(
            path=path,
            name=names[zone_id],
            parent=names.get(zone_id.rpartition(":")[0]) if zone_id.count(":") > 1 else None,
            mmio="-mmio" in zone_id,
            error=_why_unreadable(path / "energy_uj"),
        )
        for zone_id, path in sorted(paths.items())
        if names[zone_id]
    ]
    silent = _standing_at_zero([zone.path for zone in found if zone.error is None], sleep)
    return [replace(zone, error=STANDS_AT_ZERO) if zone.path in silent else zone for zone in found]


def _standing_at_zero(paths: Iterable[Path], sleep: Callable[[float], None]) -> set[Path]:
    """The zones whose counter stays at 0 for longer than its update takes."""
    silent = {path for path in paths if _read_number(path / "energy_uj") == 0}
    waited_s = 0.0
    while silent and waited_s < _MOVES_WITHIN_S:
        sleep(0.001)
        waited_s += 0.001
        silent = {path for path in silent if _read_number(path / "energy_uj") == 0}
    return silent


def select(candidates: list[Zone]) -> tuple[list[Zone], list[Zone]]:
    """The zones to read, and the zones that cannot be read or have an unknown name."""
    wanted = _wanted(candidates)
    unreadable = [zone for zone in wanted if zone.error is not None]
    unknown = [zone for zone in candidates if not _is_package(zone) and zone.name not in _KNOWN]
    return _without_mirrors([zone for zone in wanted if zone.error is None]), unreadable + unknown


def _wanted(candidates: list[Zone]) -> list[Zone]:
    """The zones that together cover the host: packages and their memory, or psys if no package is readable."""
    packages = _without_twins([zone for zone in candidates if _is_package(zone)])
    psys = _without_twins([zone for zone in candidates if zone.name == "psys"])
    if psys and all(zone.error is not None for zone in packages):
        return psys
    return packages + _without_twins([zone for zone in candidates if zone.name == "dram"])


def _is_package(zone: Zone) -> bool:
    return _PACKAGE.fullmatch(zone.name) is not None


def sensors(readable: list[Zone], vendor: str) -> Iterator[RaplZone]:
    """Open the selected zones. The CPU vendor id `vendor` decides the band. Raises OSError."""
    for zone in readable:
        device_type: DeviceType
        contains: frozenset[DeviceType] = frozenset()
        if zone.name == "dram":
            device_type, band, name, most_w = "memory", _DRAM, f"{zone.parent or 'host'} dram", 500.0
        elif zone.name == "psys":
            device_type, band, name, most_w = "host", _PSYS, "psys", 3000.0
            contains = frozenset({"cpu", "memory"})
        else:
            band = _AMD_PACKAGE if vendor == "AuthenticAMD" else _INTEL_PACKAGE
            device_type, name, most_w = "cpu", zone.name, 1500.0
        source = "Linux powercap (RAPL)"
        device = Device(zone.id, device_type, name, "measured.counter", band, source, contains)
        yield RaplZone(zone.path, device, most_w)


def _zone_paths(folder: Path, depth: int = 0) -> Iterator[Path]:
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        return
    for entry in entries:
        if _ZONE.fullmatch(entry.name):
            yield entry
            # Subzones appear twice below the flat class folder, under the same ids.
            yield from _zone_paths(entry, depth + 1)
        elif depth == 0 and entry.name in ("intel-rapl", "intel-rapl-mmio"):
            yield from _zone_paths(entry, depth + 1)


def _without_twins(group: list[Zone]) -> list[Zone]:
    """Drop a zone of the MMIO tree if the MSR tree has one with the same name and parent."""
    direct = {(z.name, z.parent) for z in group if not z.mmio}
    return [z for z in group if not z.mmio or (z.name, z.parent) not in direct]


def _without_mirrors(readable: list[Zone]) -> list[Zone]:
    """Drop a die whose counter equals that of another die of the same package."""
    kept: list[Zone] = []
    counters: dict[str, list[float]] = {}
    for zone in readable:
        match = _PACKAGE.fullmatch(zone.name)
        if match and "-die-" in zone.name:
            seen = counters.setdefault(match["package"], [])
            value = _read_number(zone.path / "energy_uj")
            if value and any(abs(value - other) <= _MIRROR_TOLERANCE * other for other in seen):
                continue
            seen.append(value or 0.0)
        kept.append(zone)
    return kept


def _why_unreadable(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            int(file.read(32))
    except OSError as error:
        return error.strerror or type(error).__name__
    except ValueError:
        return "not a number"
    return None


def _name(zone: Path) -> str:
    """The name of a zone; empty for a zone without a counter, `?` if the name cannot be read.

    The trees that Scaphandre exports from a hypervisor to its guests have no names; their top-level zones are
    packages, and the zones below are empty folders.
    """
    try:
        return (zone / "name").read_text(errors="replace").strip() or "?"
    except FileNotFoundError:
        if not (zone / "energy_uj").exists():
            return ""
        return "package" if zone.name.count(":") == 1 else "?"
    except OSError:
        return "?"


def _read_number(path: Path) -> float | None:
    try:
        return float(int(path.read_bytes()))
    except (OSError, ValueError, OverflowError):
        return None


def _read_range(zone: Path) -> float | None:
    """The range of the counter in microjoules; None if the tree states none and the counter only resets."""
    path = zone / "max_energy_range_uj"
    return (_read_number(path) or _DEFAULT_RANGE_UJ) if path.exists() else None
