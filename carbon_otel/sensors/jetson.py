"""NVIDIA Jetson: the rails of its INA3221 power monitors, as volts times amperes.

Boards have different rails (NVIDIA Jetson Linux Developer Guide, "Software-Based Power Consumption Modeling"). If
one rail feeds the whole module (`VDD_IN` of the Orin NX, Orin Nano, Xavier NX and TX2, `POM_5V_IN` of the Nano),
only this rail is read, because it includes the others. Otherwise the rails are added up; the memory rail
(`VDDQ...`, `VDDRQ`) is left out if the 5 V rail that feeds it is measured.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from carbon_otel.provenance import Band
from carbon_otel.sensors.base import Device, DeviceType, Finding, Sensor, SensorError
from carbon_otel.sensors.hwmon import DEFAULT_ROOT, HwmonPower, folders, slot, text
from carbon_otel.units import MILLI

DEFAULT_I2C: Final = Path("/sys/bus/i2c/drivers/ina3221x")

_DRIVERS: Final = ("ina3221", "ina3221x")
_WHOLE: Final = re.compile(r"(VDD|POM_5V)_IN")
_FIVE_VOLTS: Final = re.compile(r"(VIN_)?SYS_?5V0?")
_FED_BY_FIVE_VOLTS: Final = re.compile(r"VDDR?Q.*")
_MOST_W: Final = 300.0
# TI states a gain error of 0.25 % for the chip; the tolerance of the shunt and polling at 1 Hz add to it.
_BAND = Band(0.90, 1.10, "INA3221 rail polled at 1 Hz: +-10 %, our estimate", "estimate")


@dataclass(frozen=True, slots=True)
class _Rail:
    """A rail of a chip: the files whose product is its power, in `watts_per_unit`."""

    name: str
    id: str
    paths: tuple[Path, ...]
    watts_per_unit: float


def find(root: Path = DEFAULT_ROOT, i2c: Path = DEFAULT_I2C) -> tuple[list[Sensor], list[Finding]]:
    """The rails of a Jetson to read. Never raises."""
    sensors: list[Sensor] = []
    findings: list[Finding] = []
    for rail in _chosen([*_hwmon(root), *_iio(i2c)]):
        device = _device(rail)
        try:
            sensors.append(HwmonPower(device, rail.paths, rail.watts_per_unit, _MOST_W))
        except SensorError as error:
            fix = f"sudo chmod a+r {' '.join(map(str, rail.paths))}"
            findings.append(Finding(device.type, "missing", rail.name, str(error), fix, unmetered=True))
        else:
            findings.append(Finding(device.type, device.method, f"{rail.name} ({rail.id})"))
    return sensors, findings


def _chosen(rails: list[_Rail]) -> list[_Rail]:
    inputs = [rail for rail in rails if _WHOLE.fullmatch(rail.name)]
    if inputs:
        return inputs[:1]
    fed = any(_FIVE_VOLTS.fullmatch(rail.name) for rail in rails)
    return [rail for rail in rails if not (fed and _FED_BY_FIVE_VOLTS.fullmatch(rail.name))]


def _device(rail: _Rail) -> Device:
    contains: frozenset[DeviceType] = frozenset()
    device_type: DeviceType
    if _WHOLE.fullmatch(rail.name):
        device_type, contains = "host", frozenset({"cpu", "gpu", "memory"})
    elif "CPU" in rail.name:
        device_type = "cpu"
    elif "GPU" in rail.name or rail.name == "CV":
        device_type = "gpu"
    else:
        # Memory, its controller on the SOC rail, and I/O.
        device_type = "memory"
    source = "hwmon (INA3221)"
    # The module cuts the power of parts that are unused.
    may_rest = device_type != "host"
    return Device(rail.id, device_type, rail.name, "measured.power", _BAND, source, contains, may_rest)


def _hwmon(root: Path) -> Iterator[_Rail]:
    """The kernel's own driver, from JetPack 5 on: millivolts and milliamperes."""
    for folder in folders(root):
        if text(folder / "name") not in _DRIVERS:
            continue
        for number in (1, 2, 3):
            name = text(folder / f"in{number}_label")
            if _in_use(name) and text(folder / f"in{number}_enable") != "0":
                paths = (folder / f"in{number}_input", folder / f"curr{number}_input")
                yield _Rail(name, f"{slot(folder)}-{number}", paths, MILLI * MILLI)


def _iio(i2c: Path) -> Iterator[_Rail]:
    """NVIDIA's driver of JetPack 4: milliwatts."""
    for chip in folders(i2c):
        for folder in folders(chip):
            if not folder.name.startswith("iio:device"):
                continue
            for number in (0, 1, 2):
                name = text(folder / f"rail_name_{number}")
                if _in_use(name):
                    yield _Rail(name, f"{chip.name}-{number}", (folder / f"in_power{number}_input",), MILLI)


def _in_use(name: str) -> bool:
    # `sum of shunt voltages` is a channel of the chip, not a rail; `NC` is not connected.
    return bool(name) and name != "NC" and not name.startswith("sum of")
