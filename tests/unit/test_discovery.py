"""The sensor of each component, with reasons and fixes; and powercap trees with invalid content."""

from __future__ import annotations

import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from carbon_otel.carbon.grid import EmissionFactor, intensity
from carbon_otel.footprint import footprint_of
from carbon_otel.guard import forget
from carbon_otel.meter.meter import Meter
from carbon_otel.sensors.amd import gpu as amd_gpu
from carbon_otel.sensors.base import Finding, ProcessUse
from carbon_otel.sensors.discovery import Discovery, discover
from carbon_otel.sensors.following import InTurn
from carbon_otel.stages.engine import Engine
from tests.fakes import powercap
from tests.fakes.clock import NS, Clock
from tests.fakes.sensors import FakeSensor, gpu

UDEV = 'SUBSYSTEM=="powercap"'


@pytest.fixture
def found(tmp_path):
    """`found(build, spoil)` discovers the tree of `build`, after `spoil(tree)`; the sensors are closed."""
    discoveries = []

    def make(build, spoil=lambda tree: None):
        tree = build(tmp_path)
        spoil(tree)
        discoveries.append(discover(tree.root))
        return discoveries[-1]

    yield make
    for discovery in discoveries:
        discovery.close()


def by_component(discovery, *components):
    return [f for f in discovery.findings if f.component in components]


def test_at_the_best_tier_findings_have_no_reason(found):
    d = found(powercap.server)
    host = by_component(d, "cpu", "memory")
    assert [f.method for f in host] == ["measured.counter"] * 4
    assert not any(f.reason or f.fix or f.unmetered for f in host)
    assert d.missing == ()
    assert sorted(s.device.type for s in d.sensors) == ["cpu", "cpu", "memory", "memory"]
    assert "threads)" in d.hardware


@pytest.mark.parametrize("build", [powercap.client, powercap.amd])
def test_without_a_dram_zone_memory_is_modelled_with_a_reason(build, found):
    d = found(build)
    assert [s.device.method for s in d.sensors] == ["measured.counter", "modelled.constant"]
    (memory,) = by_component(d, "memory")
    assert "no readable dram zone" in memory.reason and d.missing == ()


def test_psys_contains_the_memory(found):
    d = found(
        powercap.client, lambda tree: [z.forbid() for z in tree.zones.values() if z.id != "intel-rapl:1"]
    )
    assert [s.device.type for s in d.sensors] == ["host"]
    assert d.missing == ()


def test_an_unreadable_package_is_missing_and_its_finding_has_the_fix(found):
    d = found(powercap.server, lambda tree: tree.package[1].forbid())
    (finding,) = [f for f in d.findings if f.unmetered]
    assert (finding.component, finding.method, d.missing) == ("cpu", "missing", ("cpu",))
    assert "intel-rapl:1/energy_uj" in finding.reason and "directory" in finding.reason
    assert UDEV in finding.fix and "udevadm" in finding.fix
    assert len(d.sensors) == 3


def test_an_unreadable_dram_zone_is_missing(found):
    d = found(powercap.server, lambda tree: tree.dram[0].break_())
    assert d.missing == ("memory",)
    assert [s.device.type for s in d.sensors] == ["cpu", "cpu", "memory"]


def test_memory_that_is_modelled_is_not_missing(found):
    d = found(powercap.server, lambda tree: [zone.forbid() for zone in tree.dram])
    assert [s.device.method for s in d.sensors] == ["measured.counter"] * 2 + ["modelled.constant"]
    assert d.missing == ()
    assert any(UDEV in f.fix for f in by_component(d, "memory"))


def test_without_a_readable_package_the_processor_is_modelled_with_its_memory(found):
    d = found(powercap.server, lambda tree: [zone.forbid() for zone in tree.package])
    assert [s.device.method for s in d.sensors] == ["modelled.utilisation"]
    cpu, memory = by_component(d, "cpu", "memory")
    assert "energy_uj" in cpu.reason and UDEV in cpu.fix
    assert "included" in memory.found and d.missing == ()


@pytest.mark.parametrize("folder", ["", "nowhere"])
def test_an_empty_folder_and_a_missing_folder(folder, tmp_path):
    d = discover(tmp_path / folder)
    assert [s.device.method for s in d.sensors] == ["modelled.utilisation"]
    (cpu,) = by_component(d, "cpu")
    assert cpu.reason and cpu.fix
    d.close()


def test_a_host_without_a_gpu_has_a_finding_but_no_missing_component(tmp_path):
    d = discover(tmp_path)
    (gpu,) = by_component(d, "gpu")
    assert (gpu.method, gpu.found, gpu.unmetered) == ("missing", "none", False)
    assert gpu.reason
    d.close()


NAMES = {"core", "uncore", "dram", "psys", "package-0", "package-1"}
nonsense = st.one_of(
    st.binary(max_size=40),
    st.integers(-(10**12), 10**12).map(lambda n: b"%d\n" % n),
    st.sampled_from(
        [b"", b"\n", b"\xff\xfe", "²".encode(), b"1e9", b"0x10", b"1_0", b"9" * 400, b"9" * 5000]
    ),
)
names = st.one_of(
    st.binary(max_size=20),
    st.sampled_from([b"package", b"package-", b"Package-1", b"package-1-die-", b"dram0"]),
).filter(lambda name: name.decode(errors="replace").strip() not in NAMES)


def measure(tree, broken=(), sabotage=lambda: None):
    """A stage of twelve seconds with 100 W from each working zone; `sabotage` is called after three seconds."""
    discovery = discover(tree.root)
    try:
        clock, factor = Clock(), EmissionFactor(intensity("FR"))
        engine = Engine(Meter(discovery.sensors, clock_ns=clock), factor)
        stage = engine.open("training", "training", {})
        for second in range(12):
            if second == 3:
                sabotage()
            for zone in tree.zones.values():
                if zone not in broken:
                    zone.add(100)
            clock.advance(1)
            engine.tick()
        engine.close(stage)
        return footprint_of(stage.end.figures.record, factor, discovery.missing)
    finally:
        discovery.close()


def flagged(footprint) -> set[str]:
    return {flag.partition(":")[2] for flag in footprint.flags}


def assert_sound(footprint, zones):
    """These zones are unaffected by faults in others; none is in the figures if everything is modelled."""
    if not footprint.method.startswith("modelled"):
        assert not {zone.id for zone in zones} & flagged(footprint)
        assert [footprint.devices[zone.id] for zone in zones] == [pytest.approx(1200)] * len(zones)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return powercap.server(tmp_path_factory.mktemp("server"))


def mended(tree, which):
    """The zone to spoil, and the three other zones."""
    for each in tree.zones.values():
        each.mend()
    zone = getattr(tree, which)[1]
    return zone, [other for other in tree.zones.values() if other is not zone]


which_zone = st.sampled_from(["package", "dram"])


@given(which=which_zone, content=nonsense)
@example(which="dram", content=b"9" * 400)
def test_nonsense_in_a_counter_is_a_flag_or_a_missing_component(tree, which, content):
    zone, others = mended(tree, which)
    zone.write(content)
    footprint = measure(tree, broken=[zone])
    assert footprint.missing or zone.id in flagged(footprint)
    assert_sound(footprint, others)


@given(which=which_zone, content=nonsense)
def test_nonsense_in_a_counter_that_is_being_read_is_a_flag(tree, which, content):
    zone, others = mended(tree, which)
    broken = []

    def sabotage():
        broken.append(zone)
        zone.write(content)

    footprint = measure(tree, broken, sabotage)
    assert zone.id in flagged(footprint)
    assert_sound(footprint, others)


@given(which=which_zone, content=nonsense)
@example(which="dram", content=b"9" * 400)
def test_nonsense_for_a_range_is_a_flag_or_harmless(tree, which, content):
    zone, others = mended(tree, which)
    zone.set_range(content)
    footprint = measure(tree)
    assert_sound(footprint, others if zone.id in flagged(footprint) else [zone, *others])


@given(which=which_zone, name=names)
def test_nonsense_for_a_name_is_a_missing_component_or_harmless(tree, which, name):
    zone, others = mended(tree, which)
    zone.rename(name)
    footprint = measure(tree)
    assert_sound(footprint, others if footprint.missing else [zone, *others])


@given(name=names, energy=nonsense, limit=nonsense)
def test_nonsense_everywhere_never_raises(tree, name, energy, limit):
    mended(tree, "package")
    for zone in tree.zones.values():
        zone.rename(name)
        zone.write(energy)
        zone.set_range(limit)
    footprint = measure(tree, broken=tree.zones.values())
    assert footprint.method.startswith("modelled") or footprint.missing or footprint.flags


def test_the_family_set_by_the_user_is_modelled(tmp_path):
    found = discover(tmp_path, "epyc-genoa")
    (cpu,) = [f for f in found.findings if f.component == "cpu"]
    found.close()
    assert "EPYC 9xx4 Genoa" in cpu.found


class Preparing(FakeSensor):
    def prepare(self, sleep) -> None:
        self.update_period_s = 0.5


class Faulty(FakeSensor):
    def prepare(self, sleep) -> None:
        raise RuntimeError("no period")


class Telling(FakeSensor):
    def utilisation(self) -> ProcessUse:
        return ProcessUse({1: 0.5}, 5)


def test_sensors_that_can_prepare_do_so_and_a_failure_does_not_stop_the_others():
    clock = Clock()
    sensors = (FakeSensor(clock), Faulty(clock), Preparing(clock))
    Discovery(sensors, (), "a processor").prepare(time.sleep)
    assert [sensor.update_period_s for sensor in sensors] == [0.001, 0.001, 0.5]


class Following(FakeSensor):
    due = True
    looks = 0

    def follow(self, sleep) -> None:
        self.looks += 1
        if self.fault:
            raise RuntimeError(self.fault)

    def lose(self) -> None:
        self.looks = 0


def test_sensors_look_how_their_counters_are_renewed_one_at_a_time_and_in_turn():
    clock = Clock()
    sensors = [Following(clock), FakeSensor(clock), Following(clock), Following(clock)]
    sensors[2].fault = "no counter"
    in_turn = InTurn(sensors)
    for _ in range(6):
        in_turn.follow(clock.advance)
    assert [sensor.looks for sensor in sensors if isinstance(sensor, Following)] == [2, 2, 2]
    sensors[0].due = sensors[2].due = False
    for _ in range(6):
        in_turn.follow(clock.advance)
    assert [sensor.looks for sensor in sensors if isinstance(sensor, Following)] == [2, 2, 8]


def test_a_sensor_that_follows_its_counter_begins_again_after_a_suspend(monkeypatch):
    clock = Clock()
    asleep_ns = iter([0, 0, 3600 * NS, 3600 * NS])
    monkeypatch.setattr("carbon_otel.meter.meter._boot_minus_monotonic", lambda: next(asleep_ns))
    sensor = Following(clock)
    meter = Meter([sensor], clock_ns=clock)
    for looks, slept in ((1, False), (0, True), (1, False)):
        sensor.looks = 1
        assert meter.note_suspend() is slept
        assert sensor.looks == looks


def test_drivers_that_report_processes_are_asked_for_them():
    clock = Clock()
    found = Discovery((FakeSensor(clock, "a"), Telling(clock, "b")), (), "a processor")
    assert {device: ask() for device, ask in found.utilisation.items()} == {"b": ({1: 0.5}, 5)}


def test_findings_of_sensors_never_tested_on_hardware_are_marked(monkeypatch, tmp_path, caplog):
    clock = Clock()
    device = gpu(clock).device
    findings = [
        Finding("gpu", device.method, "a GPU"),
        Finding("gpu", device.method, "another", "no counter"),
        Finding("gpu", "missing", "a third", "no library", unmetered=True),
    ]
    monkeypatch.setattr("carbon_otel.sensors.amd.gpu.find", lambda: ([gpu(clock), gpu(clock)], findings))
    forget()
    found = discover(tmp_path)
    reasons = [finding.reason for finding in found.findings if finding.component == "gpu"]
    assert reasons == ["unverified on hardware", "unverified on hardware; no counter", "no library"]
    (record,) = [r for r in caplog.records if "never tested" in r.message]
    assert record.levelname == "WARNING"


def test_an_error_of_amdsmi_without_a_text_is_named_by_its_type(monkeypatch, tmp_path):
    def fail():
        raise OSError

    monkeypatch.setattr(amd_gpu, "_library", fail)
    _, (finding,) = amd_gpu.find(tmp_path)
    assert finding.unmetered and finding.reason == "amdsmi: OSError"
