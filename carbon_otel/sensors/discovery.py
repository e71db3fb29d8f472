"""The choice of a sensor for each component of this host, with the reason and a fix if it is not the best."""

from __future__ import annotations

import getpass
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from carbon_otel.guard import contain, log_once
from carbon_otel.provenance import combined
from carbon_otel.sensors import apple, grace, intel_gpu, jetson, rapl
from carbon_otel.sensors.amd import gpu as amd_gpu
from carbon_otel.sensors.base import (
    Divided,
    Finding,
    Prepares,
    ProcessUse,
    ReportsProcesses,
    Sensor,
    SensorError,
)
from carbon_otel.sensors.cpu_info import ARM, Processor, processor
from carbon_otel.sensors.cpu_model import CpuModel, constant_model
from carbon_otel.sensors.memory_model import memory_model
from carbon_otel.sensors.nvidia import find as nvml
from carbon_otel.sensors.proc_stat import BusyTime

_UDEV_FILE: Final = "/etc/udev/rules.d/90-powercap.rules"
_SHARE_COUNTERS: Final = (
    "if the host of this virtual machine shares its counters, mount them and set CARBON_OTEL_POWERCAP_ROOT"
)
_ORDER: Final = ("host", "cpu", "memory", "gpu")
_UNVERIFIED: Final = "unverified on hardware"

_Result = tuple[Sequence[Sensor], Sequence[Finding]]


@dataclass(frozen=True, slots=True)
class Discovery:
    """The sensors of this host, and the decision for each component. `gpus` are the GPUs' names."""

    sensors: tuple[Sensor, ...]
    findings: tuple[Finding, ...]
    processor: str
    gpus: tuple[str, ...] = ()

    @property
    def hardware(self) -> str:
        """The processor, and the GPUs counted by name, in one line."""
        return " + ".join([self.processor, *_counted(self.gpus)])

    @property
    def method(self) -> str:
        """The tiers of all sensors, best first, joined by `+`."""
        return combined(sensor.device.method for sensor in self.sensors)

    @property
    def missing(self) -> tuple[str, ...]:
        """The components that are not in the figures."""
        return tuple(f.component for f in self.findings if f.unmetered)

    @property
    def utilisation(self) -> dict[str, Callable[[], ProcessUse | None]]:
        """By device id, the function that returns which processes use it, if the driver reports them."""
        return {s.device.id: s.utilisation for s in self.sensors if isinstance(s, ReportsProcesses)}

    @property
    def parts(self) -> dict[str, float]:
        """By device id, the part of the whole device that an instance of it is."""
        return {s.device.id: s.part for s in self.sensors if isinstance(s, Divided)}

    def prepare(self, sleep: Callable[[float], object]) -> None:
        """Let the sensors learn properties of their hardware, such as update periods; takes up to a second."""
        for sensor in self.sensors:
            if isinstance(sensor, Prepares):
                contain(f"preparing {sensor.device.name}", None, sensor.prepare, sleep)

    def close(self) -> None:
        """Close all sensors."""
        for sensor in self.sensors:
            sensor.close()


def discover(powercap_root: Path | None = None, cpu_family: str | None = None) -> Discovery:
    """Find every sensor of this host. Never raises: a component that cannot be read is a finding.

    Meters that contain the most components come first, models last. A component that is already contained is not
    searched for. `cpu_family` is a family in the table of processors, for hosts that do not report it.
    """
    host = processor()
    if cpu_family is not None:
        host = replace(host, family=cpu_family)
    root = powercap_root or rapl.DEFAULT_ROOT
    search = _Search()
    search.add(_unverified(jetson.find()))
    if "gpu" not in search.covered:
        search.add(_gpus())
    gpus = tuple(sensor.device.name for sensor in search.sensors if sensor.device.type == "gpu")
    for find in (grace.find, apple.find):
        if "cpu" not in search.covered:
            search.add(_unverified(find()))
    if "cpu" not in search.covered:
        search.add(_powercap(root, host))
    if "cpu" not in search.covered:
        _model_processor(search, host, root)
    if "memory" not in search.covered:
        _model_memory(search)
    search.add_contained()
    return Discovery(
        tuple(sorted(search.sensors, key=lambda sensor: _ORDER.index(sensor.device.type))),
        tuple(sorted(search.findings, key=lambda finding: _ORDER.index(finding.component))),
        f"{host.model_name} ({host.threads} threads)",
        gpus,
    )


class _Search:
    """The sensors and findings so far."""

    def __init__(self) -> None:
        self.sensors: list[Sensor] = []
        self.findings: list[Finding] = []

    def add(self, result: _Result) -> None:
        sensors, findings = result
        self.sensors += sensors
        self.findings += findings

    @property
    def covered(self) -> set[str]:
        """The components that are measured or modelled, separately or in another device's meter."""
        return {s.device.type for s in self.sensors}.union(*(s.device.contains for s in self.sensors))

    def add_contained(self) -> None:
        """Add a finding for each component that another device's meter includes."""
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
    for added, decided in (nvml.find(), _unverified(intel_gpu.find()), _unverified(amd_gpu.find())):
        sensors += added
        findings += decided
    if any(finding.unmetered or finding.method != "missing" for finding in findings):
        # Drop the findings "no GPU" of other vendors once one vendor was found.
        findings = [f for f in findings if f.unmetered or f.fix or f.method != "missing"]
    return sensors, findings


def _unverified(result: _Result) -> _Result:
    """Mark the findings of sensors that were tested only against fakes."""
    sensors, findings = result
    for sensor in sensors:
        name, source = sensor.device.name, sensor.device.source
        log_once(
            "%s: the sensor for %s was never tested on real hardware; compare its figures with another meter "
            "before you rely on them",
            name,
            source,
            about=source,
        )
    marked = [
        finding if finding.method == "missing" else replace(finding, reason=_with_mark(finding.reason))
        for finding in findings
    ]
    return sensors, marked


def _with_mark(reason: str) -> str:
    return f"{_UNVERIFIED}; {reason}" if reason else _UNVERIFIED


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
        # Memory alone is not read: the processor's model includes it.
        for sensor in sensors:
            sensor.close()
        return [], findings
    for sensor in sensors:
        device = sensor.device
        findings.append(Finding(device.type, device.method, f"{device.name} ({device.id})"))
    return sensors, findings


def _model_processor(search: _Search, host: Processor, root: Path) -> None:
    """Model the processor if it has no meter; the model is of the whole server, memory included."""
    busy_time = BusyTime()
    model: Sensor = CpuModel(host, busy_time)
    silence = _silence(busy_time)
    if silence:
        model = constant_model(host)
        busy_time.close()
    blocked = next((f for f in search.findings if f.component in ("cpu", "memory") and f.fix), None)
    if blocked:
        reason, fix = blocked.reason, blocked.fix
    elif host.vendor == ARM:
        reason = "ARM processors have no common energy counter, and hwmon has no known power meter"
        fix = "set CARBON_OTEL_CPU_FAMILY to the most similar family of the table"
    elif host.virtual:
        reason = "a virtual machine whose host exports no RAPL counter"
        fix = _SHARE_COUNTERS
    else:
        reason = f"no powercap zone in {root}"
        fix = "sudo modprobe intel_rapl_msr; in a container, mount the host's powercap folder"
    if silence:
        reason = f"{reason}; {silence}, so its load is unknown"
    # A modelled component is in the figures.
    search.findings = [f for f in search.findings if f.component not in ("cpu", "memory")]
    description = f"{host.model_name}: {model.device.source}"
    search.add(([model], [Finding("cpu", model.device.method, description, reason, fix)]))


def _silence(busy_time: BusyTime) -> str | None:
    """The reason why the host's processor time says nothing, as in some sandboxes; None if it says something."""
    try:
        return None if sum(busy_time.read()) > 0 else "the host shows no processor time"
    except SensorError as error:
        return str(error)


def _model_memory(search: _Search) -> None:
    memory = memory_model()
    device = memory.device
    reason = "the package is measured, but there is no readable dram zone"
    # A modelled component is in the figures; the finding stays, because its fix allows measuring it.
    search.findings = [replace(f, unmetered=f.unmetered and f.component != "memory") for f in search.findings]
    description = f"{device.name} at {device.source}"
    search.add(([memory], [Finding("memory", device.method, description, reason=reason)]))


def _unreadable(zone: rapl.Zone, error: str) -> Finding:
    rule = rapl.UDEV_RULE.format(group=_group())
    fix = f"echo '{rule}' | sudo tee {_UDEV_FILE} && sudo udevadm control --reload && sudo udevadm trigger"
    if error == rapl.STANDS_AT_ZERO:
        fix = _SHARE_COUNTERS
    return Finding(
        component="memory" if zone.name == "dram" else "cpu",
        method="missing",
        found=f"{zone.name} ({zone.id})",
        reason=f"{zone.path / 'energy_uj'}: {error}",
        fix=fix,
        unmetered=True,
    )


def _unknown(zone: rapl.Zone) -> Finding:
    return Finding(
        component="memory" if zone.parent is not None else "cpu",
        method="missing",
        found=f"{zone.id}",
        reason=f"{zone.path / 'name'} contains {zone.name!r}, which is not a known type of powercap zone",
        fix="report its name if it is a separate counter",
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
