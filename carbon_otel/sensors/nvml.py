"""NVIDIA GPUs through NVML: the energy counter, or its power reading where there is no counter.

The counter (Volta and newer) is in millijoules since the driver was loaded and is renewed about every 100 ms;
it never wraps, but starts over when the driver is reloaded. NVML calls serialise inside the driver and can
take milliseconds, so edges of short stages are extrapolated instead of read, and processes are never listed.
"""

from __future__ import annotations

import ctypes
import os
from types import ModuleType
from typing import Any, Final, Literal

from carbon_otel.provenance import Band
from carbon_otel.sensors.base import Device, Finding, Sensor, SensorError

_LIBRARY: Final = "libnvidia-ml.so.1"
_UPDATE_PERIOD_S: Final = 0.1
_FALLBACK_LIMIT_W: Final = 1000.0

# NVIDIA states +-5 % for the board's power sensor; the counter comes from the same chain (Yang et al., SC 2024).
_COUNTER = Band(0.95, 1.05, "NVML energy counter: +-5 % (NVIDIA; Yang et al. 2024)")
_POWER = Band(0.90, 1.10, "NVML power polled at 1 Hz: +-10 % for runs over a minute (Yang et al. 2024)")


def find() -> tuple[list[Sensor], list[Finding]]:
    """The GPUs that this process may use, each with its sensor or the reason why it has none. Never raises."""
    try:
        library = Nvml()
        handles = dict(library.handles())
    except NvmlUnavailable as error:
        return [], [Finding("gpu", "missing", "none", reason=str(error))]
    sensors: list[Sensor] = []
    findings: list[Finding] = []
    chosen = visible(list(handles), visible_setting())
    for uuid in chosen:
        try:
            gpu = NvmlGpu(library, uuid, handles[uuid])
        except SensorError as error:
            findings.append(
                Finding("gpu", "missing", uuid, str(error), "update the NVIDIA driver", lacking=True)
            )
            continue
        sensors.append(gpu)
        reason = "" if gpu.kind == "counter" else "no energy counter on this GPU (Volta and newer have one)"
        findings.append(Finding("gpu", gpu.device.method, f"{gpu.device.name} ({uuid})", reason))
    if not chosen:
        findings.append(Finding("gpu", "missing", "none", reason="CUDA_VISIBLE_DEVICES shows no GPU"))
    return sensors, findings


class NvmlUnavailable(Exception):
    """There is no NVIDIA GPU to read here; the message says why."""


class Nvml:
    """The library, initialised. Raises NvmlUnavailable when it, a driver or a device is not there."""

    def __init__(self) -> None:
        try:
            # Before pynvml, whose import costs some 30 ms that a host without the driver need not pay.
            ctypes.CDLL(_LIBRARY)
        except OSError:
            raise NvmlUnavailable(f"no NVIDIA driver ({_LIBRARY} not found)") from None
        import pynvml

        self.api: ModuleType = pynvml
        self.error: type[Exception] = pynvml.NVMLError
        try:
            pynvml.nvmlInit()
        except self.error as error:
            raise NvmlUnavailable(f"NVML did not start: {error}") from error

    def handles(self) -> list[tuple[str, Any]]:
        """(UUID, handle) of every device of the host, in NVML's order."""
        found = []
        try:
            for index in range(self.api.nvmlDeviceGetCount()):
                handle = self.api.nvmlDeviceGetHandleByIndex(index)
                found.append((str(self.api.nvmlDeviceGetUUID(handle)), handle))
        except self.error as error:
            raise NvmlUnavailable(f"NVML does not list its devices: {error}") from error
        return found

    def close(self) -> None:
        try:
            self.api.nvmlShutdown()
        except self.error as error:
            raise SensorError(f"nvmlShutdown: {error}") from error


def visible(uuids: list[str], setting: str | None) -> list[str]:
    """The devices a process may use under `CUDA_VISIBLE_DEVICES`, as CUDA reads it.

    Unset means all; the list ends at the first entry that names no device (CUDA C++ Programming Guide,
    environment variables). An index is taken in NVML's order, which is CUDA's order under
    `CUDA_DEVICE_ORDER=PCI_BUS_ID` and wherever the GPUs are alike.
    """
    if setting is None:
        return uuids
    chosen: list[str] = []
    for entry in (part.strip() for part in setting.split(",")):
        if entry.isascii() and entry.isdigit() and int(entry) < len(uuids):
            chosen.append(uuids[int(entry)])
        elif entry.startswith("GPU-") and len(match := [u for u in uuids if u.startswith(entry)]) == 1:
            chosen.append(match[0])
        else:
            break
    return list(dict.fromkeys(chosen))


class NvmlGpu:
    """One GPU. `kind` is `power` (watts) where the device has no energy counter (millijoules)."""

    wrap = None
    update_period_s = _UPDATE_PERIOD_S
    # Five renewals of the counter: below that an edge's reading would be mostly quantisation.
    edge_interval_s = 5 * _UPDATE_PERIOD_S
    tick_interval_s = 0.95

    def __init__(self, nvml: Nvml, uuid: str, handle: Any) -> None:
        self._error = nvml.error
        self._handle = handle
        self._energy = nvml.api.nvmlDeviceGetTotalEnergyConsumption
        self._power = nvml.api.nvmlDeviceGetPowerUsage
        self.kind: Literal["counter", "power"] = "counter"
        self.joules_per_unit = 1e-3
        try:
            self._energy(handle)
        except self._error:
            self._read_watts()
            self.kind, self.joules_per_unit = "power", 1.0
        counted = self.kind == "counter"
        self.power_bounds_w = (0.0, 2 * self._limit_w(nvml))
        self.device = Device(
            id=uuid,
            type="gpu",
            name=self._name(nvml),
            method="measured.counter" if counted else "measured.power",
            band=_COUNTER if counted else _POWER,
            source="NVML total energy" if counted else "NVML power usage",
        )

    def read(self) -> float:
        if self.kind == "power":
            return self._read_watts()
        try:
            return int(self._energy(self._handle))
        except self._error as error:
            raise SensorError(f"{self.device.id}: {error}") from error

    def close(self) -> None:
        pass

    def _read_watts(self) -> float:
        try:
            return int(self._power(self._handle)) / 1000
        except self._error as error:
            raise SensorError(f"no energy counter and no power reading: {error}") from error

    def _limit_w(self, nvml: Nvml) -> float:
        try:
            return int(nvml.api.nvmlDeviceGetEnforcedPowerLimit(self._handle)) / 1000
        except self._error:
            return _FALLBACK_LIMIT_W

    def _name(self, nvml: Nvml) -> str:
        try:
            return str(nvml.api.nvmlDeviceGetName(self._handle))
        except self._error:
            return "NVIDIA GPU"


def visible_setting() -> str | None:
    return os.environ.get("CUDA_VISIBLE_DEVICES")
