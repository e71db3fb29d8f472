"""The NVML library, and its restart after the driver was reloaded."""

from __future__ import annotations

import contextlib
import ctypes
import math
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any, Final

from carbon_otel import clock
from carbon_otel.fork import renew_after_fork
from carbon_otel.sensors.base import SensorError

_LIBRARY: Final = "libnvidia-ml.so.1"
_FIRST_WAIT_S: Final = 1.0
_LONGEST_WAIT_S: Final = 60.0


class NvmlUnavailable(Exception):
    """This host has no readable NVIDIA GPU; the message has the reason."""


class Backoff:
    """The times to retry a costly call: at once, then after 1 s, 2 s, 4 s, …, at most a minute."""

    def __init__(self, clock_s: Callable[[], float]) -> None:
        self._clock_s = clock_s
        self.reset()

    def reset(self) -> None:
        """Start again: the next try is due at once."""
        self._wait_s = _FIRST_WAIT_S
        self._due_s = -math.inf

    def due(self) -> bool:
        """Whether to try now. If so, the next try is due after a longer wait."""
        now_s = self._clock_s()
        if now_s < self._due_s:
            return False
        self._due_s = now_s + self._wait_s
        self._wait_s = min(_LONGEST_WAIT_S, 2 * self._wait_s)
        return True


class Nvml:
    """The library, which stays initialised until the process ends.

    `starts` counts the starts; a handle from before a restart must not be used after it. The constructor raises
    NvmlUnavailable if there is no library, driver or device.
    """

    def __init__(self, clock_s: Callable[[], float] = clock.monotonic) -> None:
        try:
            # Checked before the import of pynvml, which takes about 30 ms, so that a host without the driver saves
            # it.
            ctypes.CDLL(_LIBRARY)
        except OSError:
            raise NvmlUnavailable(f"no NVIDIA driver ({_LIBRARY} not found)") from None
        import pynvml

        self.api: ModuleType = pynvml
        self.error: type[Exception] = pynvml.NVMLError
        self.clock_s = clock_s
        self.starts = 1
        # Of energy counters, by name of GPU: the update period and the time that a reading takes, in seconds.
        self.learned: dict[str, tuple[float, float]] = {}
        # The GPUs that are read, one after the other.
        self.metered = 0
        self._restarting = threading.Lock()
        renew_after_fork(self._renew)
        reloaded = (pynvml.NVML_ERROR_UNINITIALIZED, pynvml.NVML_ERROR_DRIVER_NOT_LOADED)
        self._reloaded: Final = frozenset(reloaded)
        lost = (pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_INVALID_ARGUMENT)
        self._lost: Final = frozenset((*reloaded, *lost))
        try:
            pynvml.nvmlInit()
        except self.error as error:
            raise NvmlUnavailable(f"NVML did not start: {error}") from error

    def _renew(self) -> None:
        """In a forked child: the thread that held the lock does not exist there."""
        self._restarting = threading.Lock()

    def devices(self) -> tuple[list[tuple[str, Any]], list[str]]:
        """(UUID, handle) of every device of the host in NVML's order, and the errors of unreadable devices.

        Raises NvmlUnavailable.
        """
        devices, faults = [], []
        try:
            count = self.api.nvmlDeviceGetCount()
        except self.error as error:
            raise NvmlUnavailable(f"NVML does not list its devices: {error}") from error
        for index in range(count):
            try:
                handle = self.api.nvmlDeviceGetHandleByIndex(index)
                devices.append((str(self.api.nvmlDeviceGetUUID(handle)), handle))
            except (self.error, UnicodeDecodeError) as error:
                faults.append(f"GPU {index}: {error}")
        return devices, faults

    def handle(self, uuid: str) -> Any:
        """The handle of a device. Raises NVML's error."""
        return self.api.nvmlDeviceGetHandleByUUID(uuid)

    def is_lost(self, error: Exception) -> bool:
        """Whether a new handle may resolve the error."""
        return getattr(error, "value", None) in self._lost

    def restart_after(self, error: Exception, starts: int) -> None:
        """Restart NVML if the error requires it and no other thread has done so. Raises SensorError."""
        if getattr(error, "value", None) not in self._reloaded:
            return
        with self._restarting:
            if starts != self.starts:
                return
            with contextlib.suppress(self.error):  # a reload may already have stopped the library
                self.api.nvmlShutdown()
            try:
                self.api.nvmlInit()
            except self.error as failure:
                raise SensorError(f"NVML does not restart: {failure}") from failure
            self.starts += 1
