"""MIG: the instances of a partitioned GPU, each with a share of the GPU's energy.

NVML counts only the whole GPU. An instance is charged in proportion to its compute slices, so the instances of a
fully partitioned GPU add up to the GPU. That is a convention, not a measurement: no offline model of an instance's
power holds across workloads (arXiv 2501.17752).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from carbon_otel.provenance import Band
from carbon_otel.sensors.nvidia.gpu import NvmlGpu
from carbon_otel.sensors.nvidia.library import Nvml

_SPLIT = Band(
    0.5, 1.5, "MIG: the GPU's energy by compute slices, +-50 %: NVML has none per instance", "estimate"
)


@dataclass(frozen=True, slots=True)
class Instance:
    """One MIG device (a compute instance) with `slices` of the `of` compute slices of its GPU."""

    uuid: str
    gpu_uuid: str
    gpu_instance: int
    compute_instance: int
    name: str
    slices: int
    of: int

    def answers_to(self, entry: str) -> bool:
        """Whether an entry of `CUDA_VISIBLE_DEVICES` may mean this instance.

        `MIG-<uuid>` since driver 470, `MIG-GPU-<uuid>/<GPU instance>/<compute instance>` before (MIG user guide,
        device enumeration); a UUID may be abbreviated.
        """
        if not entry.startswith("MIG-GPU-"):
            return len(entry) > len("MIG-") and self.uuid.startswith(entry)
        gpu, _, place = entry.removeprefix("MIG-").partition("/")
        return self.gpu_uuid.startswith(gpu) and place == f"{self.gpu_instance}/{self.compute_instance}"


def is_partitioned(nvml: Nvml, handle: Any) -> bool:
    """Whether the GPU is in MIG mode."""
    try:
        current, _ = nvml.api.nvmlDeviceGetMigMode(handle)
    except nvml.error:
        return False  # GPUs before Ampere do not have this mode
    return bool(current == nvml.api.NVML_DEVICE_MIG_ENABLE)


def instances(nvml: Nvml, gpu_uuid: str, handle: Any) -> list[Instance]:
    """The instances of a partitioned GPU that this process may see."""
    api = nvml.api
    listed = []
    try:
        # The greatest number of instances is the number of compute slices: 7 on A100 and H100, 4 on A30.
        most = api.nvmlDeviceGetMaxMigDeviceCount(handle)
    except nvml.error:
        return []
    for index in range(most):
        try:
            mig = api.nvmlDeviceGetMigDeviceHandleByIndex(handle, index)
            attributes = api.nvmlDeviceGetAttributes_v2(mig)
            # A compute instance is a device, and several may share one GPU instance: prefer its own slices.
            slices = attributes.computeInstanceSliceCount or attributes.gpuInstanceSliceCount
            if not 0 < slices <= most:
                continue
            instance = Instance(
                uuid=str(api.nvmlDeviceGetUUID(mig)),
                gpu_uuid=gpu_uuid,
                gpu_instance=api.nvmlDeviceGetGpuInstanceId(mig),
                compute_instance=api.nvmlDeviceGetComputeInstanceId(mig),
                name=str(api.nvmlDeviceGetName(mig)),
                slices=slices,
                of=most,
            )
        except (nvml.error, UnicodeDecodeError):
            continue  # there is no such instance, or it belongs to another container
        listed.append(instance)
    return listed


class MigInstance(NvmlGpu):
    """The share of an instance in its GPU's energy or power."""

    def __init__(self, nvml: Nvml, instance: Instance, gpu_handle: Any) -> None:
        super().__init__(nvml, instance.gpu_uuid, gpu_handle)
        self.part = instance.slices / instance.of
        least_w, most_w = self.power_bounds_w
        self.power_bounds_w = (least_w * self.part, most_w * self.part)
        self.device = replace(
            self.device,
            id=instance.uuid,
            name=instance.name,
            method="modelled.constant",
            band=_SPLIT,
            source=f"{instance.slices}/{instance.of} of {self.device.source} of {instance.gpu_uuid}",
        )

    def read(self) -> float:
        return super().read() * self.part
