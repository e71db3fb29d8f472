"""Sources that answer, but say nothing: 0, a constant, an empty file, a step back, no file descriptor left.

Each demands a fallback with its reason, or a gap, a flag, and a `measured_fraction` without that time. None may
become a small figure with a narrow band.
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from carbon_otel.carbon.grid import EmissionFactor, intensity
from carbon_otel.host.attribution import Attribution
from carbon_otel.host.cgroup import Reservation, reservation
from carbon_otel.host.membership import Membership
from carbon_otel.host.process_tree import LinuxProcesses
from carbon_otel.meter.meter import Meter
from carbon_otel.sensors import discovery, grace, intel_gpu, jetson, rapl
from carbon_otel.sensors.base import SensorError
from carbon_otel.sensors.cpu_info import processor
from carbon_otel.sensors.cpu_model import CpuModel
from carbon_otel.sensors.proc_stat import BusyTime
from carbon_otel.stages.cpu_weights import ThreadWeights
from carbon_otel.stages.engine import Engine
from tests.fakes import hwmon, powercap
from tests.fakes.clock import NS, Clock
from tests.fakes.sensors import FakeSensor, gpu, package
from tests.unit.test_attribution import Stat, cgroup
from tests.unit.test_cpu_info import x86

FACTOR = EmissionFactor(intensity("FR"))
DRAWN_W = 200


class Frozen(FakeSensor):
    """A device whose readings stay at one value while it is `frozen`: at `raw`, or at the next reading."""

    def __init__(self, like: FakeSensor, clock: Clock, raw: float | None = None) -> None:
        self.__dict__.update(like.__dict__)
        self.raw = raw
        self.frozen = True
        self._clock = clock

    def read(self) -> float:
        if not self.frozen:
            return super().read()
        if self.raw is None:
            self.raw = super().read()
        return self.raw


class Falling(FakeSensor):
    """A counter that steps back a little at every reading."""

    def read(self) -> float:
        self.reads += 1
        return 1e9 - self.reads


class Measured:
    """A stage of some seconds, ticked each second, and the faults that were reported."""

    def __init__(self, clock: Clock, *devices: FakeSensor, rule=None) -> None:
        self.clock, self.faults = clock, []
        meter = Meter(
            devices,
            rule=rule,
            clock_ns=clock,
            on_fault=lambda sensor, message: self.faults.append(f"{sensor.device.id}: {message}"),
        )
        self.engine = Engine(meter, FACTOR)

    def run(self, seconds: float, tick_s: float = 1.0, stage=None):
        stage = stage or self.engine.open("training", "training", {})
        left = seconds
        while left > 1e-9:
            self.clock.advance(min(tick_s, left))
            left -= tick_s
            self.engine.tick()
        self.engine.close(stage)
        return stage.end.figures.footprint


DEVICES = {
    "package": lambda clock: package(clock, watts=DRAWN_W),
    "gpu": lambda clock: gpu(clock, watts=DRAWN_W),
}


@pytest.mark.parametrize("seconds", [2, 4, 10, 40])
@pytest.mark.parametrize("raw", [0, None, 12_345_678], ids=["zero", "start", "constant"])
@pytest.mark.parametrize("device", DEVICES)
def test_a_counter_that_never_moves_is_unknown_not_zero(device, raw, seconds):
    clock = Clock()
    measured = Measured(clock, Frozen(DEVICES[device](clock), clock, raw))
    f = measured.run(seconds)
    (name,) = f.devices
    assert {f"silent:{name}"} <= set(f.flags)
    assert f.gap_s == pytest.approx(seconds, abs=0.01)
    assert f.measured_fraction == 0
    assert f.low_j == 0 and f.high_j >= DRAWN_W * seconds
    # A stage that begins later knows as little.
    later = measured.run(6)
    assert later.gap_s == pytest.approx(6, abs=0.01) and later.measured_fraction == 0
    assert later.flags and later.high_j >= DRAWN_W * 6
    assert len(measured.faults) == 1 and "does not change" in measured.faults[0]


def test_a_counter_that_moves_late_loses_nothing_and_no_flag_stays():
    """As in trees that a hypervisor writes every few seconds."""
    clock = Clock()
    device = Frozen(package(clock, watts=DRAWN_W), clock)
    measured = Measured(clock, device)
    measured.run(2)
    stage = measured.engine.open("training", "training", {})
    clock.advance(2)
    measured.engine.tick()
    device.frozen = False
    f = measured.run(2, stage=stage)
    assert (f.flags, f.gap_s, f.measured_fraction) == ((), 0, 1)
    assert measured.engine.so_far().footprint.energy_j == pytest.approx(6 * DRAWN_W)


def test_a_counter_that_stands_still_after_it_moved_is_filled_and_reported():
    clock = Clock()
    device = Frozen(package(clock, watts=DRAWN_W), clock)
    device.frozen = False
    measured = Measured(clock, device)
    measured.run(3)
    device.raw, device.frozen = None, True
    f = measured.run(20)
    assert {"stuck:package-0", "gap:package-0"} <= set(f.flags)
    assert f.energy_j == pytest.approx(20 * DRAWN_W) and f.measured_fraction < 0.1
    assert len(measured.faults) == 1


def test_one_silent_device_beside_a_sound_one():
    clock = Clock()
    measured = Measured(clock, package(clock, watts=50), Frozen(gpu(clock, watts=DRAWN_W), clock, 0))
    f = measured.run(10)
    assert f.flags and all(flag.endswith(":GPU-0") for flag in f.flags)
    assert f.energy_j == pytest.approx(500) and f.high_j >= 500 + 10 * DRAWN_W
    assert f.gap_s == pytest.approx(10, abs=0.01)


@pytest.mark.parametrize("kind", ["counter", "power"])
def test_a_device_that_fails_from_the_start_is_unknown(kind):
    clock = Clock()
    device = FakeSensor(clock, watts=DRAWN_W, kind=kind)
    device.fault = "Too many open files"
    measured = Measured(clock, device)
    f = measured.run(4)
    assert f.flags == ("gap:package-0",) and f.gap_s == pytest.approx(4)
    assert f.measured_fraction == 0 and f.high_j >= 4 * DRAWN_W
    assert measured.faults == ["package-0: Too many open files"]


@pytest.mark.parametrize("wrap", [None, 262_143_328_850])
def test_a_counter_that_steps_back_all_the_time_counts_nothing_and_says_so(wrap):
    clock = Clock()
    measured = Measured(clock, Falling(clock, watts=DRAWN_W, wrap=wrap))
    f = measured.run(10)
    assert f.energy_j == 0 and f.high_j >= 10 * DRAWN_W
    assert f.gap_s == pytest.approx(10, abs=0.01) and f.measured_fraction == 0
    assert {"implausible:package-0", "gap:package-0"} <= set(f.flags)


def test_a_device_that_may_rest_may_stand_at_zero():
    clock = Clock()
    device = Frozen(gpu(clock), clock, 0)
    device.device = device.device.__class__(
        "ane", "gpu", "Neural Engine", "measured.counter", device.device.band, "fake", may_rest=True
    )
    measured = Measured(clock, device)
    f = measured.run(30)
    assert (f.flags, f.gap_s, f.energy_j, measured.faults) == ((), 0, 0, [])


class TestDiscovery:
    """What stands at zero at the start has a fallback."""

    def test_packages_at_zero_are_modelled(self, tmp_path):
        tree = powercap.server(tmp_path)
        for zone in tree.zones.values():
            zone.write(b"0\n")
        found = discovery.discover(tree.root)
        found.close()
        assert [s.device.method for s in found.sensors] == ["modelled.utilisation"]
        (cpu,) = [f for f in found.findings if f.component == "cpu"]
        assert "the counter stands at 0" in cpu.reason and "CARBON_OTEL_POWERCAP_ROOT" in cpu.fix

    def test_memory_at_zero_is_modelled_beside_packages_that_count(self, tmp_path):
        tree = powercap.server(tmp_path)
        for zone in tree.dram:
            zone.write(b"0\n")
        found = discovery.discover(tree.root)
        found.close()
        methods = [(s.device.type, s.device.method) for s in found.sensors]
        assert methods == [("cpu", "measured.counter")] * 2 + [("memory", "modelled.constant")]

    def test_a_counter_that_has_just_started_is_read(self, tmp_path):
        tree = powercap.server(tmp_path)
        tree.package[0].write(b"0\n")
        zones = powercap_zones(tree, after_ms=3)
        assert all(zone.error is None for zone in zones)

    def test_an_intel_gpu_at_zero_is_missing(self, tmp_path):
        hwmon.chip(tmp_path, "i915", "0000:03:00.0", 3, energy1_input=0)
        waited = []
        sensors, findings = intel_gpu.find(tmp_path / "hwmon", waited.append)
        assert sensors == [] and findings[0].unmetered and "stands at 0" in findings[0].reason
        assert len(waited) == 1

    def test_a_whole_module_at_zero_watts_is_missing(self, tmp_path):
        folder = tmp_path / "hwmon0"
        folder.mkdir()
        (folder / "name").write_text("power_meter\n")
        (folder / "power1_oem_info").write_text("Grace Power Socket 0\n")
        (folder / "power1_average").write_text("0\n")
        sensors, findings = grace.find(tmp_path)
        assert sensors == [] and findings[0].unmetered and "0 W" in findings[0].reason

    @pytest.mark.parametrize(("rail", "read"), [("VDD_IN", False), ("VDD_GPU", True)])
    def test_a_rail_at_zero_watts(self, rail, read, tmp_path):
        folder = tmp_path / "hwmon0"
        folder.mkdir()
        for name, text in {
            "name": "ina3221",
            "in1_label": rail,
            "in1_input": "5000",
            "curr1_input": "0",
            "in1_enable": "1",
        }.items():
            (folder / name).write_text(f"{text}\n")
        sensors, findings = jetson.find(tmp_path, tmp_path / "none")
        assert bool(sensors) == read and findings[0].unmetered != read

    @pytest.mark.parametrize("content", ["cpu  0 0 0 0 0 0 0 0 0 0\n", ""])
    def test_a_host_without_processor_time_has_a_constant_power(self, content, tmp_path, monkeypatch):
        stat = tmp_path / "stat"
        stat.write_text(content)
        monkeypatch.setattr(discovery, "BusyTime", lambda: BusyTime(stat))
        found = discovery.discover(tmp_path / "none")
        found.close()
        (sensor,) = found.sensors
        assert (sensor.device.method, sensor.device.type) == ("modelled.constant", "cpu")
        (cpu,) = [f for f in found.findings if f.component == "cpu"]
        assert "its load is unknown" in cpu.reason
        assert sensor.device.band.low < 0.8 and sensor.device.band.high > 1.2


def powercap_zones(tree: powercap.Tree, after_ms: int):
    waited = []

    def sleep(seconds):
        waited.append(seconds)
        if len(waited) == after_ms:
            tree.package[0].write(b"61\n")

    return rapl.zones(tree.root, sleep)


class TestProcessorTime:
    """The model's input."""

    @pytest.fixture
    def stat(self, tmp_path):
        return Stat(tmp_path / "stat")

    @pytest.fixture
    def model(self, stat, tmp_path):
        clock = Clock()
        cpuinfo = tmp_path / "cpuinfo"
        cpuinfo.write_text(x86("AuthenticAMD", 25, 1, "AMD EPYC 7763 64-Core Processor", 8))
        return CpuModel(processor(cpuinfo), BusyTime(stat.path), clock), clock

    def test_a_time_that_does_not_change_is_an_error_and_the_next_reading_covers_it(self, model, stat):
        sensor, clock = model
        sensor.read()
        clock.advance(5)
        with pytest.raises(SensorError, match="does not change"):
            sensor.read()
        clock.advance(5)
        stat.run(busy=80, idle=0)
        assert sensor.read() == pytest.approx(10 * sensor.power_bounds_w[1])

    def test_in_a_short_time_it_may_be_unchanged(self, model, stat):
        sensor, clock = model
        sensor.read()
        clock.advance(0.05)
        assert sensor.read() == 0


class NoProcesses(LinuxProcesses):
    """A /proc without a free descriptor, or one that shows no process."""

    def __init__(self, answer) -> None:
        super().__init__(Path("/proc"))
        self.answer = answer

    def trees(self, roots, foreign=()):
        if self.answer is not None:
            return self.answer(super().trees(roots, foreign))
        return super().trees(roots, foreign)


def raise_emfile(_):
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


SILENT_SHARES = {
    "no descriptor left": (raise_emfile, None),
    "no process shown": (lambda trees: {root: {} for root in trees}, None),
    "processor time constant": (None, lambda stat: None),
    "processor time empty": (None, lambda stat: stat.path.write_text("")),
    "processor time zero": (None, lambda stat: stat.path.write_text("cpu  0 0 0 0 0 0 0 0 0 0\n")),
    "processor time steps back": (None, lambda stat: stat.run(busy=-1, idle=-5)),
}


def attribution(rule: str, clock: Clock, stat: Stat, folder: Path) -> Attribution:
    """The rule for one package on a host of one thread."""
    return Attribution(
        rule,
        [package(clock).device],
        Reservation(1.0, "host", 1),
        Membership("host", folder),
        BusyTime(stat.path),
        clock(),
        clock_ns=clock,
    )


@pytest.mark.parametrize("case", SILENT_SHARES)
def test_a_share_that_cannot_be_measured_is_the_last_one_and_flagged(case, tmp_path, monkeypatch):
    answer, change = SILENT_SHARES[case]
    clock, stat = Clock(), Stat(tmp_path / "stat")
    processes = NoProcesses(None)
    monkeypatch.setattr("carbon_otel.host.attribution.host_processes", lambda: processes)
    rule = attribution("process", clock, stat, tmp_path)
    measured = Measured(clock, package(clock, watts=DRAWN_W), rule=rule)

    def second():
        clock.advance(1)
        measured.engine.tick()

    monkeypatch.setattr("carbon_otel.host.attribution.spent_ns", lambda before, after: NS // 2)
    stat.run(busy=1, idle=0)
    second()
    known = rule.present
    assert known.known and 0 < known.process < 1

    stage = measured.engine.open("training", "training", {})
    processes.answer = answer
    for _ in range(4):
        if change is None:
            stat.run(busy=1, idle=0)
        else:
            change(stat)
        second()
    measured.engine.close(stage)
    f = stage.end.figures.footprint
    assert f.flags == ("share:package-0",)
    assert f.gap_s == pytest.approx(4, abs=0.01) and f.measured_fraction < 1e-9
    assert f.energy_j == pytest.approx(4 * DRAWN_W * known.process)
    assert f.low_j == pytest.approx(0, abs=1e-9) and f.high_j == pytest.approx(2 * f.energy_j, rel=1e-3)

    processes.answer = None
    stat.path.write_text("cpu  0 0 0 0 0 0 0 0 0 0\n")
    stat.busy = stat.idle = 0.0
    stat.run(busy=1, idle=0)
    second()  # after a step back, one more
    stat.run(busy=1, idle=0)
    second()
    stage = measured.engine.open("training", "training", {})
    stat.run(busy=1, idle=0)
    second()
    measured.engine.close(stage)
    assert (stage.end.figures.footprint.flags, stage.end.figures.footprint.gap_s) == ((), 0)


def test_under_the_reserved_rule_the_share_of_cpu_time_flags_nothing(tmp_path):
    clock, stat = Clock(), Stat(tmp_path / "stat")
    rule = attribution("reserved", clock, stat, tmp_path)
    f = Measured(clock, package(clock), rule=rule).run(5)
    assert (f.flags, f.gap_s, f.measured_fraction) == ((), 0, 1)


@pytest.mark.parametrize(
    "thread",
    [lambda now: 5.0, lambda now: None, lambda now: 10.0 - now, lambda now: 0.0],
    ids=["constant", "absent", "stepping back", "zero"],
)
def test_a_silent_clock_of_a_thread_gives_no_weights(thread):
    now = [0.0]
    weights = ThreadWeights(lambda native: thread(now[0]), lambda: 100.0 + now[0])
    weights.weigh({"a": 1, "b": 2})
    now[0] = 1.0
    assert weights.weigh({"a": 1, "b": 2}) is None


@pytest.mark.parametrize("content", ["", "0 0", "0", "max", "-1", "nan nan", "inf 1", "1e400 1", "\n\n"])
def test_a_silent_cgroup_reserves_nothing(content, tmp_path):
    files = {"user.slice/job.scope/cpu.max": content, "user.slice/job.scope/cpuset.cpus.effective": ""}
    assert reservation(8, *cgroup(tmp_path, "0::/user.slice/job.scope\n", files)).share == 1.0


NO_DESCRIPTORS = """
import json, os, resource, subprocess, sys, threading, time
import carbon_otel
from pathlib import Path

resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
root = Path(sys.argv[1])
file, count = root / "intel-rapl:0" / "energy_uj", [10**9]
keep = os.open(file, os.O_WRONLY)

def feed():
    began = time.monotonic()
    while True:
        os.pwrite(keep, f"{10**9 + int((time.monotonic() - began) * 50e6)}\\n".encode().ljust(32, b"\\n"), 0)
        time.sleep(0.01)

threading.Thread(target=feed, daemon=True).start()
child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)  # its files are to be read
carbon_otel.instrument(zone="FR", powercap_root=root, attribution="process", interval_s=0.1)
with carbon_otel.stage("training") as before:
    end = time.monotonic() + 1
    while time.monotonic() < end:
        pass
taken = []
with carbon_otel.stage("training") as during:
    try:
        while True:
            taken.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        pass
    end = time.monotonic() + 2
    while time.monotonic() < end:
        pass
    for descriptor in taken:
        os.close(descriptor)
print(json.dumps([before.footprint.as_dict(), during.footprint.as_dict()]))
child.communicate(b"\\n")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit of descriptors and /proc are Linux's")
def test_without_a_free_descriptor_the_last_share_is_charged_and_flagged(tmp_path):
    tree = powercap.Tree(tmp_path)
    tree.zone("intel-rapl:0", "package-0")
    run = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import resource; resource.setrlimit(7, (256, 256))\n{NO_DESCRIPTORS}",
            str(tree.root),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    before, during = json.loads(run.stdout)
    assert before["energy_j"] > 0
    assert any(flag.startswith("share:") for flag in during["flags"])
    assert during["energy_j"] > 0 and during["gap_s"] > 1
    assert during["measured_fraction"] < 0.6
