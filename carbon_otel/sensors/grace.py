"""NVIDIA Grace: the ACPI power meters of its sockets, through hwmon.

The firmware has meters of the module, the Grace socket, its CPU rail and its SysIO rail (NVIDIA Grace Performance
Tuning Guide, power telemetry). The meter of the socket includes the two rails and the LPDDR memory, so only this
meter is read. The meter of the module is never read, because it includes the GPU, which NVML measures. Without a
meter of the socket, the rails are read, and the meter of the memory if there is one.

The meters give the mean power of their interval (50 ms), not energy.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from carbon_otel.provenance import Band
from carbon_otel.sensors.base import Device, DeviceType, Finding, Sensor, SensorError
from carbon_otel.sensors.hwmon import DEFAULT_ROOT, HwmonPower, folders, text
from carbon_otel.units import MICRO

_DRIVER: Final = "power_meter"
_MOST_W: Final = 2000.0
_BAND = Band(
    0.90, 1.10, "Grace power meter polled at 1 Hz: +-10 %, our estimate after NVML's power", "estimate"
)

# NVIDIA's firmware has two wordings; the second calls the socket `total`.
_METER = re.compile(
    r"(?P<extent>module|grace|total|cpu|sysio|soc|dram)\b(?: rail)?(?: input)? power(?: in uw)?"
    r" socket (?P<socket>\d+)",
    re.IGNORECASE,
)
_SOCKET: Final = ("grace", "total")
_PARTS: Final = {"cpu": "cpu", "sysio": "cpu", "soc": "cpu", "dram": "memory"}
_ENABLE: Final = "boot with acpi_power_meter.force_cap_on=y, and install kernel 6.8 or newer"


@dataclass(frozen=True, slots=True)
class _Meter:
    extent: str
    socket: int
    folder: Path


def find(root: Path = DEFAULT_ROOT) -> tuple[list[Sensor], list[Finding]]:
    """The Grace sockets of this host. Never raises."""
    meters = _meters(root)
    sensors: list[Sensor] = []
    findings: list[Finding] = []
    for socket in sorted({meter.socket for meter in meters}):
        of_socket = [meter for meter in meters if meter.socket == socket]
        sockets = [meter for meter in of_socket if meter.extent in _SOCKET]
        for meter in sockets[:1] or [meter for meter in of_socket if meter.extent in _PARTS]:
            _open(meter, sensors, findings)
    return sensors, findings


def _open(meter: _Meter, sensors: list[Sensor], findings: list[Finding]) -> None:
    device = _device(meter)
    path = meter.folder / "power1_average"
    try:
        sensors.append(HwmonPower(device, [path], MICRO, _MOST_W))
    except SensorError as error:
        findings.append(Finding(device.type, "missing", device.name, str(error), _ENABLE, unmetered=True))
    else:
        findings.append(Finding(device.type, device.method, f"{device.name} ({device.id})"))


def _device(meter: _Meter) -> Device:
    device_type: DeviceType = "memory" if _PARTS.get(meter.extent) == "memory" else "cpu"
    contains: frozenset[DeviceType] = frozenset()
    name = f"Grace socket {meter.socket}"
    if meter.extent in _SOCKET:
        contains, name = frozenset({"memory"}), f"{name} with its memory"
    else:
        name = f"{name} {meter.extent}"
    source = "hwmon (ACPI power meter)"
    identity = f"grace-{meter.socket}-{meter.extent}"
    return Device(identity, device_type, name, "measured.power", _BAND, source, contains)


def _meters(root: Path) -> list[_Meter]:
    meters = []
    for folder in folders(root):
        # Before kernel 6.8 the driver's files are in the ACPI device's folder.
        for place in (folder, folder / "device"):
            match = _METER.match(text(place / "power1_oem_info"))
            if match and _DRIVER in (text(folder / "name"), text(place / "name")):
                meters.append(_Meter(match["extent"].lower(), int(match["socket"]), place))
                break
    return meters
