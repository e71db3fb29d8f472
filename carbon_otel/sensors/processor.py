"""What the operating system says of its processor: the model, its family in our table, and its busy time."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from carbon_otel.sensors.base import SensorError

ARM: Final = "ARM"

# By implementer and part (Linux arch/arm64/include/asm/cputype.h); ARM's /proc/cpuinfo has no name.
_ARM_CORES: Final = {
    ("0x41", "0xd0c"): "ARM Neoverse-N1",
    ("0x41", "0xd40"): "ARM Neoverse-V1",
    ("0x41", "0xd42"): "ARM Cortex-A78AE",
    ("0x41", "0xd49"): "ARM Neoverse-N2",
    ("0x41", "0xd4f"): "ARM Neoverse-V2",
    ("0xc0", "0xac3"): "Ampere-1",
}

_HZ: Final = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


@dataclass(frozen=True, slots=True)
class Processor:
    """`family` is a key of `cpu_watts_per_thread.csv`, `unknown` where the table has no row for it."""

    vendor: str
    model_name: str
    family: str
    threads: int
    virtual: bool


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> Processor:
    """Describe this host's processor. Never raises; what is not known stays empty."""
    try:
        text = cpuinfo.read_text(errors="replace")
    except OSError:
        text = ""
    first = text.split("\n\n", 1)[0]
    fields = {k.strip(): v.strip() for k, _, v in (line.partition(":") for line in first.splitlines())}
    vendor = fields.get("vendor_id", "")
    name = fields.get("model name", "")
    if "CPU implementer" in fields:
        vendor = ARM
        core = fields["CPU implementer"], fields.get("CPU part", "")
        name = name or _ARM_CORES.get(core, f"ARM {' '.join(core)}".strip())
    return Processor(
        vendor=vendor,
        model_name=name or vendor or "unknown processor",
        family=_family(vendor, _int(fields.get("cpu family")), _int(fields.get("model")), name),
        threads=len(re.findall(r"^processor\s*:", text, re.MULTILINE)) or os.cpu_count() or 1,
        virtual="hypervisor" in fields.get("flags", "").split(),
    )


def _family(vendor: str, family: int, model: int, name: str) -> str:
    """Server families by CPUID family and model (Linux arch/x86/include/asm/intel-family.h; AMD PPRs)."""
    if vendor == "AuthenticAMD" and ("EPYC" in name or not name):
        if family == 23 and 0x30 <= model <= 0x3F:
            return "epyc-rome"
        if family == 25 and model <= 0x0F:
            return "epyc-milan"
        if family == 25 and (0x10 <= model <= 0x1F or 0xA0 <= model <= 0xAF):
            return "epyc-genoa"
        if family == 26:
            return "epyc-turin"
    if vendor == "GenuineIntel" and "XEON" in name.upper() and family == 6:
        return {
            0x55: "xeon-skylake",
            0x6A: "xeon-icelake",
            0x6C: "xeon-icelake",
            0x8F: "xeon-sapphire-rapids",
            0xCF: "xeon-emerald-rapids",
            0xAD: "xeon-6",
            0xAE: "xeon-6",
            0xAF: "xeon-6",
        }.get(model, "unknown")
    return "unknown"


def _int(text: str | None) -> int:
    return int(text) if text and text.isascii() and text.isdigit() else -1


class BusyTime:
    """CPU seconds this host has been (busy, idle) since boot, over all its threads.

    Time stolen by the hypervisor is in neither: it was asked for and not run here. Guest time is already in
    user time (proc(5)).
    """

    def __init__(self, path: Path = Path("/proc/stat")) -> None:
        self._path = path
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._fd = -1

    def read(self) -> tuple[float, float]:
        """Seconds busy and idle. Raises SensorError."""
        if self._fd < 0:
            return self._read_elsewhere()
        try:
            fields = os.pread(self._fd, 256, 0).split(b"\n", 1)[0].split()
            user, nice, system, idle, iowait, irq, softirq = (int(x) for x in fields[1:8])
        except (OSError, ValueError) as error:
            raise SensorError(f"{self._path}: {error}") from error
        return (user + nice + system + irq + softirq) / _HZ, (idle + iowait) / _HZ

    @staticmethod
    def _read_elsewhere() -> tuple[float, float]:
        try:
            times = psutil.cpu_times()
        except (OSError, psutil.Error) as error:
            raise SensorError(f"psutil.cpu_times: {error}") from error
        return times.user + times.system + getattr(times, "nice", 0.0), times.idle

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Steal:
    """How much of this guest's time the hypervisor gave to others: where that is much, utilisation says less."""

    def __init__(self, path: Path = Path("/proc/stat")) -> None:
        self._path = path
        self._before = self._read() or (0, 0)
        self._share = 0.0

    def share(self) -> float | None:
        """Of all threads' time since the last call, from 0 to 1; None on a host that was never stolen from."""
        now = self._read()
        if now is None or not now[0]:
            return None
        stolen, total = (after - before for after, before in zip(now, self._before, strict=True))
        # Another reader may have asked a moment ago.
        if total >= _HZ // 10:
            self._share = min(1.0, max(0.0, stolen / total))
            self._before = now
        return self._share

    def _read(self) -> tuple[int, int] | None:
        """Ticks stolen, and of all kinds but guest time, which is in user time."""
        try:
            with self._path.open("rb") as file:
                ticks = [int(field) for field in file.readline().split()[1:9]]
        except (OSError, ValueError):
            return None
        return (ticks[7], sum(ticks)) if len(ticks) == 8 else None
