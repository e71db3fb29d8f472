"""The processes that keep a GPU's multiprocessors busy, if NVML reports them."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any, Final

from carbon_otel.sensors.base import SensorError
from carbon_otel.sensors.nvidia.library import Nvml

# The inode of the host's own pid namespace (Linux, include/linux/proc_ns.h: PROC_PID_INIT_INO).
_HOST_PIDS: Final = "pid:[4026531836]"
_OWN_PIDS: Final = Path("/proc/self/ns/pid")


class ProcessUtilisation:
    """`nvmlDeviceGetProcessUtilization` of one GPU; each call continues from the end of the last one.

    NVML gives process ids of the host, which are unknown in a container; under MIG it does not support the call
    (NVML API reference).
    """

    def __init__(self, nvml: Nvml, own_pids: Path = _OWN_PIDS) -> None:
        self._nvml = nvml
        self._host_pids = _links_to(own_pids) == _HOST_PIDS
        self._seen_us = 0

    def since_last(self, handle: Any) -> dict[int, float] | None:
        """Fractions of the multiprocessors' time in [0, 1] by process id; None if NVML does not report them.

        Raises SensorError.
        """
        if not self._host_pids:
            return None
        api = self._nvml.api
        try:
            samples = api.nvmlDeviceGetProcessUtilization(handle, self._seen_us)
        except self._nvml.error as error:
            code = getattr(error, "value", None)
            if code in (api.NVML_ERROR_NOT_SUPPORTED, api.NVML_ERROR_FUNCTION_NOT_FOUND):
                return None
            # No process ran. Some drivers report this as success without samples, which nvidia-ml-py raises too.
            if code not in (api.NVML_ERROR_NOT_FOUND, api.NVML_SUCCESS):
                raise SensorError(f"processes on the GPU: {error}") from error
            samples = []
        percents: defaultdict[int, list[int]] = defaultdict(list)
        # NVML's buffer also holds entries that it never filled: too old, or beyond 100 %.
        fresh = [s for s in samples if s.timeStamp > self._seen_us and 0 <= s.smUtil <= 100]
        for sample in fresh:
            percents[sample.pid].append(sample.smUtil)
            self._seen_us = max(self._seen_us, sample.timeStamp)
        return {pid: sum(each) / len(each) / 100 for pid, each in percents.items()}


def _links_to(path: Path) -> str:
    try:
        return str(path.readlink())
    except OSError:
        return ""
