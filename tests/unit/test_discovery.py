"""Which sensor each component gets, why not a better one, what would change that; and trees full of nonsense."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from carbon_otel.carbon.grid import EmissionFactor, intensity
from carbon_otel.footprint import footprint_of
from carbon_otel.meter.meter import Meter
from carbon_otel.sensors.discovery import discover
from carbon_otel.stages.engine import Engine
from tests.fakes import powercap
from tests.fakes.clock import Clock

UDEV = 'SUBSYSTEM=="powercap"'


@pytest.fixture
def found(tmp_path):
    """`found(build, spoil)` discovers the tree that `build` makes, after `spoil(tree)`; sensors get closed."""
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


def test_at_the_best_tier_there_is_nothing_to_say(found):
    d = found(powercap.server)
    host = by_component(d, "cpu", "memory")
    assert [f.method for f in host] == ["measured.counter"] * 4
    assert not any(f.reason or f.fix or f.unmetered for f in host)
    assert d.missing == ()
    assert sorted(s.device.type for s in d.sensors) == ["cpu", "cpu", "memory", "memory"]
    assert "threads)" in d.hardware


@pytest.mark.parametrize("build", [powercap.client, powercap.amd])
def test_without_a_dram_zone_memory_is_modelled_and_says_why(build, found):
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


def test_one_package_that_cannot_be_read_is_missing_and_the_fix_is_said(found):
    d = found(powercap.server, lambda tree: tree.package[1].forbid())
    (lacking,) = [f for f in d.findings if f.unmetered]
    assert (lacking.component, lacking.method, d.missing) == ("cpu", "missing", ("cpu",))
    assert "intel-rapl:1/energy_uj" in lacking.reason and "directory" in lacking.reason
    assert UDEV in lacking.fix and "udevadm" in lacking.fix
    assert len(d.sensors) == 3


def test_one_dram_zone_that_cannot_be_read_is_missing(found):
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
def test_an_empty_folder_and_none_at_all(folder, tmp_path):
    d = discover(tmp_path / folder)
    assert [s.device.method for s in d.sensors] == ["modelled.utilisation"]
    (cpu,) = by_component(d, "cpu")
    assert cpu.reason and cpu.fix
    d.close()


def test_no_gpu_is_a_finding_and_nothing_missing(tmp_path):
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
    """Twelve seconds of a stage, 100 W from each zone that is not broken; `sabotage` happens after three."""
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
    """These zones are as if nothing had happened to others; none is in the figures where all is modelled."""
    if not footprint.method.startswith("modelled"):
        assert not {zone.id for zone in zones} & flagged(footprint)
        assert [footprint.devices[zone.id] for zone in zones] == [pytest.approx(1200)] * len(zones)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return powercap.server(tmp_path_factory.mktemp("server"))


def mended(tree, which):
    """The zone to spoil, and the three others."""
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


def test_a_family_that_the_user_names_is_the_one_modelled(tmp_path):
    found = discover(tmp_path, "epyc-genoa")
    (cpu,) = [f for f in found.findings if f.component == "cpu"]
    found.close()
    assert "EPYC 9xx4 Genoa" in cpu.found
