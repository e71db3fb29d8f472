"""The rails of a Jetson on fake sysfs folders: of hwmon since JetPack 5, of iio in JetPack 4."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from carbon_otel.sensors import jetson
from carbon_otel.sensors.base import SensorError
from tests.fakes import hwmon


def rails(base, *names, slot="1-0040", number=3, driver="ina3221", **files):
    """A chip with up to three rails: 5 V and 1, 2 and 3 A."""
    for channel, name in enumerate(names, 1):
        files |= {
            f"in{channel}_label": name,
            f"in{channel}_input": 5000,
            f"curr{channel}_input": 1000 * channel,
        }
    return hwmon.chip(base, driver, slot, number, **files)


def found(base):
    sensors, findings = jetson.find(base / "hwmon", base / "i2c")
    readings = {s.device.name: (s.device.type, s.read()) for s in sensors}
    contained = [s.device.contains for s in sensors]
    for sensor in sensors:
        sensor.close()
    return readings, contained, findings


@pytest.mark.parametrize("driver", ["ina3221", "ina3221x"])
def test_only_the_rail_of_the_whole_module_is_read(tmp_path, driver):
    rails(tmp_path, "VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC", driver=driver)
    readings, contained, (finding,) = found(tmp_path)
    assert readings == {"VDD_IN": ("host", 5.0)}
    assert contained == [{"cpu", "gpu", "memory"}]
    assert finding.method == "measured.power"


def test_agx_orin_adds_its_rails_but_not_those_fed_by_five_volts(tmp_path):
    rails(tmp_path, "VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0", slot="1-0040", number=3)
    rails(tmp_path, "NC", "VDDQ_VDD2_1V8AO", "NC", slot="1-0041", number=4, in7_label="sum of shunt voltages")
    readings, _, _ = found(tmp_path)
    assert readings == {
        "VDD_GPU_SOC": ("gpu", 5.0),
        "VDD_CPU_CV": ("cpu", 10.0),
        "VIN_SYS_5V0": ("memory", 15.0),
    }


def test_a_memory_rail_without_a_measured_feed_is_counted(tmp_path):
    rails(tmp_path, "GPU", "CPU", "VDDRQ")
    assert found(tmp_path)[0]["VDDRQ"] == ("memory", 15.0)


def test_a_channel_that_is_switched_off_is_not_read(tmp_path):
    rails(tmp_path, "GPU", "CPU", in2_enable=0)
    assert list(found(tmp_path)[0]) == ["GPU"]


def test_the_driver_of_jetpack_4_gives_milliwatts(tmp_path):
    chip = tmp_path / "i2c" / "6-0040" / "iio:device0"
    chip.mkdir(parents=True)
    hwmon.fill(
        chip, rail_name_0="POM_5V_IN", in_power0_input=4321, rail_name_1="POM_5V_GPU", in_power1_input=99
    )
    readings, _, _ = found(tmp_path)
    assert readings == {"POM_5V_IN": ("host", pytest.approx(4.321))}


def test_an_unreadable_rail_is_missing_and_its_finding_has_the_fix(tmp_path):
    (rails(tmp_path, "GPU", "CPU") / "curr2_input").unlink()
    readings, _, findings = found(tmp_path)
    assert list(readings) == ["GPU"]
    (finding,) = [f for f in findings if f.unmetered]
    assert finding.found == "CPU" and "curr2_input" in finding.fix


def test_other_hosts_have_no_rails(tmp_path):
    assert jetson.find(tmp_path / "none", tmp_path / "none") == ([], [])


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.binary(max_size=80), st.integers().map(lambda n: b"%d\n" % n)))
def test_any_content_is_a_plausible_power_or_no_reading(tmp_path_factory, content):
    base = tmp_path_factory.mktemp("sys")
    folder = rails(base, "CPU")
    ((rail,), _) = jetson.find(base / "hwmon", base / "i2c")
    (folder / "curr1_input").write_bytes(content)
    with contextlib.closing(rail), contextlib.suppress(SensorError):
        assert 0 <= rail.read() <= 300
