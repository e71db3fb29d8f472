"""The AMD GPUs that this process may use, by `ROCR_VISIBLE_DEVICES` and `HIP_VISIBLE_DEVICES`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence


def visible(gpus: Sequence[tuple[int, str]], environment: Mapping[str, str] = os.environ) -> list[int]:
    """Positions in `gpus`, pairs of (HIP index, UUID) in HIP's order, that a process may use.

    ROCR selects first, by index or UUID; HIP's indices are positions in that selection. Without HIP's variable
    `CUDA_VISIBLE_DEVICES` is used. A list ends at the first entry that names no device (ROCm documentation, GPU
    isolation techniques).
    """
    left = list(range(len(gpus)))
    left = _listed(left, [gpus[i][1] for i in left], environment.get("ROCR_VISIBLE_DEVICES"))
    hip = environment.get("HIP_VISIBLE_DEVICES", environment.get("CUDA_VISIBLE_DEVICES"))
    return _listed(left, [gpus[i][1] for i in left], hip)


def _listed(positions: list[int], uuids: list[str], setting: str | None) -> list[int]:
    if setting is None:
        return positions
    chosen: list[int] = []
    for entry in (part.strip() for part in setting.split(",")):
        if entry.isascii() and entry.isdigit() and len(entry) < 10:
            named = positions[int(entry) :][:1]
        elif entry.upper().startswith("GPU-"):
            named = [p for p, uuid in zip(positions, uuids, strict=True) if _same(uuid, entry)]
        else:
            named = []
        if len(named) != 1:
            break
        chosen += named
    return list(dict.fromkeys(chosen))


def _same(uuid: str, entry: str) -> bool:
    """Compare UUIDs: ROCm writes `GPU-` and 16 hex digits, which are the end of amdsmi's UUID."""
    wanted = entry[4:].replace("-", "").lower()
    return bool(wanted) and uuid.removeprefix("GPU-").replace("-", "").lower().endswith(wanted)
