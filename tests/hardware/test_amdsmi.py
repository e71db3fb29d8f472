"""AMD GPUs through the unmodified amdsmi: the readings, and the findings if there are none."""

from __future__ import annotations

import pytest

from carbon_otel.sensors.amd.visible import visible
from tests.fakes import amdsmi

PROGRAM = """
import json, os, time
from pathlib import Path
from carbon_otel.sensors.amd import gpu as amd_gpu
from carbon_otel.sensors.base import SensorError
from tests.fakes import amdsmi
gpus = amdsmi.host(NAMES)
BEFORE
sensors, findings = amd_gpu.find(Path("/"))
first = [s.read() * s.joules_per_unit for s in sensors]
AFTER
def read(sensor):
    try:
        return sensor.read()
    except SensorError as error:
        return str(error)
print(json.dumps({
    "first": first,
    "then": [read(s) for s in sensors],
    "kinds": [s.kind for s in sensors],
    "ids": [s.device.id for s in sensors],
    "names": [s.device.name for s in sensors],
    "most_w": [s.power_bounds_w[1] for s in sensors],
    "reasons": [f.reason for f in findings],
    "unmetered": [f.unmetered for f in findings],
}))
"""


@pytest.fixture(scope="module")
def rocm(tmp_path_factory):
    return amdsmi.build(tmp_path_factory.mktemp("rocm"))


def found(rocm, names, before="", after="", **variables):
    program = PROGRAM.replace("NAMES", names).replace("BEFORE", before).replace("AFTER", after)
    return amdsmi.ask(rocm, program, **variables)


def test_the_accumulator_times_its_resolution(rocm):
    output = found(rocm, "'AMD Instinct MI300X'", after="gpus[0].counter_w = 0; gpus[0].units = 2_000_000")
    assert output["kinds"] == ["counter"]
    assert output["first"][0] == pytest.approx(15.259, abs=0.05 * 500 + 100)  # a million units, and the check
    assert output["then"] == [pytest.approx(2_000_000 * 15.259e-6, rel=1e-6)]
    assert output["most_w"] == [1500] and output["names"] == ["AMD Instinct MI300X"]
    assert output["unmetered"] == [False] and output["reasons"] == [""]


def test_an_accumulator_that_contradicts_the_power_is_not_used(rocm):
    output = found(rocm, "'AMD Instinct MI300X'", "gpus[0].counter_w = 5_000_000.0")
    assert output["kinds"] == ["power"] and output["first"] == [500]
    assert "does not agree" in output["reasons"][0]


def test_an_accumulator_that_stands_still_is_not_used(rocm):
    assert found(rocm, "'AMD Instinct MI300X'", "gpus[0].counter_w = 0.0")["kinds"] == ["power"]


def test_without_an_accumulator_the_power_is_read(rocm):
    output = found(rocm, "'AMD Radeon'", f"gpus[0].energy_error = {amdsmi.NOT_SUPPORTED}")
    assert output["kinds"] == ["power"] and output["first"] == [500]


@pytest.mark.parametrize("power", ["gpus[0].power_error = 2", "gpus[0].power_w = 0xFFFF"])
def test_a_gpu_without_readings_is_missing(rocm, power):
    output = found(rocm, "'AMD Radeon'", f"gpus[0].energy_error = 2; {power}")
    assert output["ids"] == [] and output["unmetered"] == [True]
    assert "neither" in output["reasons"][0]


def test_both_dies_of_a_card_are_one_device(rocm):
    output = found(rocm, ", ".join(["'AMD Instinct MI250X'"] * 4))
    assert [uuid[0] for uuid in output["ids"]] == ["0", "2"]
    assert output["names"] == ["AMD Instinct MI250X (both dies)"] * 2


def test_the_second_die_alone_is_charged_with_its_card(rocm):
    output = found(rocm, ", ".join(["'AMD Instinct MI250X'"] * 4), HIP_VISIBLE_DEVICES="3")
    assert [uuid[0] for uuid in output["ids"]] == ["2"]


def test_hip_and_amdsmi_number_gpus_differently(rocm):
    output = found(rocm, "'a', 'b'", "gpus[0].hip, gpus[1].hip = 1, 0", HIP_VISIBLE_DEVICES="0")
    assert output["names"] == ["b"]


def test_unknown_properties_of_a_gpu_get_defaults(rocm):
    output = found(rocm, "'a', 'b'", "gpus[0].detail_error = gpus[1].detail_error = 2")
    assert output["ids"] == ["amd-gpu-0", "amd-gpu-1"] and output["names"] == ["AMD GPU"] * 2


def test_a_reading_that_fails_later_is_a_gap_and_not_a_zero(rocm):
    output = found(rocm, "'a', 'b'", after="gpus[0].energy_error = 34; gpus[1].resolution_uj = -1")
    assert output["kinds"] == ["counter", "counter"]
    assert all(isinstance(reading, str) for reading in output["then"])


def test_a_library_that_does_not_start_is_a_finding(rocm):
    output = found(rocm, "'a'", "amdsmi.fail_to_start(4)")
    assert output["ids"] == [] and output["unmetered"] == [True]
    assert "amdsmi" in output["reasons"][0]


def test_without_the_library_nothing_is_printed(rocm, tmp_path):
    program = (
        "import json; from pathlib import Path; from carbon_otel.sensors.amd import gpu\n"
        "_, (finding,) = gpu.find(Path('/'))\n"
        "print(json.dumps([finding.unmetered, finding.reason, finding.fix]))"
    )
    unmetered, reason, fix = amdsmi.ask(tmp_path, program, LD_LIBRARY_PATH="")
    assert unmetered and "amdsmi" in reason and "amd-smi-lib" in fix


PAIR = [(0, "06ff74a0-0000-1000-806b-c1d71caf5a20"), (1, "16ff74a0-0000-1000-806b-c1d71caf5a21")]


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, [0, 1]),
        ({"HIP_VISIBLE_DEVICES": "1"}, [1]),
        ({"HIP_VISIBLE_DEVICES": "1,0"}, [1, 0]),
        ({"HIP_VISIBLE_DEVICES": ""}, []),
        ({"HIP_VISIBLE_DEVICES": "0,7,1"}, [0]),
        ({"HIP_VISIBLE_DEVICES": "-1"}, []),
        ({"CUDA_VISIBLE_DEVICES": "1"}, [1]),
        ({"HIP_VISIBLE_DEVICES": "0", "CUDA_VISIBLE_DEVICES": "1"}, [0]),
        ({"ROCR_VISIBLE_DEVICES": "1", "HIP_VISIBLE_DEVICES": "0"}, [1]),
        ({"ROCR_VISIBLE_DEVICES": "GPU-806bc1d71caf5a21"}, [1]),
        ({"ROCR_VISIBLE_DEVICES": "GPU-nothing"}, []),
        ({"HIP_VISIBLE_DEVICES": "0,0"}, [0]),
    ],
)
def test_the_gpus_that_the_environment_allows(environment, expected):
    assert visible(PAIR, environment) == expected
