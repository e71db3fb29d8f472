"""The processor and its busy time, from /proc."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbon_otel.sensors.base import SensorError
from carbon_otel.sensors.cpu_info import processor
from carbon_otel.sensors.cpu_model import thread_power
from carbon_otel.sensors.proc_stat import BusyTime

HZ = os.sysconf("SC_CLK_TCK")


def x86(vendor: str, family: int, model: int, name: str, threads: int = 4, flags: str = "fpu vme") -> str:
    return "".join(
        f"processor\t: {n}\nvendor_id\t: {vendor}\ncpu family\t: {family}\nmodel\t\t: {model}\n"
        f"model name\t: {name}\nflags\t\t: {flags}\n\n"
        for n in range(threads)
    )


ARM = "".join(
    f"processor\t: {n}\nBogoMIPS\t: 243.75\nFeatures\t: fp asimd\nCPU implementer\t: 0x41\nCPU part\t: 0xd0c\n\n"
    for n in range(2)
)


@pytest.mark.parametrize(
    ("text", "family", "threads", "virtual"),
    [
        (x86("AuthenticAMD", 25, 17, "AMD EPYC 9354 32-Core Processor", 64), "epyc-genoa", 64, False),
        (x86("AuthenticAMD", 25, 0xA0, "AMD EPYC 9754 128-Core Processor"), "epyc-genoa", 4, False),
        (x86("AuthenticAMD", 25, 17, "AMD EPYC", 2, "fpu hypervisor"), "epyc-genoa", 2, True),
        (x86("AuthenticAMD", 25, 1, "AMD EPYC 7763 64-Core Processor"), "epyc-milan", 4, False),
        (x86("AuthenticAMD", 23, 49, "AMD EPYC 7742 64-Core Processor"), "epyc-rome", 4, False),
        (x86("AuthenticAMD", 26, 2, "AMD EPYC 9755 128-Core Processor"), "epyc-turin", 4, False),
        (x86("AuthenticAMD", 25, 33, "AMD Ryzen 9 5950X 16-Core Processor"), "unknown", 4, False),
        (
            x86("GenuineIntel", 6, 85, "Intel(R) Xeon(R) Platinum 8171M CPU @ 2.60GHz"),
            "xeon-skylake",
            4,
            False,
        ),
        (x86("GenuineIntel", 6, 106, "Intel(R) Xeon(R) Platinum 8370C CPU"), "xeon-icelake", 4, False),
        (x86("GenuineIntel", 6, 143, "Intel(R) Xeon(R) Platinum 8481C"), "xeon-sapphire-rapids", 4, False),
        (x86("GenuineIntel", 6, 207, "INTEL(R) XEON(R) GOLD 6542Y"), "xeon-emerald-rapids", 4, False),
        (x86("GenuineIntel", 6, 173, "Intel(R) Xeon(R) 6972P"), "xeon-6", 4, False),
        (x86("GenuineIntel", 6, 154, "12th Gen Intel(R) Core(TM) i7-1260P", 16), "unknown", 16, False),
        (ARM, "unknown", 2, False),
        ("", "unknown", os.cpu_count(), False),
    ],
)
def test_processor(text, family, threads, virtual, tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(text)
    found = processor(cpuinfo)
    assert (found.family, found.threads, found.virtual) == (family, threads, virtual)
    assert found.model_name
    assert thread_power(found.family).family == family


def test_no_cpuinfo(tmp_path):
    assert processor(tmp_path / "none").family == "unknown"


@given(content=st.binary(max_size=200), family=st.text(max_size=5))
def test_any_cpuinfo_gives_a_processor(content, family, tmp_path_factory):
    cpuinfo = tmp_path_factory.getbasetemp() / "cpuinfo"
    cpuinfo.write_bytes(f"vendor_id : GenuineIntel\ncpu family : {family}\n".encode() + content)
    assert processor(cpuinfo).threads >= 1


@pytest.mark.parametrize("family", ["²", "６", "-6", "6.0"])
def test_numbers_that_cannot_be_read(family, tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(x86("GenuineIntel", 6, 85, "Intel(R) Xeon(R)").replace(": 85", f": {family}"), "utf-8")
    assert processor(cpuinfo).family == "unknown"


def stat(path, *fields: int) -> BusyTime:
    path.write_text(f"cpu  {' '.join(str(f * HZ) for f in fields)}\ncpu0 1 2 3 4\n")
    return BusyTime(path)


def test_busy_time_excludes_stolen_time_and_counts_guests_once(tmp_path):
    user, nice, system, idle, iowait, irq, softirq, steal, guest, guest_nice = (
        50,
        4,
        20,
        700,
        30,
        1,
        2,
        99,
        8,
        3,
    )
    path = tmp_path / "stat"
    busy = stat(path, user, nice, system, idle, iowait, irq, softirq, steal, guest, guest_nice)
    assert busy.read() == (50 + 4 + 20 + 1 + 2, 700 + 30)
    stat(path, 51, 4, 20, 701, 30, 1, 2, 200, 8, 3)
    assert busy.read() == (78, 731)
    busy.close()
    busy.close()


@pytest.mark.parametrize("content", ["", "cpu\n", "cpu 1 2 3\n", "cpu a b c d e f g\n", "\x00\xff"])
def test_an_unreadable_stat_file_is_an_error(content, tmp_path):
    path = tmp_path / "stat"
    path.write_text(content)
    with pytest.raises(SensorError, match="stat"):
        BusyTime(path).read()


def test_without_a_stat_file_psutil_is_used(tmp_path):
    busy, idle = BusyTime(tmp_path / "none").read()
    assert busy > 0 and idle >= 0
