"""Intel GPUs through hwmon: the drivers i915 and xe count microjoules in `energy*_input`.

xe has two channels: `card`, the whole board, and `pkg`, which is part of the card. If both exist, `card` is read
(kernel documentation, ABI/testing/sysfs-driver-intel-i915-hwmon and -xe-hwmon). The counter is 64 bits wide, so it
does not wrap; it restarts when the driver is loaded.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal

from carbon_otel.provenance import Band
from carbon_otel.sensors.base import Device, Finding, Sensor, SensorError
from carbon_otel.sensors.files import KernelFile
from carbon_otel.sensors.hwmon import DEFAULT_ROOT, folders, slot, text
from carbon_otel.units import MICRO

_DRIVERS: Final = ("i915", "xe")
# Intel states no accuracy; the counter is the RAPL domain of the GPU.
_BAND = Band(0.90, 1.10, "Intel GPU energy counter: +-10 %, our estimate after RAPL", "estimate")
_MOST_W: Final = 1000.0
_MOST_UJ: Final = 2**64
_MOVES_WITHIN_S: Final = 0.02


class IntelGpu:
    """One card's energy counter, in a file that is kept open."""

    kind: Literal["counter"] = "counter"
    joules_per_unit = MICRO
    wrap = None
    update_period_s = quantum_s = 0.001
    edge_interval_s = 0.01
    tick_interval_s = 0.0
    power_bounds_w = (0.0, _MOST_W)

    def __init__(self, path: Path, device: Device) -> None:
        self.device = device
        self._path = path
        try:
            self._file = KernelFile(path)
        except OSError as error:
            raise SensorError(f"{path}: {error.strerror or error}") from error
        try:
            self.read()
        except SensorError:
            self.close()
            raise

    def read(self) -> float:
        try:
            microjoules = int(self._file.read(64))
        except (OSError, ValueError) as error:
            raise SensorError(f"{self._path}: {error}") from error
        if not 0 <= microjoules < _MOST_UJ:
            raise SensorError(f"{self._path}: {microjoules} microjoules is out of range")
        return microjoules

    def close(self) -> None:
        self._file.close()


def find(
    root: Path = DEFAULT_ROOT, sleep: Callable[[float], None] = time.sleep
) -> tuple[list[Sensor], list[Finding]]:
    """The Intel GPUs of this host that count their energy. Never raises. Waits 20 ms for a counter that is 0."""
    sensors: list[Sensor] = []
    findings: list[Finding] = []
    for folder in folders(root):
        driver = text(folder / "name")
        if driver not in _DRIVERS:
            continue
        channel = _channel(folder)
        if channel is None:
            name = f"{driver} ({folder.name})"
            findings.append(
                Finding(
                    "gpu", "missing", name, "the driver has no energy counter for this GPU", unmetered=True
                )
            )
            continue
        address = slot(folder)
        device = Device(
            address, "gpu", f"Intel GPU {address}", "measured.counter", _BAND, f"hwmon ({driver})"
        )
        try:
            sensor = IntelGpu(channel, device)
            _check_counts(sensor, sleep)
            sensors.append(sensor)
        except SensorError as error:
            findings.append(
                Finding(
                    "gpu", "missing", device.name, str(error), f"sudo chmod a+r {channel}", unmetered=True
                )
            )
        else:
            findings.append(Finding("gpu", device.method, device.name))
    return sensors, findings


def _check_counts(sensor: IntelGpu, sleep: Callable[[float], None]) -> None:
    """Close a sensor whose counter stays at 0, and raise SensorError."""
    if sensor.read() == 0:
        sleep(_MOVES_WITHIN_S)
        if sensor.read() == 0:
            sensor.close()
            raise SensorError("the counter stands at 0")


def _channel(folder: Path) -> Path | None:
    """The channel of the whole card, else the first."""
    channels = sorted(folder.glob("energy*_input"))
    labels = {text(path.with_name(path.name.replace("_input", "_label"))): path for path in channels}
    return labels.get("card") or (channels[0] if channels else None)
