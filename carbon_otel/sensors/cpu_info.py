"""The processor as the operating system describes it: vendor, model, and family in the table of processors."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

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


@dataclass(frozen=True, slots=True)
class Processor:
    """A processor. `family` is a key of `cpu_watts_per_thread.csv`, `unknown` if the table has no row for it."""

    vendor: str
    model_name: str
    family: str
    threads: int
    virtual: bool


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> Processor:
    """Describe this host's processor. Never raises; unknown fields stay empty."""
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
    """The server family by CPUID family and model (Linux arch/x86/include/asm/intel-family.h; AMD PPRs)."""
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
