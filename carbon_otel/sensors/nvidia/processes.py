"""The processes that keep a GPU's multiprocessors busy, if NVML reports them."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from carbon_otel.sensors.base import ProcessUse, SensorError
from carbon_otel.sensors.nvidia.library import Nvml

# The inode of the host's own pid namespace (Linux, include/linux/proc_ns.h: PROC_PID_INIT_INO).
_HOST_PIDS: Final = "pid:[4026531836]"
_OWN_PIDS: Final = Path("/proc/self/ns/pid")
# A sample takes between 1/6 s and 1 s, depending on the product (NVML API reference, nvmlUtilization_t).
_SHORTEST_US: Final = 1e6 / 6
_LONGEST_US: Final = 1e6


class ProcessUtilisation:
    """`nvmlDeviceGetProcessUtilization` of one GPU; each call continues from the end of the last one.

    NVML gives process ids of the host, which are unknown in a container; under MIG it does not support the call
    (NVML API reference).
    """

    def __init__(self, nvml: Nvml, own_pids: Path = _OWN_PIDS) -> None:
        self._nvml = nvml
        self._host_pids = _links_to(own_pids) == _HOST_PIDS
        self._seen_us = 0
        self._period_us = _LONGEST_US
        # The time of the last call, in seconds.
        self._asked_s: float | None = None

    def since_last(self, handle: Any) -> ProcessUse | None:
        """The use of the multiprocessors; None if NVML does not report it, and in the first call.

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
        stamps_us = sorted({self._seen_us, *(sample.timeStamp for sample in fresh)})
        asked_s, self._asked_s = self._asked_s, self._nvml.clock_s()
        since_us, self._seen_us = self._seen_us, stamps_us[-1]
        if asked_s is None:  # these samples are of a time before the first call
            return None
        apart_us = (later - earlier for earlier, later in pairwise(stamps_us) if earlier)
        self._period_us = min(self._period_us, *(us for us in apart_us if us >= _SHORTEST_US), _LONGEST_US)
        busy = {pid: sum(each) / len(each) / 100 for pid, each in percents.items()}
        # There are none of a time in which no process ran.
        sampled_us = min(self._seen_us - since_us, (self._asked_s - asked_s) * 1e6)
        return ProcessUse(busy, sampled_us / self._period_us)


def _links_to(path: Path) -> str:
    try:
        return str(path.readlink())
    except OSError:
        return ""
