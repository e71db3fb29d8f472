"""Powercap files with any content: never a crash, never a wrong figure without a flag."""

from __future__ import annotations

import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from carbon_otel.meter.timeline import Timeline
from carbon_otel.sensors import rapl
from carbon_otel.sensors.base import SensorError
from tests.fakes.clock import NS
from tests.fakes.powercap import server

STRANGE = [
    b"",
    b"\n",
    b"nan\n",
    b"inf\n",
    b"1e9\n",
    b"0x10\n",
    b"1_000\n",
    b"-1\n",
    b"\xff\xfe1\n",
    b"9" * 5000,
]
CONTENT = st.one_of(
    st.binary(max_size=64),
    st.integers(-(10**30), 10**30).map(lambda n: f"{n}\n".encode()),
    st.sampled_from(STRANGE),
    st.text(max_size=20).map(str.encode),
)
FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def tree(tmp_path):
    return server(tmp_path)


@FUZZ
@given(CONTENT, CONTENT, CONTENT)
def test_discovery_accepts_any_content(tree, name, energy, most):
    zone = tree.package[0]
    zone.rename(name)
    zone.write(energy)
    zone.set_range(most)
    readable, unreadable = rapl.select(rapl.zones(tree.root))
    zones = {each.id for each in (*readable, *unreadable)}
    # A zone that is neither read nor reported has a name that the packages contain.
    assert zone.id in zones or name.strip() in (b"core", b"uncore", b"psys", b"dram")
    for sensor in rapl.sensors(readable, "GenuineIntel"):
        try:
            raw = sensor.read()
        except SensorError:
            continue
        finally:
            sensor.close()
        assert raw >= 0 and math.isfinite(raw)
        assert sensor.wrap is None or sensor.wrap > 0
    zone.mend()


@FUZZ
@given(st.lists(CONTENT, min_size=1, max_size=8))
def test_a_figure_from_strange_readings_is_flagged(tree, contents):
    zone = tree.package[0]
    zone.mend()
    readable, _ = rapl.select(rapl.zones(tree.root))
    (sensor,) = rapl.sensors([z for z in readable if z.id == zone.id], "GenuineIntel")
    timeline = Timeline(sensor)
    now_ns, true_j, strange = 1000 * NS, 0.0, False
    last_j = 0.0
    try:
        for content in (None, None, *contents, None, None):
            now_ns += NS
            true_j += 50
            zone.set(1000 + true_j)
            good = zone.counter_uj
            if content is not None:
                zone.write(content)
            try:
                raw = sensor.read()
            except SensorError:
                strange = True
                timeline.miss(now_ns)
            else:
                strange = strange or raw != good
                timeline.observe(now_ns, raw)
            joules = timeline.at(now_ns)
            assert math.isfinite(joules) and joules >= last_j
            last_j = joules
    finally:
        sensor.close()
        zone.mend()
    if strange:
        assert timeline.flags
    else:
        assert timeline.at(now_ns) == pytest.approx(true_j - 50, abs=1e-5)
