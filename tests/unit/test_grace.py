"""The ACPI power meters of NVIDIA Grace on fake hwmon folders."""

from __future__ import annotations

import pytest

from carbon_otel.sensors import grace
from tests.fakes import hwmon

TELEMETRY = ("Module Power Socket 0", "Grace Power Socket 0", "CPU Power Socket 0", "SysIO Power Socket 0")


def meters(base, names, old=False):
    """One folder per meter; before kernel 6.8 the files were in the folder of the device."""
    for number, name in enumerate(names):
        folder = hwmon.chip(base, "power_meter", f"PNP0C09:{number:02}", number)
        files = {"power1_oem_info": name, "power1_average": 1_000_000 * (number + 1)}
        hwmon.fill(base / "devices" / f"PNP0C09:{number:02}" if old else folder, **files)
        if old:
            (folder / "name").unlink()
            hwmon.fill(base / "devices" / f"PNP0C09:{number:02}", name="power_meter")


@pytest.mark.parametrize("old", [False, True])
def test_the_socket_is_read_and_neither_its_rails_nor_the_module(tmp_path, old):
    meters(tmp_path, TELEMETRY, old)
    ((socket,), (finding,)) = grace.find(tmp_path / "hwmon")
    assert socket.kind == "power" and socket.read() == 2
    assert (socket.device.id, socket.device.type) == ("grace-0-grace", "cpu")
    assert socket.device.contains == {"memory"}
    assert finding.method == "measured.power"
    socket.close()


def test_the_other_wording_of_the_firmware(tmp_path):
    meters(tmp_path, ["Total Input Power in uW Socket 1", "CPU Rail Power in uW Socket 1"])
    ((socket,), _) = grace.find(tmp_path / "hwmon")
    assert socket.device.id == "grace-1-total" and socket.read() == 1
    socket.close()


def test_each_socket_of_a_superchip(tmp_path):
    meters(tmp_path, ["Grace Power Socket 0", "Grace Power Socket 1"])
    sockets, _ = grace.find(tmp_path / "hwmon")
    assert [s.read() for s in sockets] == [1, 2]
    for socket in sockets:
        socket.close()


def test_without_the_socket_meter_its_rails_are_added(tmp_path):
    meters(tmp_path, ["CPU Power Socket 0", "SysIO Power Socket 0", "DRAM Power Socket 0"])
    parts, _ = grace.find(tmp_path / "hwmon")
    assert {p.device.id: (p.device.type, p.read()) for p in parts} == {
        "grace-0-cpu": ("cpu", 1),
        "grace-0-sysio": ("cpu", 2),
        "grace-0-dram": ("memory", 3),
    }
    assert not any(p.device.contains for p in parts)
    for part in parts:
        part.close()


def test_other_power_meters_are_ignored(tmp_path):
    meters(tmp_path, ["Chassis input", ""])
    hwmon.chip(
        tmp_path, "amdgpu", "0000:03:00.0", 9, power1_oem_info="Grace Power Socket 0", power1_average=1
    )
    assert grace.find(tmp_path / "hwmon") == ([], [])


def test_a_meter_hidden_by_the_kernel_is_missing_and_its_finding_has_the_fix(tmp_path):
    hwmon.chip(tmp_path, "power_meter", "PNP0C09:00", 0, power1_oem_info="Grace Power Socket 0")
    sensors, (finding,) = grace.find(tmp_path / "hwmon")
    assert sensors == [] and finding.unmetered and finding.component == "cpu"
    assert "power1_average" in finding.reason and "force_cap_on" in finding.fix
