"""The share of each device that is charged to this process.

`reserved` (the default, as SCI, ISO/IEC 21031, counts reserved hardware): the whole host, or the share of its
hardware threads that a cgroup reserves; measured processes that share these threads, or a GPU, divide them.
`process`: the process tree's share, by CPU time, of the processors' active and idle energy; of a GPU, the tree's
share of its running processes, if the driver reports them. The share of the host is measured by both rules.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Final, Literal

from carbon_otel import clock
from carbon_otel.fork import renew_after_fork
from carbon_otel.guard import pass_on
from carbon_otel.host.cgroup import Reservation
from carbon_otel.host.coordination import uncoordinated
from carbon_otel.host.gpu_share import GpuShare, GpuUse
from carbon_otel.host.membership import Membership
from carbon_otel.host.process_tree import Processes, Tree, host_processes, spent_ns
from carbon_otel.host.shared_use import SharedUse
from carbon_otel.records import Shares
from carbon_otel.sensors.base import Device, SensorError
from carbon_otel.sensors.proc_stat import BusyTime
from carbon_otel.units import NS_PER_S, S_PER_NS

_INTERVAL_NS: Final = NS_PER_S // 10
# In a longer time, the host's processor time must have advanced: it counts hundredths of a second of each thread.
_SILENT_AFTER_NS: Final = NS_PER_S // 10
# In a shorter time, hundredths of a second of processor time tell nothing: often none of the tree's own.
_SHORTEST_NS: Final = NS_PER_S // 20
_SMALL_PROCESSES: Final = 8
_SMALL_THREADS: Final = 256

_NO_GPU_USE: Final[Mapping[str, GpuUse]] = {}


class Attribution:
    """Measures the shares, each time since the last measurement.

    `measure` may be called from any thread, but not under a lock that a stage needs: it reads files, and may wait
    for another process.
    """

    def __init__(
        self,
        rule: Literal["reserved", "process"],
        devices: Sequence[Device],
        reserved: Reservation,
        membership: Membership,
        busy_time: BusyTime,
        now_ns: int,
        gpu_use: Mapping[str, GpuUse] = _NO_GPU_USE,
        clock_ns: Callable[[], int] = clock.monotonic_ns,
    ) -> None:
        self.rule: Literal["reserved", "process"] = rule
        self._gpus = {gpu: GpuShare(use) for gpu, use in gpu_use.items()}
        self._devices = tuple(devices)
        self._host = reserved.resource
        self._reserved = reserved
        self._membership = membership
        gpus = {device.id: 0.0 for device in devices if device.type == "gpu"}
        processes = host_processes()
        uses = {self._host: reserved.threads, **gpus}
        self._shared_use = SharedUse(membership, uses, now_ns, processes, clock_ns)
        self._shares: Mapping[str, float] = dict(self._shared_use.look(now_ns))
        self._samples: tuple[float, ...] = ()
        self._tree = TreeShare(membership.process.pid, busy_time, processes, now_ns, reserved.share)
        self._process = 0.0
        self._known = True
        self._uncoordinated = uncoordinated(membership, devices, rule, reserved)
        self._due_ns = 0
        self._lock = threading.RLock()
        renew_after_fork(self._renew)

    def measure(self, now_ns: int, *, tick: bool) -> Shares | None:
        """The shares since the last measurement; None if it is too early for a new one."""
        if now_ns < self._due_ns or not (tick or self.rule == "process"):
            return None
        try:
            # Nobody waits for the measurement of another thread, or of the code that a signal handler interrupts:
            # the result is the same.
            if not self._lock.acquire(blocking=False):
                return None
            shares = None
            # An edge measures a small tree only, since the kernel goes through its processes and threads. The next
            # tick measures a large one, for the whole time since the last.
            if now_ns >= self._due_ns and (tick or self._tree.small):
                self._due_ns = now_ns + _INTERVAL_NS
                by_members = self._shared_use.look(now_ns) if tick else None
                share = self._tree.look(now_ns, self._shared_use.visible)
                self._known = share is not None or self.rule == "reserved"
                if share is not None:
                    self._process = share
                if by_members is not None:
                    self._uncoordinated = uncoordinated(
                        self._membership, self._devices, self.rule, self._reserved
                    )
                    self._shares, self._samples = self._by_use(by_members, now_ns)
                shares = self.present
            self._lock.release()
            return shares
        except BaseException:  # it may have come just before or after the lock was taken
            with contextlib.suppress(RuntimeError):
                self._lock.release()
            raise

    def change(self, rule: Literal["reserved", "process"]) -> None:
        """Charge by this rule from the next measurement on, which is due at once."""
        self.rule, self._due_ns = rule, 0

    def _by_use(
        self, by_members: Mapping[str, float], now_ns: int
    ) -> tuple[Mapping[str, float], tuple[float, ...]]:
        """This process's shares, those of GPUs as their drivers report, and of how many samples each is the mean.

        A GPU has the tree's part of the active time, and its share by members of the idle time.
        """
        shares, samples = dict(by_members), {}
        for gpu, sampled in self._gpus.items() if self.rule == "process" else ():
            try:
                found = sampled.look(self._tree.pids, by_members[gpu], now_ns)
            except SensorError as error:
                pass_on(error)
                continue  # keep the share by members
            if found is not None:
                shares[gpu], samples[gpu] = found
        if not any(samples.values()):
            return shares, ()
        return shares, tuple(samples.get(device.id, 0.0) for device in self._devices)

    @property
    def present(self) -> Shares:
        """The shares as last measured."""
        reserved = self._reserved.share * self._shares[self._host]
        host = reserved if self.rule == "reserved" else self._process
        devices = tuple(self._shares.get(d.id, 1.0) if d.type == "gpu" else host for d in self._devices)
        return Shares(devices, reserved, self._process, self._uncoordinated, self._known, self._samples)

    def _renew(self) -> None:
        """In a forked child: the thread that held the lock does not exist there."""
        self._lock = threading.RLock()

    def leave(self) -> None:
        """End the measurement; from now on the other members are charged."""
        with self._lock:
            self._shared_use.leave()


class TreeShare:
    """The process tree's share of the processors, from the CPU times of two calls.

    With c the tree's part of the host's capacity and u the host's utilisation, the tree is charged with c/u of the
    active part of the energy (u) and c of the idle part (1 - u): together c (2 - u). The trees of descendants that
    are measured separately are excluded.
    """

    def __init__(
        self, pid: int, busy_time: BusyTime, processes: Processes, now_ns: int, share: float = 1.0
    ) -> None:
        """`share` is returned until the share has been measured."""
        self._pid = pid
        self._processes = processes
        self._busy_time = busy_time
        self._before: tuple[float, float, Tree] | None = None
        self._before_ns = now_ns
        self._share = share
        self.look(now_ns)

    @property
    def pids(self) -> Set[int]:
        """The processes of the tree at the last call of `look`."""
        if self._before is None:
            return frozenset()
        return {pid for pid, spent in self._before[2].items() if not spent.foreign}

    @property
    def small(self) -> bool:
        """Whether the tree had few processes and threads at the last call of `look`."""
        few = self._before is None or len(self._before[2]) <= _SMALL_PROCESSES
        return few and self._processes.threads <= _SMALL_THREADS

    def look(self, now_ns: int, others: frozenset[int] = frozenset()) -> float | None:
        """The share since the last measurement; None if it cannot be measured now.

        A time that could not be measured, or is too short to be, is part of the next measurement, unless a clock
        has stepped back.
        """
        if self._before is not None and now_ns - self._before_ns < _SHORTEST_NS:
            return self._share
        try:
            busy, idle = self._busy_time.read()
            now = self._processes.trees([self._pid], others)[self._pid]
        except (OSError, SensorError) as error:
            pass_on(error)
            return None
        if not now:  # this host does not show its processes
            return None
        stepped_back = False
        if self._before is not None:
            busy_then, idle_then, then = self._before
            ran, rested = busy - busy_then, idle - idle_then
            capacity = ran + rested
            if capacity == 0:
                silent = now_ns - self._before_ns > _SILENT_AFTER_NS
                return None if silent else self._share
            stepped_back = capacity < 0
            if not stepped_back:
                spent = spent_ns(then, now) * S_PER_NS
                part = min(spent, capacity) / capacity
                active = min(1.0, max(0.0, ran / capacity))
                self._share = part * (2 - max(active, part))
        self._before, self._before_ns = (busy, idle, now), now_ns
        return None if stepped_back else self._share
