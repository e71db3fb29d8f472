"""Which sensor each component gets on this host, why not a better one, and what would change that."""

from __future__ import annotations

import getpass
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from carbon_otel.sensors import intel_gpu, nvml, rapl
from carbon_otel.sensors.base import Finding, Sensor
from carbon_otel.sensors.cpu_model import CpuModel
from carbon_otel.sensors.memory_model import MemoryModel
from carbon_otel.sensors.processor import BusyTime, Processor, processor

_UDEV_FILE: Final = "/etc/udev/rules.d/90-powercap.rules"


@dataclass(frozen=True, slots=True)
class Discovery:
    sensors: tuple[Sensor, ...]
    findings: tuple[Finding, ...]
    hardware: str

    @property
    def missing(self) -> tuple[str, ...]:
        """The components that the figures lack."""
        return tuple(f.component for f in self.findings if f.lacking)

    def close(self) -> None:
        for sensor in self.sensors:
            sensor.close()


def discover(powercap_root: Path | None = None, cpu_family: str | None = None) -> Discovery:
    """Find every sensor of this host. Never raises: what cannot be read is a finding.

    `cpu_family` is a family of the processors' table, for hosts that do not say theirs.
    """
    host = processor()
    if cpu_family is not None:
        host = replace(host, family=cpu_family)
    cpu_sensors, cpu_findings = _cpu_and_memory(powercap_root or rapl.DEFAULT_ROOT, host)
    gpu_sensors, gpu_findings = _gpus()
    sensors = (*cpu_sensors, *gpu_sensors)
    gpus = [s.device.name for s in gpu_sensors]
    hardware = " + ".join([f"{host.model_name} ({host.threads} threads)", *_counted(gpus)])
    return Discovery(sensors, (*cpu_findings, *gpu_findings), hardware)


def _gpus() -> tuple[list[Sensor], list[Finding]]:
    sensors, findings = nvml.find()
    intel, told = intel_gpu.find()
    if told and not sensors:
        # That there is none of NVIDIA's is no news where another's is.
        findings = [finding for finding in findings if finding.lacking]
    return [*sensors, *intel], [*findings, *told]


def _cpu_and_memory(root: Path, host: Processor) -> tuple[list[Sensor], list[Finding]]:
    readable, unreadable = rapl.select(rapl.zones(root))
    sensors: list[Sensor] = []
    findings: list[Finding] = []
    for zone in readable:
        try:
            sensors.extend(rapl.sensors([zone], host.vendor))
        except OSError as error:
            findings.append(_unreadable(zone, error.strerror or str(error)))
    findings += [_unreadable(zone, zone.error) if zone.error else _unknown(zone) for zone in unreadable]

    measured = {sensor.device.type for sensor in sensors}
    if not measured & {"cpu", "host"}:
        return _modelled(root, host, sensors, findings)
    for sensor in sensors:
        device = sensor.device
        component = {"memory": "memory", "host": "host"}.get(device.type, "cpu")
        findings.append(Finding(component, device.method, f"{device.name} ({device.id})"))
    if not measured & {"memory", "host"}:
        memory = MemoryModel()
        sensors.append(memory)
        # Modelled is not lacking; what would measure it stays to be read in the fix.
        findings = [replace(f, lacking=f.lacking and f.component != "memory") for f in findings]
        findings.append(
            Finding(
                "memory",
                memory.device.method,
                f"{memory.device.name} at {memory.device.source}",
                reason="the package is measured, but there is no readable dram zone",
            )
        )
    return sensors, findings


def _modelled(
    root: Path, host: Processor, sensors: list[Sensor], findings: list[Finding]
) -> tuple[list[Sensor], list[Finding]]:
    """No counter of the package: the whole server's model, which includes its memory."""
    for sensor in sensors:
        sensor.close()
    model = CpuModel(host, BusyTime())
    blocked = next((f for f in findings if f.fix), None)
    if blocked:
        reason, fix = blocked.reason, blocked.fix
    elif host.virtual:
        reason = "a virtual machine; its host exports no RAPL counter"
        fix = "where the host shares one, mount it and set CARBON_OTEL_POWERCAP_ROOT"
    else:
        reason = f"no powercap zone in {root}"
        fix = "sudo modprobe intel_rapl_msr; in a container, mount the host's powercap folder"
    return [model], [
        Finding("cpu", model.device.method, f"{host.model_name}: {model.device.source}", reason, fix),
        Finding("memory", model.device.method, "included in the processor's model", reason),
    ]


def _unreadable(zone: rapl.Zone, error: str) -> Finding:
    rule = rapl.UDEV_RULE.format(group=_group())
    return Finding(
        component="memory" if zone.name == "dram" else "cpu",
        method="missing",
        found=f"{zone.name} ({zone.id})",
        reason=f"{zone.path / 'energy_uj'}: {error}",
        fix=f"echo '{rule}' | sudo tee {_UDEV_FILE} && sudo udevadm control --reload && sudo udevadm trigger",
        lacking=True,
    )


def _unknown(zone: rapl.Zone) -> Finding:
    return Finding(
        component="memory" if zone.parent is not None else "cpu",
        method="missing",
        found=f"{zone.id}",
        reason=f"{zone.path / 'name'} says {zone.name!r}, which is no powercap zone that we know",
        fix="if it is a counter of its own, tell us its name",
        lacking=True,
    )


def _counted(names: Iterable[str]) -> list[str]:
    names = list(names)
    return [f"{names.count(name)} x {name}" for name in dict.fromkeys(names)]


def _group() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "users"
