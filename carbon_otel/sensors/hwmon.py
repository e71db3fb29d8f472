"""Folders of Linux hwmon, and power read from their files.

The ABI (kernel documentation, hwmon/sysfs-interface): `power*` in microwatts, `in*` in millivolts, `curr*` in
milliamperes, `energy*` in microjoules.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

from carbon_otel.sensors.base import Device, SensorError
from carbon_otel.sensors.files import KernelFile

DEFAULT_ROOT: Final = Path("/sys/class/hwmon")


class HwmonPower:
    """Watts: the product of the numbers in `paths`, in units of `watts_per_unit`.

    The paths are one file of power, or one of volts and one of amperes. The files are kept open.
    Raises SensorError if they cannot be read.
    """

    kind: Literal["power"] = "power"
    joules_per_unit = 1.0
    wrap = None
    quantum_s = 0.0
    # The driver reads a chip over I2C or through the firmware, which takes a millisecond.
    edge_interval_s = 0.05
    tick_interval_s = 0.0

    def __init__(
        self,
        device: Device,
        paths: Sequence[Path],
        watts_per_unit: float,
        most_w: float,
        update_period_s: float = 0.05,
    ) -> None:
        self.device = device
        self.update_period_s = update_period_s
        self.power_bounds_w = (0.0, most_w)
        self._watts_per_unit = watts_per_unit
        self._files: list[tuple[Path, KernelFile]] = []
        try:
            for path in paths:
                self._files.append((path, KernelFile(path)))
            self.read()
        except OSError as error:
            self.close()
            raise SensorError(f"{error.filename}: {error.strerror or error}") from error
        except SensorError:
            self.close()
            raise

    def read(self) -> float:
        if not self._files:
            raise SensorError(f"{self.device.name}: closed")
        watts = math.prod(self._number(path, file) for path, file in self._files) * self._watts_per_unit
        if not 0 <= watts <= self.power_bounds_w[1]:
            raise SensorError(f"{self.device.name}: {watts:g} W is out of range")
        if watts == 0 and not self.device.may_rest:
            raise SensorError(f"{self.device.name}: 0 W, but a device that answers draws power")
        return watts

    def close(self) -> None:
        for _, file in self._files:
            file.close()
        self._files = []

    @staticmethod
    def _number(path: Path, file: KernelFile) -> int:
        try:
            number = int(file.read(32))
        except (OSError, ValueError) as error:
            raise SensorError(f"{path}: {error}") from error
        # Noise may make a number negative; the product of two negative numbers would look like a power.
        return max(0, number)


def folders(root: Path) -> list[Path]:
    """The entries of `root`, sorted by name; empty if it cannot be listed."""
    try:
        return sorted(root.iterdir())
    except OSError:
        return []


def text(path: Path) -> str:
    """The content of a small file, stripped of white space; empty if it cannot be read."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def slot(folder: Path) -> str:
    """The name of the device behind a hwmon folder. Unlike hwmon's numbers, it is the same after a reboot."""
    try:
        return (folder / "device").resolve(strict=True).name
    except (OSError, RuntimeError):
        return folder.name
