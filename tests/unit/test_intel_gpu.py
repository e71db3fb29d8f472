"""Intel GPUs on fake hwmon folders with the kernel's layout."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from carbon_otel.meter.timeline import Timeline
from carbon_otel.sensors import intel_gpu
from carbon_otel.sensors.base import SensorError
from tests.fakes import hwmon
from tests.fakes.clock import NS


def card(base, driver, slot="0000:03:00.0", number=3, **files):
    return hwmon.chip(base, driver, slot, number, **files)


def find(base):
    sensors, findings = intel_gpu.find(base / "hwmon")
    return sensors, findings


def test_i915_counts_the_card(tmp_path):
    folder = card(tmp_path, "i915", energy1_input=5_000_000)
    ((gpu,), (finding,)) = find(tmp_path)
    assert (gpu.device.id, gpu.device.type, gpu.device.method) == ("0000:03:00.0", "gpu", "measured.counter")
    assert gpu.read() * gpu.joules_per_unit == 5
    (folder / "energy1_input").write_text("7000000\n")
    assert gpu.read() * gpu.joules_per_unit == 7
    assert not finding.unmetered
    gpu.close()


@pytest.mark.parametrize("order", [("card", "pkg"), ("pkg", "card")])
def test_the_package_of_an_xe_card_is_not_added_to_the_card(tmp_path, order):
    joules = {"card": 9_000_000, "pkg": 4_000_000}
    files = {f"energy{n}_label": label for n, label in enumerate(order, 1)}
    files |= {f"energy{n}_input": joules[label] for n, label in enumerate(order, 1)}
    card(tmp_path, "xe", **files)
    ((gpu,), _) = find(tmp_path)
    assert gpu.read() == 9_000_000
    gpu.close()


def test_a_package_alone_is_read(tmp_path):
    card(tmp_path, "xe", energy2_label="pkg", energy2_input=4)
    ((gpu,), _) = find(tmp_path)
    assert gpu.read() == 4
    gpu.close()


def test_every_card_by_its_slot_and_nothing_of_other_drivers(tmp_path):
    card(tmp_path, "i915", slot="0000:03:00.0", number=7, energy1_input=1)
    card(tmp_path, "xe", slot="0000:04:00.0", number=2, energy1_input=1)
    card(tmp_path, "k10temp", slot="0000:00:18.3", number=1, energy1_input=1)
    sensors, _ = find(tmp_path)
    assert {s.device.id for s in sensors} == {"0000:03:00.0", "0000:04:00.0"}
    for sensor in sensors:
        sensor.close()


@pytest.mark.parametrize(
    "files", [{}, {"energy1_input": b""}, {"energy1_input": "-5"}, {"energy1_input": b"\xff"}]
)
def test_an_unreadable_card_is_missing_with_a_reason(tmp_path, files):
    card(tmp_path, "i915", **files)
    sensors, (finding,) = find(tmp_path)
    assert sensors == []
    assert finding.unmetered and finding.reason


def test_a_host_without_hwmon(tmp_path):
    assert intel_gpu.find(tmp_path / "none") == ([], [])


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.binary(max_size=80), st.integers().map(lambda n: f"{n}\n".encode())))
def test_any_content_is_a_reading_or_a_gap(tmp_path_factory, content):
    base = tmp_path_factory.mktemp("sys")
    folder = card(base, "i915", energy1_input=1_000_000)
    ((gpu,), _) = find(base)
    timeline = Timeline(gpu)
    timeline.observe(1000 * NS, gpu.read())
    (folder / "energy1_input").write_bytes(content)
    try:
        raw = gpu.read()
    except SensorError:
        timeline.miss(1001 * NS)
        assert timeline.flags
    else:
        assert raw == int(content)
        timeline.observe(1001 * NS, raw)
        plausible = 1_000_000 <= raw <= 1_000_000 + 1002e6
        assert plausible or timeline.flags
    finally:
        gpu.close()
