"""NVIDIA GPUs through NVML: the GPUs that this process may use.

They are identified by UUID, never by index, since NVML's order is not always CUDA's. Of a partitioned GPU (MIG),
CUDA shows a process one instance: the one that the variable names, or the first. That instance is measured.
"""

from __future__ import annotations

from typing import Any

from carbon_otel.sensors.base import Finding, Sensor, SensorError
from carbon_otel.sensors.nvidia import mig
from carbon_otel.sensors.nvidia import visible as cuda_visible
from carbon_otel.sensors.nvidia.gpu import NvmlGpu
from carbon_otel.sensors.nvidia.library import Nvml, NvmlUnavailable


def find() -> tuple[list[Sensor], list[Finding]]:
    """Sensors of the GPUs that this process may use, and findings for the others. Never raises."""
    try:
        library = Nvml()
        listed, faults = library.devices()
    except NvmlUnavailable as error:
        return [], [Finding("gpu", "missing", "none", reason=str(error))]
    findings = [
        Finding("gpu", "missing", "unknown", fault, "reset the GPU (nvidia-smi -r)") for fault in faults
    ]
    handles = dict(listed)
    partitions = {
        uuid: mig.instances(library, uuid, handle)
        for uuid, handle in listed
        if mig.is_partitioned(library, handle)
    }
    instances = {each.uuid: each for listed in partitions.values() for each in listed}
    sensors: list[Sensor] = []
    chosen = cuda_visible.visible(list(handles), cuda_visible.setting(), instances.values())
    for uuid in dict.fromkeys(_first_instance(partitions, uuid) for uuid in chosen):
        try:
            sensor = _sensor(library, uuid, handles, instances, partitions)
        except SensorError as error:
            findings.append(
                Finding("gpu", "missing", uuid, str(error), "update the NVIDIA driver", unmetered=True)
            )
            continue
        sensors.append(sensor)
        device = sensor.device
        findings.append(Finding("gpu", device.method, f"{device.name} ({uuid})", _why_no_better(sensor)))
    if not chosen and not faults:
        findings.append(Finding("gpu", "missing", "none", reason="CUDA_VISIBLE_DEVICES shows no GPU"))
    return sensors, findings


def _first_instance(partitions: dict[str, list[mig.Instance]], uuid: str) -> str:
    listed = partitions.get(uuid)
    return listed[0].uuid if listed else uuid


def _sensor(
    library: Nvml,
    uuid: str,
    handles: dict[str, Any],
    instances: dict[str, mig.Instance],
    partitions: dict[str, list[mig.Instance]],
) -> NvmlGpu:
    instance = instances.get(uuid)
    if instance is not None:
        return mig.MigInstance(library, instance, handles[instance.gpu_uuid])
    if uuid in partitions:
        raise SensorError("in MIG mode, without an instance that this process may see")
    return NvmlGpu(library, uuid, handles[uuid])


def _why_no_better(sensor: NvmlGpu) -> str:
    if isinstance(sensor, mig.MigInstance):
        return f"NVML counts no energy per MIG instance: {sensor.device.source}"
    if sensor.kind == "counter":
        return ""
    return f"no energy counter on this GPU (Volta and newer have one): {sensor.device.source}"
