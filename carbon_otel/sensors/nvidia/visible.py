"""The NVIDIA GPUs that this process may use, by `CUDA_VISIBLE_DEVICES`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from carbon_otel.sensors.nvidia.mig import Instance


def setting() -> str | None:
    """The value of the variable, or None if it is not set."""
    return os.environ.get("CUDA_VISIBLE_DEVICES")


def visible(uuids: Sequence[str], setting: str | None, instances: Iterable[Instance] = ()) -> list[str]:
    """UUIDs of the GPUs and MIG instances a process may use under `CUDA_VISIBLE_DEVICES`, as CUDA reads it.

    Unset means all GPUs; the list ends at the first entry that names no device (CUDA C++ Programming Guide,
    environment variables). An index refers to NVML's order. It is CUDA's order with
    `CUDA_DEVICE_ORDER=PCI_BUS_ID`, and if all GPUs are of one model.
    """
    if setting is None:
        return list(uuids)
    partitions = list(instances)
    chosen: list[str] = []
    for entry in (part.strip() for part in setting.split(",")):
        if entry.isascii() and entry.isdigit():
            named = uuids[int(entry) :][:1] if len(entry) < 10 else []
        elif entry.startswith("MIG-"):
            named = [each.uuid for each in partitions if each.answers_to(entry)]
        elif entry.startswith("GPU-"):
            named = [uuid for uuid in uuids if uuid.startswith(entry)]
        else:
            named = []
        if len(named) != 1:
            break
        chosen.append(named[0])
    return list(dict.fromkeys(chosen))
