"""The selection of powercap zones, and the content of a zone's files."""

from __future__ import annotations

import sys
import threading

import pytest

from carbon_otel.sensors import rapl
from carbon_otel.sensors.base import SensorError
from tests.fakes import powercap

TREES = {
    powercap.server: {
        "intel-rapl:0": ("cpu", "package-0"),
        "intel-rapl:0:0": ("memory", "package-0 dram"),
        "intel-rapl:1": ("cpu", "package-1"),
        "intel-rapl:1:0": ("memory", "package-1 dram"),
    },
    powercap.client: {"intel-rapl:0": ("cpu", "package-0")},
    powercap.amd: {"intel-rapl:0": ("cpu", "package-0")},
    powercap.mirrored_dies: {
        "intel-rapl:0": ("cpu", "package-0-die-0"),
        "intel-rapl:2": ("cpu", "package-1-die-0"),
        "intel-rapl:3": ("cpu", "package-1-die-1"),
    },
    powercap.many_sockets: {f"intel-rapl:{n:x}": ("cpu", f"package-{11 - n}") for n in range(12)},
}


def chosen(root, vendor="GenuineIntel"):
    readable, _ = rapl.select(rapl.zones(root))
    return list(rapl.sensors(readable, vendor))


@pytest.mark.parametrize("build", TREES, ids=lambda build: build.__name__)
@pytest.mark.parametrize("layout", ["class", "devices", "control type"])
def test_the_zones_of_a_tree(build, layout, tmp_path):
    tree = build(tmp_path)
    root = {"class": tree.root, "devices": tree.devices, "control type": tree.devices / "intel-rapl"}[layout]
    assert {s.device.id: (s.device.type, s.device.name) for s in chosen(root)} == TREES[build]


def test_an_empty_folder_and_a_missing_folder(tmp_path):
    assert rapl.zones(tmp_path) == rapl.zones(tmp_path / "none") == []
    assert rapl.select([]) == ([], [])


def test_psys_is_read_only_if_no_package_is_readable(tmp_path):
    tree = powercap.client(tmp_path)
    tree.zones["intel-rapl:0"].forbid()
    tree.zones["intel-rapl-mmio:0"].forbid()
    assert [(s.device.type, s.device.name) for s in chosen(tree.root)] == [("host", "psys")]


def test_a_package_only_in_the_mmio_tree_is_read_there(tmp_path):
    tree = powercap.Tree(tmp_path)
    tree.zone("intel-rapl-mmio:0", "package-0")
    assert [s.device.id for s in chosen(tree.root)] == ["intel-rapl-mmio:0"]


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (powercap.Zone.forbid, "directory"),
        (powercap.Zone.break_, "not a number"),
        (lambda zone: zone.file.unlink(), "No such file"),
        (lambda zone: zone.write(b"n/a"), "not a number"),
    ],
    ids=["forbidden", "empty", "gone", "words"],
)
def test_unreadable_zones_come_with_the_reason(spoil, reason, tmp_path):
    tree = powercap.server(tmp_path)
    spoil(tree.package[1])
    readable, unreadable = rapl.select(rapl.zones(tree.root))
    assert [z.id for z in readable] == ["intel-rapl:0", "intel-rapl:0:0", "intel-rapl:1:0"]
    assert [z.id for z in unreadable] == ["intel-rapl:1"]
    assert reason in unreadable[0].error


@pytest.mark.parametrize(
    ("vendor", "low", "high"), [("GenuineIntel", 0.95, 1.05), ("AuthenticAMD", 0.9, 1.1), ("", 0.95, 1.05)]
)
def test_bands_by_vendor(vendor, low, high, tmp_path):
    by_type = {s.device.type: s.device for s in chosen(powercap.server(tmp_path).root, vendor)}
    assert (by_type["cpu"].band.low, by_type["cpu"].band.high) == (low, high)
    assert (by_type["memory"].band.low, by_type["memory"].band.high) == (0.8, 1.2)
    assert all(d.method == "measured.counter" and d.band.source for d in by_type.values())


def test_a_zone_reads_its_counter_and_wraps_at_its_range(tmp_path):
    tree = powercap.amd(tmp_path)
    (sensor,) = chosen(tree.root)
    assert sensor.read() * sensor.joules_per_unit == 1000
    assert sensor.wrap == powercap.AMD_RANGE_UJ
    tree.package[0].set(65_532.610987 + 7)
    assert sensor.read() == 7_000_000


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"n/a\n",
        b"-1\n",
        b"\xff\xfe\x00",
        b"0x10\n",
        b"1.5\n",
        b"%d\n" % (powercap.INTEL_RANGE_UJ + 1),
    ],
)
def test_any_content_except_a_count_within_the_range_is_an_error(content, tmp_path):
    tree = powercap.server(tmp_path)
    sensor = chosen(tree.root)[0]
    tree.package[0].write(content)
    with pytest.raises(SensorError, match="energy_uj"):
        sensor.read()
    tree.package[0].set(3)
    assert sensor.read() == 3_000_000


def test_a_closed_zone_is_an_error_and_closes_twice(tmp_path):
    tree = powercap.server(tmp_path)
    sensor = chosen(tree.root)[0]
    sensor.close()
    sensor.close()
    with pytest.raises(SensorError):
        sensor.read()


@pytest.mark.parametrize("content", [b"", b"many", b"0"])
def test_an_unreadable_range_is_assumed_to_be_that_of_most_packages(content, tmp_path):
    tree = powercap.server(tmp_path)
    tree.package[0].set_range(content)
    assert chosen(tree.root)[0].wrap == powercap.INTEL_RANGE_UJ


def test_a_guest_of_scaphandre_has_packages_without_names(tmp_path):
    """The tree of its qemu exporter: an energy_uj for each socket, and empty folders below."""
    for socket in range(2):
        (tmp_path / f"intel-rapl:{socket}" / f"intel-rapl:{socket}:0").mkdir(parents=True)
        (tmp_path / f"intel-rapl:{socket}" / "energy_uj").write_text("5000000")
    readable, unreadable = rapl.select(rapl.zones(tmp_path))
    assert [zone.id for zone in readable] == ["intel-rapl:0", "intel-rapl:1"] and not unreadable
    sensor = next(rapl.sensors(readable, "GenuineIntel"))
    assert (sensor.device.type, sensor.wrap, sensor.read()) == ("cpu", None, 5_000_000)
    sensor.close()


def test_a_reading_lets_no_other_thread_calculate(tmp_path):
    """It would wait for 5 ms at each zone until that thread lets go, in the midst of a request."""
    sensors = chosen(powercap.server(tmp_path).root)
    for sensor in sensors:
        sensor.read()
    turn, over, turns = threading.Lock(), False, 0

    def calculate():
        nonlocal turns
        with turn:
            while not over and turns < 1_000_000:
                turns += 1

    turn.acquire()
    thread = threading.Thread(target=calculate)
    thread.start()
    before_s = sys.getswitchinterval()
    sys.setswitchinterval(60)  # a thread that has the lock keeps it, until it gives it away
    try:
        turn.release()
        for sensor in sensors * 100:
            sensor.read()
        seen, over = turns, True
    finally:
        sys.setswitchinterval(before_s)
        over = True
        thread.join()
    assert seen == 0
