"""NVIDIA GPUs through the unmodified nvidia-ml-py: the readings, and the findings if there are none."""

from __future__ import annotations

import pytest

from carbon_otel.sensors.nvidia.mig import Instance
from carbon_otel.sensors.nvidia.visible import visible
from tests.fakes import nvml

DISCOVER = """
import json
from pathlib import Path
from carbon_otel.sensors.discovery import discover
d = discover(Path("/nowhere"))
gpus = [s for s in d.sensors if s.device.type == "gpu"]
print(json.dumps({
    "ids": [g.device.id for g in gpus],
    "methods": [g.device.method for g in gpus],
    "kinds": [g.kind for g in gpus],
    "raw": [g.read() for g in gpus],
    "units": [g.joules_per_unit for g in gpus],
    "most_w": [g.power_bounds_w[1] for g in gpus],
    "reasons": [f.reason for f in d.findings if f.component == "gpu"],
    "missing": d.missing,
    "hardware": d.hardware,
}))
"""

# A stage of ten seconds at 300 W on a virtual clock; EVENTS happen before each tick.
MEASURE = """
import json
from pathlib import Path
from carbon_otel.carbon.grid import EmissionFactor, intensity
from carbon_otel.footprint import footprint_of
from carbon_otel.meter.meter import Meter
from carbon_otel.sensors.discovery import discover
from carbon_otel.stages.engine import Engine
from tests.fakes import nvml
from tests.fakes.clock import Clock

gpu = nvml.mine()[0]
found = discover(Path("/nowhere"))
clock, factor, faults = Clock(), EmissionFactor(intensity("FR")), []
sensors = [s for s in found.sensors if s.device.type == "gpu"]
meter = Meter(sensors, clock_ns=clock, on_fault=lambda sensor, message: faults.append(message))
engine = Engine(meter, factor)
stage = engine.open("training", "training", {})
for second in range(10):
    clock.advance(1)
    if not gpu.energy_error:
        gpu.energy_mj += 300_000
    EVENTS
    engine.tick()
engine.close(stage)
f = footprint_of(stage.end.figures.record, factor, found.missing)
print(json.dumps({**f.as_dict(), "faults": faults, "reads": gpu.energy_reads}))
"""


@pytest.fixture
def gpus(tmp_path, nvml_library):
    return nvml.Gpus(tmp_path, nvml_library)


def measure(gpus, events="pass"):
    return gpus.ask(MEASURE.replace("EVENTS", events))


def test_the_energy_counter(gpus):
    output = gpus.ask(DISCOVER)
    assert output["ids"] == [gpus[0].uuid]
    assert (output["methods"], output["kinds"]) == (["measured.counter"], ["counter"])
    assert (output["raw"], output["units"], output["most_w"]) == ([5_000_000], [0.001], [1400])
    assert output["missing"] == []
    assert output["hardware"].endswith(" + 1 x NVIDIA H100 80GB HBM3")


def test_gpus_are_identified_by_their_uuids(tmp_path, nvml_library):
    gpus = nvml.Gpus(tmp_path, nvml_library, count=3)
    output = gpus.ask(DISCOVER, CUDA_VISIBLE_DEVICES=f"2,{gpus[0].uuid[:8]}")
    assert output["ids"] == [gpus[2].uuid, gpus[0].uuid]
    assert gpus.ask(DISCOVER)["ids"] == [gpus[n].uuid for n in range(3)]


def test_without_an_energy_counter_the_power_is_read(gpus):
    gpus[0].energy_error = nvml.NOT_SUPPORTED
    output = gpus.ask(DISCOVER)
    assert (output["methods"], output["kinds"], output["raw"]) == (["measured.power"], ["power"], [100])
    assert "no energy counter" in output["reasons"][0] and output["missing"] == []


def test_power_is_integrated_over_time(gpus):
    gpus[0].energy_error = nvml.NOT_SUPPORTED
    output = measure(gpus, "gpu.power_mw = 300_000 if second >= 4 else 100_000")
    assert output["energy_j"] == pytest.approx(4 * 100 + 200 + 5 * 300)
    assert (output["method"], output["measured_fraction"]) == ("measured.power", 1)


def test_without_either_the_gpu_is_missing(gpus):
    gpus[0].energy_error = gpus[0].power_error = nvml.NOT_SUPPORTED
    output = gpus.ask(DISCOVER)
    assert (output["ids"], output["missing"]) == ([], ["gpu"])
    assert "Not Supported" in output["reasons"][0]


def test_a_gpu_without_a_power_limit_has_a_generous_one(gpus):
    gpus[0].limit_error = nvml.NOT_SUPPORTED
    assert gpus.ask(DISCOVER)["most_w"] == [2000]


@pytest.mark.parametrize("code", [nvml.DRIVER_NOT_LOADED, nvml.NO_PERMISSION])
def test_nvml_that_does_not_start_is_a_finding(code, gpus):
    gpus.fail_to_start(code)
    output = gpus.ask(DISCOVER)
    assert (output["ids"], output["missing"]) == ([], [])
    assert "NVML did not start" in output["reasons"][0]


def test_a_driver_without_gpus(tmp_path, nvml_library):
    output = nvml.Gpus(tmp_path, nvml_library, count=0).ask(DISCOVER)
    assert (output["ids"], output["missing"]) == ([], [])


def test_a_stage_is_exact_to_the_joule_with_few_readings(gpus):
    output = measure(gpus)
    assert output["energy_j"] == pytest.approx(3000)
    assert output["components"] == {"gpu": output["energy_j"]}
    assert (output["method"], output["measured_fraction"], output["flags"]) == ("measured.counter", 1, [])
    # One reading to detect the counter, one a second, and at most one at each edge.
    assert output["reads"] <= 1 + 10 + 2


def test_a_reloaded_driver_restarts_the_count(gpus):
    output = measure(gpus, "gpu.energy_mj = 50_000 if second == 4 else gpu.energy_mj")
    assert output["flags"] == [f"reset:{gpus[0].uuid}"]
    assert output["energy_j"] == pytest.approx(4 * 300 + 50 + 5 * 300)


def test_a_gpu_that_is_lost_is_a_gap_with_the_power_it_had(gpus):
    output = measure(gpus, f"gpu.energy_error = {nvml.GPU_IS_LOST} if second >= 4 else 0")
    assert output["flags"] == [f"gap:{gpus[0].uuid}"]
    assert (output["gap_s"], output["energy_j"]) == (pytest.approx(6), pytest.approx(3000))
    assert output["measured_fraction"] == pytest.approx(0.4)
    assert output["low_j"] < 0.7 * output["energy_j"] < output["high_j"]
    assert len(output["faults"]) == 1 and "GPU is lost" in output["faults"][0]


def test_a_gpu_that_comes_back_closes_its_gap(gpus):
    before_mj = gpus[0].energy_mj
    output = measure(gpus, f"gpu.energy_error = {nvml.GPU_IS_LOST} if 3 <= second < 6 else 0")
    assert output["gap_s"] == 0 and output["measured_fraction"] == 1
    assert output["energy_j"] == pytest.approx((gpus[0].energy_mj - before_mj) / 1000)


def test_a_counter_that_stands_at_zero_is_not_read(gpus):
    """As for a virtual GPU of a guest."""
    gpus[0].energy_mj = 0
    output = gpus.ask(DISCOVER)
    assert (output["methods"], output["kinds"], output["raw"]) == (["measured.power"], ["power"], [100])


def test_a_counter_that_disappears_during_a_run_is_a_gap(gpus):
    output = measure(gpus, f"gpu.energy_error = {nvml.NOT_SUPPORTED} if second >= 8 else 0")
    assert output["flags"] == [f"gap:{gpus[0].uuid}"]


def test_the_public_api_in_real_time(gpus):
    """`instrument()` in a separate process, with a counter that is updated every 100 ms."""
    gpus[0].run(watts=400)
    output = gpus.ask(
        """
import json, time
import carbon_otel
carbon_otel.instrument(zone="FR")
with carbon_otel.stage("training") as s:
    time.sleep(1.2)
print(json.dumps(s.footprint.as_dict()))
carbon_otel.uninstrument()
"""
    )
    truth = 400 * output["duration_s"]
    assert output["devices"][gpus[0].uuid] == pytest.approx(truth, rel=0.25)
    assert "measured.counter" in output["method"]


def test_the_sampler_watches_when_the_counters_are_renewed(tmp_path, nvml_library):
    gpus = nvml.Gpus(tmp_path, nvml_library, count=2)
    for number in (0, 1):
        gpus[number].run(watts=400)
    output = gpus.ask(
        """
import gc, json, time
import carbon_otel
from carbon_otel.sensors.nvidia.update_clock import UpdateClock
carbon_otel.instrument(zone="FR", interval_s=0.1)
clocks = [each for each in gc.get_objects() if isinstance(each, UpdateClock)]
while not all(each._due_ns for each in clocks):
    time.sleep(0.05)
carbon_otel.uninstrument()
print(json.dumps(len(clocks)))
"""
    )
    assert output == 2


def test_the_instantaneous_power_is_preferred(gpus):
    gpus[0].energy_error = nvml.NOT_SUPPORTED
    gpus[0].instant_scopes, gpus[0].instant_mw = 0b01, 321_000
    output = gpus.ask(DISCOVER)
    assert (output["kinds"], output["raw"]) == (["power"], [pytest.approx(321)])
    assert "instantaneous" in output["reasons"][0]


def test_the_power_of_a_module_is_the_last_choice_and_named_so(gpus):
    gpus[0].energy_error = nvml.NOT_SUPPORTED
    gpus[0].instant_scopes, gpus[0].instant_mw = 0b10, 500_000
    assert gpus.ask(DISCOVER)["raw"] == [100]
    gpus[0].power_error = nvml.NOT_SUPPORTED
    output = gpus.ask(DISCOVER)
    assert output["raw"] == [pytest.approx(500)]
    assert output["hardware"].endswith("(whole module)") and "of the module" in output["reasons"][0]


@pytest.mark.parametrize(("kind", "milliwatts"), [(1, 0xFFFFFFFF), (5, 0xFFFFFFFF), (9, 100_000)])
def test_an_implausible_field_is_not_used(gpus, kind, milliwatts):
    gpus[0].energy_error = gpus[0].power_error = nvml.NOT_SUPPORTED
    gpus[0].instant_scopes, gpus[0].instant_mw, gpus[0].field_type = 1, milliwatts, kind
    output = gpus.ask(DISCOVER)
    assert (output["ids"], output["missing"]) == ([], ["gpu"])


def test_a_mig_instance_has_energy_in_proportion_to_its_slices(gpus):
    _, second = gpus[0].partition(4, 3)
    output = gpus.ask(DISCOVER, CUDA_VISIBLE_DEVICES=second)
    assert (output["ids"], output["methods"]) == ([second], ["modelled.constant"])
    assert output["raw"] == [pytest.approx(5_000_000 * 3 / 7)]
    assert output["most_w"] == [pytest.approx(1400 * 3 / 7)]
    old = f"MIG-{gpus[0].uuid}/2/0"
    assert gpus.ask(DISCOVER, CUDA_VISIBLE_DEVICES=old)["ids"] == [second]


def test_of_a_partitioned_gpu_the_first_instance_is_measured(gpus):
    first, _ = gpus[0].partition(1, 1, of=4)
    output = gpus.ask(DISCOVER)
    assert (output["ids"], output["raw"]) == ([first], [pytest.approx(5_000_000 / 4)])


def test_a_partitioned_gpu_without_an_instance_is_missing(gpus):
    gpus[0].partition()
    output = gpus.ask(DISCOVER)
    assert (output["ids"], output["missing"]) == ([], ["gpu"])


# Reads once a second on a virtual clock; EVENTS happen before each reading.
RELOAD = """
import json
from carbon_otel.sensors.base import SensorError
from carbon_otel.sensors.nvidia.gpu import NvmlGpu
from carbon_otel.sensors.nvidia.library import Nvml
from tests.fakes import nvml

driver, now_s, readings = nvml.driver(), [0.0], []
gpu = driver.gpus[0]
library = Nvml(clock_s=lambda: now_s[0])
sensor = NvmlGpu(library, *library.devices()[0][0])
for second in range(20):
    now_s[0] = second
    EVENTS
    try:
        readings.append(sensor.read())
    except SensorError as error:
        readings.append(None)
print(json.dumps({"readings": readings, "stale": driver.stale_uses, "inits": driver.inits}))
"""


def test_a_reloaded_driver_is_found_again_without_a_gap(gpus):
    output = gpus.ask(RELOAD.replace("EVENTS", "if second == 5: driver.loads += 1; gpu.energy_mj = 7"))
    assert output == {"readings": [5_000_000] * 5 + [7] * 15, "stale": 0, "inits": 2}


def test_a_missing_driver_is_retried_at_growing_intervals(gpus):
    away = "driver.init_error = 9 if 5 <= second < 10 else 0; driver.loads += second == 5"
    output = gpus.ask(RELOAD.replace("EVENTS", away))
    # Tried at 5, 6, 8 and 12 s.
    assert output["readings"] == [5_000_000] * 5 + [None] * 7 + [5_000_000] * 8
    assert (output["stale"], output["inits"]) == (0, 2)


def test_the_processes_that_use_the_gpu(gpus):
    gpus[0].runs((11, 4_000_000, 60))
    program = """
import json
from pathlib import Path
from carbon_otel.sensors.nvidia.library import Nvml
from carbon_otel.sensors.nvidia.processes import ProcessUtilisation
from tests.fakes import nvml

class HostPids:
    def readlink(self):
        return "pid:[4026531836]"

now_s = 0.0
library = Nvml(clock_s=lambda: now_s)
handle = library.devices()[0][0][1]
use = ProcessUtilisation(library, HostPids())
output = [use.since_last(handle), use.since_last(handle)]
now_s = 1000.0
nvml.mine()[0].runs((11, 5_400_000, 60), (12, 5_600_000, 20), (12, 5_610_000, 20), (13, 5_600_000, 4_000_000))
output += [use.since_last(handle), use.since_last(handle)]
now_s += 1
nvml.mine()[0].runs((11, 905_610_000, 60))  # after a long time in which no process ran
output.append(use.since_last(handle))
nvml.mine()[0].samples_error = nvml.NOT_SUPPORTED
output.append(use.since_last(handle))
output.append(ProcessUtilisation(library, Path("/nowhere")).since_last(handle))
print(json.dumps(output))
"""
    output = gpus.ask(program)
    # First what was before; then samples each 0.2 s, of which the driver may take two at once.
    shared, later = [{"11": 0.6, "12": 0.2}, pytest.approx(1.61 / 0.2)], [{"11": 0.6}, pytest.approx(5)]
    assert output == [None, [{}, 0], shared, [{}, 0], later, None, None]


def test_an_unlisted_gpu_does_not_hide_the_others(tmp_path, nvml_library):
    gpus = nvml.Gpus(tmp_path, nvml_library, count=2)
    gpus[0]._uuid = b"\xff"
    output = gpus.ask(DISCOVER)
    assert output["ids"] == [gpus[1].uuid] and output["reasons"][0].startswith("GPU 0: ")


INSTANCES = [
    Instance("MIG-cc11", "GPU-aa11", 1, 0, "1g", 1, 7),
    Instance("MIG-cc22", "GPU-aa11", 2, 0, "2g", 2, 7),
]


@pytest.mark.parametrize(
    ("setting", "chosen"),
    [
        ("MIG-cc22", ["MIG-cc22"]),
        ("MIG-cc2,0", ["MIG-cc22", "GPU-aa11"]),
        ("MIG-cc", []),
        ("MIG-", []),
        ("MIG-GPU-aa11/1/0", ["MIG-cc11"]),
        ("MIG-GPU-aa11/1/1", []),
        ("MIG-GPU-bb33/1/0", []),
        ("9" * 5000, []),
    ],
)
def test_mig_instances_by_both_styles_of_their_names(setting, chosen):
    assert visible(UUIDS, setting, INSTANCES) == chosen


UUIDS = ["GPU-aa11", "GPU-aa22", "GPU-bb33"]


@pytest.mark.parametrize(
    ("setting", "chosen"),
    [
        (None, UUIDS),
        ("", []),
        ("0", ["GPU-aa11"]),
        ("2, 0", ["GPU-bb33", "GPU-aa11"]),
        ("GPU-bb", ["GPU-bb33"]),
        ("GPU-aa", []),
        ("GPU-aa22,1", ["GPU-aa22"]),
        ("0,7,1", ["GPU-aa11"]),
        ("0,-1,1", ["GPU-aa11"]),
        ("MIG-1,0", []),
        ("²", []),
        ("NoDevFiles", []),
    ],
)
def test_the_gpus_that_cuda_visible_devices_shows(setting, chosen):
    assert visible(UUIDS, setting) == chosen
