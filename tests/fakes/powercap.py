"""Powercap trees with the kernel's own layout: nested devices, and the flat class folder of links to them."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path

INTEL_RANGE_UJ = 262_143_328_850
DRAM_RANGE_UJ = 65_712_999_613
AMD_RANGE_UJ = 65_532_610_987


class Zone:
    """One zone's files. Energy is set in joules and wraps at the range, as the hardware's does."""

    def __init__(self, folder: Path, name: str, range_uj: int = INTEL_RANGE_UJ) -> None:
        self.folder = folder
        self.id = folder.name
        self.range_uj = range_uj
        self.file = folder / "energy_uj"
        self._lock = threading.Lock()
        folder.mkdir(parents=True)
        (folder / "power").mkdir()
        # A link that leads back to all zones: a walk that follows it never ends.
        (folder / "subsystem").symlink_to("../..")
        (folder / "enabled").write_text("1\n")
        self.name = name
        self.file.touch()
        self.mend()

    @property
    def counter_uj(self) -> int:
        return round(self.joules * 1e6) % self.range_uj

    def set(self, joules: float) -> None:
        self.joules = joules
        self.write(f"{self.counter_uj}\n".encode())

    def add(self, joules: float) -> None:
        with self._lock:
            self.set(self.joules + joules)

    def write(self, content: bytes) -> None:
        """Put any content where the counter is, under the descriptors that readers keep open.

        One write of a fixed width: as in sysfs, a reader never sees half of it.
        """
        descriptor = os.open(self.file, os.O_WRONLY)
        try:
            os.pwrite(descriptor, content.ljust(32, b"\n"), 0)
            os.ftruncate(descriptor, max(32, len(content)) if content else 0)
        finally:
            os.close(descriptor)

    def rename(self, name: str | bytes) -> None:
        (self.folder / "name").write_bytes(name if isinstance(name, bytes) else f"{name}\n".encode())

    def set_range(self, content: bytes) -> None:
        (self.folder / "max_energy_range_uj").write_bytes(content)

    def mend(self) -> None:
        """Restore all files."""
        self.rename(self.name)
        self.set_range(f"{self.range_uj}\n".encode())
        self.set(1000.0)

    def break_(self) -> None:
        """From now on a read fails, also through descriptors kept open."""
        self.write(b"")

    def forbid(self) -> None:
        """Opening the counter fails, as a file mode would make it for anyone but root."""
        self.file.unlink()
        self.file.mkdir()

    def vanish(self) -> None:
        shutil.rmtree(self.folder)


class Tree:
    """A tree below `base`; `root` is what `powercap_root` takes."""

    def __init__(self, base: Path) -> None:
        self.devices = base / "devices" / "virtual" / "powercap"
        self.root = base / "class" / "powercap"
        self.root.mkdir(parents=True)
        self.zones: dict[str, Zone] = {}
        self.package: list[Zone] = []
        self.dram: list[Zone] = []

    def zone(self, zone_id: str, name: str, range_uj: int = INTEL_RANGE_UJ) -> Zone:
        control, _, numbers = zone_id.partition(":")
        folder = self.devices / control
        parts = numbers.split(":")
        for depth in range(1, len(parts) + 1):
            folder = folder / ":".join([control, *parts[:depth]])
        zone = self.zones[zone_id] = Zone(folder, name, range_uj)
        (self.root / zone_id).symlink_to(folder)
        if not (self.root / control).exists():
            (self.root / control).symlink_to(self.devices / control)
        return zone


def server(base: Path) -> Tree:
    """Two sockets with a dram zone each."""
    tree = Tree(base)
    for socket in range(2):
        tree.package.append(tree.zone(f"intel-rapl:{socket}", f"package-{socket}"))
        tree.dram.append(tree.zone(f"intel-rapl:{socket}:0", "dram", DRAM_RANGE_UJ))
    return tree


def client(base: Path) -> Tree:
    """A laptop: package with core and uncore, psys, and the package's twin in the MMIO tree."""
    tree = Tree(base)
    tree.package.append(tree.zone("intel-rapl:0", "package-0"))
    tree.zone("intel-rapl:0:0", "core")
    tree.zone("intel-rapl:0:1", "uncore")
    tree.zone("intel-rapl:1", "psys")
    tree.zone("intel-rapl-mmio:0", "package-0")
    return tree


def amd(base: Path) -> Tree:
    """A Zen server: package and core, the smaller range, no dram."""
    tree = Tree(base)
    tree.package.append(tree.zone("intel-rapl:0", "package-0", AMD_RANGE_UJ))
    tree.zone("intel-rapl:0:0", "core", AMD_RANGE_UJ)
    return tree


def mirrored_dies(base: Path) -> Tree:
    """One package whose two dies show one counter, and one whose dies count for themselves."""
    tree = Tree(base)
    names = ("package-0-die-0", "package-0-die-1", "package-1-die-0", "package-1-die-1")
    for number, (name, joules) in enumerate(zip(names, (5000, 5000, 7000, 9), strict=True)):
        zone = tree.zone(f"intel-rapl:{number}", name)
        zone.set(joules)
        tree.package.append(zone)
    return tree


def many_sockets(base: Path, sockets: int = 12) -> Tree:
    """Zone numbers are hexadecimal and do not follow the packages'."""
    tree = Tree(base)
    for number in range(sockets):
        tree.package.append(tree.zone(f"intel-rapl:{number:x}", f"package-{sockets - 1 - number}"))
    return tree
