"""No two meters count the same component: each joule of the host has one sensor."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbon_otel.sensors import discovery
from carbon_otel.sensors.base import Finding
from tests.fakes.clock import Clock
from tests.fakes.sensors import FakeSensor

ALL = ("cpu", "gpu", "memory")


def meter(name, kind, *contains):
    sensor = FakeSensor(Clock(), name, kind)
    sensor.device = replace(sensor.device, contains=frozenset(contains))
    return sensor


def finder(*sensors):
    found = [Finding(s.device.type, s.device.method, s.device.name) for s in sensors]
    return SimpleNamespace(find=lambda: (list(sensors), found))


NO_NVIDIA = SimpleNamespace(find=lambda: ([], [Finding("gpu", "missing", "none", "no NVIDIA driver")]))


@pytest.fixture
def host(monkeypatch, tmp_path):
    """`host(jetson=..., nvml=...)` discovers a host with these meters and no others."""

    def discover(**finders):
        for vendor in ("jetson", "nvml", "intel_gpu", "amd_gpu", "grace", "apple"):
            default = NO_NVIDIA if vendor == "nvml" else finder()
            monkeypatch.setattr(discovery, vendor, finders.get(vendor, default))
        found = discovery.discover(tmp_path)
        found.close()
        return found

    return discover


def ids(found):
    return [sensor.device.id for sensor in found.sensors]


def test_the_module_meter_of_a_jetson_is_the_only_sensor(host):
    found = host(
        jetson=finder(meter("VDD_IN", "host", *ALL)),
        nvml=finder(meter("gpu", "gpu")),
        grace=finder(meter("g", "cpu")),
    )
    assert ids(found) == ["VDD_IN"] and found.missing == ()
    assert [(f.component, f.found) for f in found.findings] == [
        ("host", "VDD_IN"),
        *((component, "included in VDD_IN") for component in ("cpu", "memory", "gpu")),
    ]


def test_the_rails_of_a_jetson_leave_no_component_to_model(host):
    parts = [meter("VDD_CPU", "cpu"), meter("VDD_GPU", "gpu"), meter("SYS5V", "memory")]
    assert ids(host(jetson=finder(*parts))) == ["VDD_CPU", "SYS5V", "VDD_GPU"]


def test_the_socket_meter_of_grace_includes_memory_but_not_the_gpu(host):
    found = host(grace=finder(meter("grace-0", "cpu", "memory")), nvml=finder(meter("hopper", "gpu")))
    assert ids(found) == ["grace-0", "hopper"]
    assert ("memory", "included in grace-0") in [(f.component, f.found) for f in found.findings]


def test_a_superchip_whose_gpu_is_measured_only_with_its_module(host):
    found = host(
        grace=finder(meter("grace-0", "cpu", "memory")), nvml=finder(meter("module", "gpu", "cpu", "memory"))
    )
    assert ids(found) == ["module"]


def test_rails_without_memory_get_its_model(host):
    found = host(grace=finder(meter("grace-0-cpu", "cpu")))
    assert ids(found) == ["grace-0-cpu", "memory-model"]


def test_no_nvidia_gpu_is_not_reported_beside_a_gpu_of_another_vendor(host):
    (gpu,) = [f for f in host(amd_gpu=finder(meter("mi300", "gpu"))).findings if f.component == "gpu"]
    assert gpu.found == "mi300"
    (none,) = [f for f in host().findings if f.component == "gpu"]
    assert none.found == "none" and none.reason


def test_the_model_gives_the_reason_why_grace_cannot_be_read(host):
    finding = Finding("cpu", "missing", "Grace socket 0", "no such file", "boot with it", unmetered=True)
    found = host(grace=SimpleNamespace(find=lambda: ([], [finding])))
    (cpu,) = [f for f in found.findings if f.component == "cpu"]
    assert (cpu.method, cpu.reason, cpu.fix) == ("modelled.utilisation", "no such file", "boot with it")
    assert found.missing == ()


types = st.sampled_from(ALL)
device = st.builds(lambda kind, contains: (kind, contains), types, st.frozensets(types, max_size=2))


@given(st.dictionaries(st.sampled_from(["nvml", "grace", "apple", "amd_gpu"]), device))
def test_every_host_has_a_sensor_or_a_finding_for_each_component(tmp_path_factory, vendors):
    with pytest.MonkeyPatch.context() as patch:
        for vendor in ("jetson", "nvml", "intel_gpu", "amd_gpu", "grace", "apple"):
            default = NO_NVIDIA if vendor == "nvml" else finder()
            # GPUs are searched for by vendor, so the meter of one vendor does not contain another's.
            of = vendors.get(vendor)
            gpu = vendor in ("nvml", "amd_gpu")
            one = of and meter(
                vendor, "gpu" if gpu else "cpu", *(of[1] - {"gpu", "cpu" if not gpu else "gpu"})
            )
            patch.setattr(discovery, vendor, finder(one) if one else default)
        found = discovery.discover(tmp_path_factory.getbasetemp() / "none")
        found.close()
    covered = [s.device.type for s in found.sensors]
    for sensor in found.sensors:
        for other in found.sensors:
            whole_module = {"nvml", "amd_gpu"} >= {sensor.device.id, other.device.id}
            assert other is sensor or whole_module or other.device.type not in sensor.device.contains
    contained = set().union(*(s.device.contains for s in found.sensors))
    assert {"cpu", "memory"} <= {*covered, *contained}
    assert {"cpu", "memory", "gpu"} <= {finding.component for finding in found.findings}
