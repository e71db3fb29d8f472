"""Apple silicon behind a module with the interface of zeus-apple-silicon 1.1.

The counters cannot be faked on another system; the tests show that they are read and added up correctly.
"""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest

from carbon_otel.sensors import apple
from carbon_otel.sensors.base import SensorError

M1 = {
    "cpu_total_mj": 5000,
    "efficiency_cores_mj": [1000, 1000],
    "performance_cores_mj": [1500, 1500],
    "dram_mj": 700,
    "gpu_mj": 300,
    "gpu_sram_mj": 20,
    "ane_mj": 0,
}


@pytest.fixture
def monitor(monkeypatch):
    """The monitor of the package: it returns `fields` or raises `fault`, and counts its `calls`."""
    state = SimpleNamespace(fields=dict(M1), fault=None, calls=0)

    class AppleEnergyMonitor:
        def get_cumulative_energy(self):
            state.calls += 1
            if state.fault is not None:
                raise state.fault
            return SimpleNamespace(**state.fields)

    module = ModuleType("zeus_apple_silicon")
    module.AppleEnergyMonitor = AppleEnergyMonitor
    monkeypatch.setitem(sys.modules, "zeus_apple_silicon", module)
    return state


def joules(sensors):
    return {s.device.id: s.read() * s.joules_per_unit for s in sensors}


def test_processor_memory_and_gpu_with_its_own_memory(monitor):
    sensors, findings = apple.find("darwin", "arm64")
    assert joules(sensors) == pytest.approx(
        {"apple-cpu": 5.0, "apple-dram": 0.7, "apple-gpu": 0.32, "apple-ane": 0}
    )
    assert [s.device.type for s in sensors] == ["cpu", "memory", "gpu", "gpu"]
    assert {f.method for f in findings} == {"measured.counter"}


def test_one_call_returns_all_channels(monitor):
    times_ns = iter([0, 500_000, 1_000_000, 3_000_000])
    report = apple.IoReport(sys.modules["zeus_apple_silicon"].AppleEnergyMonitor(), lambda: next(times_ns))
    assert [report.counters().dram_mj for _ in range(3)] == [700] * 3 and monitor.calls == 1
    assert report.counters().dram_mj == 700 and monitor.calls == 2, "an older sample is not used"


def test_a_chip_without_a_channel_has_no_device_for_it(monitor):
    monitor.fields |= {"ane_mj": None, "gpu_sram_mj": None}
    sensors, findings = apple.find("darwin", "arm64")
    assert joules(sensors) == pytest.approx({"apple-cpu": 5.0, "apple-dram": 0.7, "apple-gpu": 0.3})
    assert [f.found for f in findings if f.method == "missing"] == ["Apple Neural Engine"]


def test_a_fault_is_a_gap(monitor):
    monitor_sensors, _ = apple.find("darwin", "arm64")
    report = apple.IoReport(SimpleNamespace(get_cumulative_energy=_raise), clock_ns=lambda: 0)
    with pytest.raises(SensorError, match="no sample"):
        apple.AppleChannel(report, monitor_sensors[0].device, ("cpu_total_mj",)).read()


def _raise():
    raise RuntimeError("no sample")


def test_a_negative_count_is_a_gap(monitor):
    monitor.fields["cpu_total_mj"] = -1
    sensors, _ = apple.find("darwin", "arm64")
    assert "apple-cpu" not in {s.device.id for s in sensors}


def test_without_the_package_the_finding_has_the_fix(monkeypatch):
    monkeypatch.setitem(sys.modules, "zeus_apple_silicon", None)
    sensors, (finding,) = apple.find("darwin", "arm64")
    assert sensors == [] and finding.unmetered
    assert finding.fix == "pip install 'carbon-otel[apple]'"


def test_a_monitor_that_does_not_start_is_missing(monitor, monkeypatch):
    monkeypatch.setattr(sys.modules["zeus_apple_silicon"], "AppleEnergyMonitor", _raise)
    sensors, (finding,) = apple.find("darwin", "arm64")
    assert sensors == [] and finding.unmetered and "no sample" in finding.reason


@pytest.mark.parametrize(("system", "machine"), [("linux", "arm64"), ("darwin", "x86_64")])
def test_other_machines(monitor, system, machine):
    assert apple.find(system, machine) == ([], [])
    assert monitor.calls == 0
