"""Energy that processes which cannot meet may count too is flagged, with a warning that says what to do."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from carbon_otel.carbon.grid import EmissionFactor
from carbon_otel.guard import forget
from carbon_otel.host.cgroup import Reservation
from carbon_otel.host.coordination import uncoordinated
from carbon_otel.host.counters_view import view_of
from carbon_otel.meter.meter import Meter
from carbon_otel.mlflow.schema.names import provenance_tags
from carbon_otel.records import Shares
from carbon_otel.semconv import names as semconv
from carbon_otel.semconv.attributes import footprint_attributes
from carbon_otel.stages.engine import Engine
from tests.fakes.clock import Clock
from tests.fakes.grid import grid_of
from tests.fakes.sensors import EXACT, gpu, package

FACTOR = EmissionFactor(grid_of(360.0))
CLOCK = Clock()
CPU, GPU = package(CLOCK).device, gpu(CLOCK).device
HOST, LIMITED = Reservation(8, "host", 8), Reservation(2, "/sys/fs/cgroup/job", 8)
BOTH = {CPU.id, GPU.id}


@pytest.mark.parametrize(
    ("found", "rule", "reserved", "flagged", "advice"),
    [
        ({}, "reserved", HOST, set(), None),
        ({"other_groups"}, "reserved", HOST, BOTH, "CARBON_OTEL_RUNTIME_DIR"),
        ({"other_groups"}, "process", LIMITED, BOTH, "CARBON_OTEL_RUNTIME_DIR"),
        ({"other_users"}, "reserved", HOST, BOTH, "attribution='process'"),
        ({"other_users"}, "reserved", LIMITED, {GPU.id}, "attribution='process'"),
        ({"other_users"}, "process", HOST, {GPU.id}, "attribution='process'"),
        ({"apart"}, "reserved", HOST, {CPU.id}, "a folder that all of them share"),
        ({"apart"}, "reserved", LIMITED, set(), None),
        ({"apart"}, "process", HOST, set(), None),
        ({"apart", "other_users"}, "reserved", HOST, BOTH, "a folder that all of them share"),
    ],
)
def test_reasons_and_devices(found, rule, reserved, flagged, advice, caplog):
    forget()
    names = ("other_groups", "other_users", "apart")
    membership = SimpleNamespace(**{name: name in found for name in names})
    for _ in range(3):
        assert uncoordinated(membership, [CPU, GPU], rule, reserved) == flagged
    assert len(caplog.records) == len(found if flagged else ())
    assert advice is None or advice in caplog.text


def test_a_modelled_processor_in_a_container_is_not_flagged():
    """Only counters are known to be the host's: the container may be a virtual machine of its own."""
    membership = SimpleNamespace(other_groups=False, other_users=False, apart=True)
    modelled = [CPU.__class__("cpu", "cpu", "model", "modelled.utilisation", EXACT, "a table")]
    assert not uncoordinated(membership, modelled, "reserved", HOST)


class Rule:
    """Shares that a test changes at ticks."""

    def __init__(self) -> None:
        self.devices: set[str] = set()

    @property
    def present(self) -> Shares:
        return Shares((1.0, 1.0), 1.0, 1.0, frozenset(self.devices))

    def measure(self, now_ns, *, tick):
        return self.present if tick else None


def test_the_flag_is_on_every_stage_that_overlaps_with_the_time_and_in_every_sink():
    clock, rule = Clock(), Rule()
    sensors = [package(clock, watts=50), gpu(clock)]
    engine = Engine(Meter(sensors, rule=rule, clock_ns=clock), FACTOR)

    def stage(seconds, *changes):
        opened = engine.open("training", "t", {})
        for devices in changes:
            clock.advance(seconds)
            rule.devices = devices
            engine.tick()
        clock.advance(seconds)
        engine.close(opened)
        return opened.end.footprint

    flag = f"uncoordinated:{sensors[0].device.id}"
    one = {sensors[0].device.id}
    assert flag not in stage(10).flags
    assert flag in stage(10, one, set()).flags, "in its middle only"
    assert flag not in stage(10).flags, "after that time"
    assert flag in stage(10, one).flags
    flagged = stage(0.01)
    assert flag in flagged.flags, "between two ticks"
    assert flag in engine.so_far().footprint.flags
    assert not [f for f in flagged.flags if f.startswith("uncoordinated") and f != flag]
    assert flag in footprint_attributes(flagged)[semconv.FLAGS]
    unset = dict.fromkeys(("hardware", "attribution", "process", "trace_id", "trace_url", "lineage"), "")
    tags = provenance_tags(flagged, status="final", **unset)
    assert flag in tags["carbon.flags"].split(", ")
    assert flag in flagged.as_dict()["flags"]


def test_the_same_counters_have_one_name_whatever_their_path(tmp_path):
    (tmp_path / "powercap").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "link").symlink_to("powercap")
    paths = [tmp_path / "powercap", tmp_path / "link", tmp_path / "other" / ".." / "powercap"]
    assert len({view_of(path) for path in paths}) == 1
    assert len({view_of(path) for path in (tmp_path / "powercap", tmp_path / "other", None)}) == 3
    assert view_of(tmp_path / "nothing") != view_of(None)


def test_the_kernels_own_counters_have_one_name_also_where_a_container_mounts_them(tmp_path):
    device = (tmp_path).stat().st_dev
    mounts = tmp_path / "mountinfo"
    line = "24 1 {}:{} /class/powercap /host/powercap ro shared:7 - {} sysfs ro\n"
    mounts.write_text(line.format(device >> 8 & 0xFFF, device & 0xFF, "sysfs"))
    assert view_of(tmp_path, mounts) == view_of(None)
    mounts.write_text(line.format(device >> 8 & 0xFFF, device & 0xFF, "fuse"))
    assert view_of(tmp_path, mounts) != view_of(None)


def test_a_cgroup_is_the_same_resource_in_every_container(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "root of a namespace").symlink_to("a")
    seen, within, other = (
        Reservation(1, str(tmp_path / name), 8).resource for name in ("a", "root of a namespace", "b")
    )
    assert seen == within != other
    assert HOST.resource == "host" and Reservation(1, "/gone", 8).resource == "/gone"
