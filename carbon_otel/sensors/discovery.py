"""Which sensor each component gets on this host, why not a better one, and what would change that."""

from __future__ import annotations

import getpass
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

from carbon_otel.provenance import combined
from carbon_otel.sensors import apple, grace, intel_gpu, jetson, rapl
from carbon_otel.sensors.amd import gpu as amd_gpu
from carbon_otel.sensors.base import Finding, Sensor
from carbon_otel.sensors.cpu_info import ARM, Processor, processor
from carbon_otel.sensors.cpu_model import CpuModel
from carbon_otel.sensors.memory_model import MemoryModel
from carbon_otel.sensors.nvidia import find as nvml
from carbon_otel.sensors.proc_stat import BusyTime

_UDEV_FILE: Final = "/etc/udev/rules.d/90-powercap.rules"
_ORDER: Final = ("host", "cpu", "memory", "gpu")


@dataclass(frozen=True, slots=True)
class Discovery:
    sensors: tuple[Sensor, ...]
    findings: tuple[Finding, ...]
    processor: str
    gpus: tuple[str, ...] = ()

    @property
    def hardware(self) -> str:
        """In a line: the processor, and the GPUs counted by name."""
        return " + ".join([self.processor, *_counted(self.gpus)])

    @property
    def method(self) -> str:
        """The tiers of all sensors, best first, joined by `+`."""
        return combined(sensor.device.method for sensor in self.sensors)

    @property
    def missing(self) -> tuple[str, ...]:
        """The components that the figures lack."""
        return tuple(f.component for f in self.findings if f.unmetered)

    def close(self) -> None:
        for sensor in self.sensors:
            sensor.close()


def discover(powercap_root: Path | None = None, cpu_family: str | None = None) -> Discovery:
    """Find every sensor of this host. Never raises: what cannot be read is a finding.

    From the meters that contain the most to the models; what one contains is not looked for again. `cpu_family`
    is a family of the processors' table, for hosts that do not say theirs.
    """
    host = processor()
    if cpu_family is not None:
        host = replace(host, family=cpu_family)
    root = powercap_root or rapl.DEFAULT_ROOT
    search = _Search()
    search.add(jetson.find())
    if "gpu" not in search.covered:
        search.add(_gpus())
    gpus = tuple(sensor.device.name for sensor in search.sensors if sensor.device.type == "gpu")
    for find in (grace.find, apple.find, partial(_powercap, root, host)):
        if "cpu" not in search.covered:
            search.add(find())
    if "cpu" not in search.covered:
        _model_processor(search, host, root)
    if "memory" not in search.covered:
        _model_memory(search)
    search.say_what_is_contained()
    return Discovery(
        tuple(sorted(search.sensors, key=lambda sensor: _ORDER.index(sensor.device.type))),
        tuple(sorted(search.findings, key=lambda finding: _ORDER.index(finding.component))),
        f"{host.model_name} ({host.threads} threads)",
        gpus,
    )


class _Search:
    """What was found so far."""

    def __init__(self) -> None:
        self.sensors: list[Sensor] = []
        self.findings: list[Finding] = []

    def add(self, found: tuple[Sequence[Sensor], Sequence[Finding]]) -> None:
        self.sensors += found[0]
        self.findings += found[1]

    @property
    def covered(self) -> set[str]:
        """The components that are measured or modelled: their own, and those contained in others' meters."""
        return {s.device.type for s in self.sensors}.union(*(s.device.contains for s in self.sensors))

    def say_what_is_contained(self) -> None:
        own = {finding.component for finding in self.findings if finding.method != "missing"}
        for sensor in self.sensors:
            device = sensor.device
            for component in device.contains - own:
                self.findings = [f for f in self.findings if f.unmetered or f.component != component]
                self.findings.append(Finding(component, device.method, f"included in {device.name}"))
            own |= device.contains


def _gpus() -> tuple[list[Sensor], list[Finding]]:
    sensors: list[Sensor] = []
    findings: list[Finding] = []
    for find in (nvml.find, intel_gpu.find, amd_gpu.find):
        found, told = find()
        sensors += found
        findings += told
    if any(finding.unmetered or finding.method != "missing" for finding in findings):
        # That there is none of one vendor's is no news where there is another's.
        findings = [f for f in findings if f.unmetered or f.fix or f.method != "missing"]
    return sensors, findings


def _powercap(root: Path, host: Processor) -> tuple[list[Sensor], list[Finding]]:
    readable, unreadable = rapl.select(rapl.zones(root))
    sensors: list[Sensor] = []
    findings: list[Finding] = []
    for zone in readable:
        try:
            sensors.extend(rapl.sensors([zone], host.vendor))
        except OSError as error:
            findings.append(_unreadable(zone, error.strerror or str(error)))
    findings += [_unreadable(zone, zone.error) if zone.error else _unknown(zone) for zone in unreadable]
    if not {"cpu", "host"} & {sensor.device.type for sensor in sensors}:
        # Memory alone: the model of the processor includes it.
        for sensor in sensors:
            sensor.close()
        return [], findings
    for sensor in sensors:
        device = sensor.device
        findings.append(Finding(device.type, device.method, f"{device.name} ({device.id})"))
    return sensors, findings


def _model_processor(search: _Search, host: Processor, root: Path) -> None:
    """No meter of the processor: the whole server's model, which includes its memory."""
    model = CpuModel(host, BusyTime())
    blocked = next((f for f in search.findings if f.component in ("cpu", "memory") and f.fix), None)
    if blocked:
        reason, fix = blocked.reason, blocked.fix
    elif host.vendor == ARM:
        reason = "ARM has no counter of its own, and hwmon shows no power meter that we know"
        fix = "name the family of the table that is nearest: CARBON_OTEL_CPU_FAMILY"
    elif host.virtual:
        reason = "a virtual machine; its host exports no RAPL counter"
        fix = "where the host shares one, mount it and set CARBON_OTEL_POWERCAP_ROOT"
    else:
        reason = f"no powercap zone in {root}"
        fix = "sudo modprobe intel_rapl_msr; in a container, mount the host's powercap folder"
    # Modelled is not lacking.
    search.findings = [f for f in search.findings if f.component not in ("cpu", "memory")]
    found = f"{host.model_name}: {model.device.source}"
    search.add(([model], [Finding("cpu", model.device.method, found, reason, fix)]))


def _model_memory(search: _Search) -> None:
    memory = MemoryModel()
    device = memory.device
    reason = "the package is measured, but there is no readable dram zone"
    # Modelled is not lacking; what would measure it stays to be read in the fix.
    search.findings = [replace(f, unmetered=f.unmetered and f.component != "memory") for f in search.findings]
    found = f"{device.name} at {device.source}"
    search.add(([memory], [Finding("memory", device.method, found, reason=reason)]))


def _unreadable(zone: rapl.Zone, error: str) -> Finding:
    rule = rapl.UDEV_RULE.format(group=_group())
    return Finding(
        component="memory" if zone.name == "dram" else "cpu",
        method="missing",
        found=f"{zone.name} ({zone.id})",
        reason=f"{zone.path / 'energy_uj'}: {error}",
        fix=f"echo '{rule}' | sudo tee {_UDEV_FILE} && sudo udevadm control --reload && sudo udevadm trigger",
        unmetered=True,
    )


def _unknown(zone: rapl.Zone) -> Finding:
    return Finding(
        component="memory" if zone.parent is not None else "cpu",
        method="missing",
        found=f"{zone.id}",
        reason=f"{zone.path / 'name'} says {zone.name!r}, which is no powercap zone that we know",
        fix="if it is a counter of its own, tell us its name",
        unmetered=True,
    )


def _counted(names: Iterable[str]) -> list[str]:
    names = list(names)
    return [f"{names.count(name)} x {name}" for name in dict.fromkeys(names)]


def _group() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "users"
