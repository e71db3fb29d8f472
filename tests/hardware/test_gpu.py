"""Tests that need a real card. Run them with `pytest -m gpu -s tests/hardware`; skipped elsewhere.

Each test prints its row for the table in README.md. Nothing else may use the card at the same time.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from statistics import fmean, median

import pytest

from carbon_otel.sensors.nvidia.library import Nvml
from carbon_otel.sensors.nvidia.power import power_source
from tests.hardware.gpu import joules, row

pytestmark = pytest.mark.gpu

# Prints "ready" when the card is busy, works for the seconds it was given, and prints how many products it made.
WORK = """
import sys, time, torch
a = torch.randn(8192, 8192, device="cuda", dtype=torch.float16)
a @ a
torch.cuda.synchronize()
print("ready", flush=True)
end, products = time.monotonic() + float(sys.argv[1]), 0
while time.monotonic() < end:
    for _ in range(20):
        a @ a
    torch.cuda.synchronize()
    products += 20
print(products)
"""


class Trapezoid(threading.Thread):
    """The integral of the instantaneous power at 50 Hz from `start` to `stop`, and the joules of the counter."""

    def __init__(self, gpu):
        super().__init__(daemon=True)
        library = Nvml()
        handle = library.handle(gpu.device.id)
        source = power_source(library, handle, gpu.power_bounds_w[1])
        self.source, self._watts = source.name, lambda: source.read(handle)
        self._gpu, self._over = gpu, threading.Event()
        self.integral_j = self.counted_j = 0.0

    def run(self):
        begin_j, before_s, before_w = joules(self._gpu), time.monotonic(), self._watts()
        while not self._over.wait(0.02):
            now_s, now_w = time.monotonic(), self._watts()
            self.integral_j += (now_w + before_w) / 2 * (now_s - before_s)
            before_s, before_w = now_s, now_w
        self.counted_j = joules(self._gpu) - begin_j

    def stop(self):
        self._over.set()
        self.join()


def working(seconds):
    process = subprocess.Popen(
        [sys.executable, "-c", WORK, str(seconds)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.readline() == "ready\n", process.stderr.read()
    return process


def test_the_counter_against_the_power_at_50_hz(gpu, torch):
    """Constant matrix products for 30 s."""
    process = working(31)
    time.sleep(0.5)
    integral = Trapezoid(gpu)
    integral.start()
    time.sleep(30)
    integral.stop()
    process.communicate()
    off = integral.integral_j / integral.counted_j - 1
    row(gpu, f"counter against {integral.source} at 50 Hz, 30 s of matmul", f"{off:+.2%}")
    assert abs(off) < 0.03


def test_the_update_period(gpu):
    gpu.prepare(time.sleep)
    row(gpu, "update period of the counter", f"{gpu.update_period_s * 1e3:.0f} ms")
    assert 0.009 < gpu.update_period_s < 0.5


def test_the_counter_is_renewed_when_its_clock_expects_it(gpu):
    gpu.prepare(time.sleep)
    for _ in range(8):
        time.sleep(1)
        if gpu.due:
            gpu.follow(time.sleep)
    late_ms, unsure_ms, before = [], [], None
    end_s = time.monotonic() + 3
    while time.monotonic() < end_s:
        began_ns = time.monotonic_ns()
        raw = gpu.read()
        took_ns = time.monotonic_ns() - began_ns
        if before is not None and raw != before[1]:
            # Somewhere between the two readings; asked a while later, not to be too close to it.
            shown_ns, unsure_ns = gpu.shown(began_ns + 20_000_000, took_ns)
            late_ms.append(((before[0] + began_ns + took_ns) / 2 - shown_ns) / 1e6)
            unsure_ms.append(unsure_ns / 1e6)
        before = began_ns, raw
    row(
        gpu,
        f"{len(late_ms)} renewals against where they are expected, after 8 s",
        f"{min(late_ms):+.1f} to {max(late_ms):+.1f} ms, expected within {max(unsure_ms):.1f} ms",
    )
    assert max(unsure_ms) < gpu.update_period_s * 1e3 / 8
    assert max(map(abs, late_ms)) < max(unsure_ms) + 5


def test_the_cost_of_a_reading(gpu):
    costs = []
    for _ in range(200):
        begin_ns = time.perf_counter_ns()
        gpu.read()
        costs.append((time.perf_counter_ns() - begin_ns) / 1e3)
    row(gpu, "one reading of the counter, median (most)", f"{median(costs):.0f} us ({max(costs):.0f} us)")
    # Two readings at the edges of a stage and one a second: the stated limit of their cost.
    assert median(costs) < 20_000


def test_energy_that_leaks_over_an_edge_without_synchronisation(gpu, torch):
    """A kernel queue of some seconds: the counter at the end of the queueing, and after the kernels have run."""
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.float16)
    torch.cuda.synchronize()
    parts = []
    for _ in range(3):
        time.sleep(1)
        begin_j = joules(gpu)
        for _ in range(800):
            a @ a
        queued_j = joules(gpu) - begin_j
        torch.cuda.synchronize()
        time.sleep(2 * gpu.update_period_s)
        parts.append(1 - queued_j / (joules(gpu) - begin_j))
    row(gpu, "energy past the edge of an unsynchronised stage", f"{fmean(parts):.0%} (synchronised: 0 %)")
    assert all(0 <= part <= 1 for part in parts)


# Waits for a line, measures some seconds of work, and prints what the stage has and how many products it made.
SHARED = """
import json, sys, time, torch
import carbon_otel
carbon_otel.instrument(zone="FR", attribution="process")
a = torch.randn(8192, 8192, device="cuda", dtype=torch.float16)
a @ a
torch.cuda.synchronize()
print("ready", flush=True)
sys.stdin.readline()
products, end = 0, time.monotonic() + float(sys.argv[1])
with carbon_otel.stage("training") as stage:
    while time.monotonic() < end:
        for _ in range(20):
            a @ a
        torch.cuda.synchronize()
        products += 20
print(json.dumps([products, stage.footprint.devices, stage.footprint.flags]))
"""


def test_two_processes_on_one_gpu(gpu, torch):
    """By `attribution="process"` they share what the counter counts, as the driver's samples tell, or equally."""
    seconds = 20
    both = [
        subprocess.Popen(
            [sys.executable, "-c", SHARED, str(seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for process in both:
        assert process.stdout.readline() == "ready\n"
    begin_j = joules(gpu)
    for process in both:
        process.stdin.write("go\n")
        process.stdin.flush()
    time.sleep(seconds)
    counted_j = joules(gpu) - begin_j
    outputs = [json.loads(process.communicate()[0]) for process in both]
    made = [output[0] for output in outputs]
    energies_j = [output[1][gpu.device.id] for output in outputs]
    sampled = all(f"sampled:{gpu.device.id}" in output[2] for output in outputs)
    part, work = energies_j[0] / sum(energies_j), made[0] / sum(made)
    row(
        gpu,
        f'two processes for {seconds} s, by `attribution="process"`',
        f"{counted_j:.0f} J at the counter, both {sum(energies_j) / counted_j - 1:+.1%}; the first {part:.0%}, "
        f"with {work:.0%} of the work; {'sampled' if sampled else 'not reported'}",
    )
    # What they draw when they end is in neither, or in both.
    assert sum(energies_j) == pytest.approx(counted_j, rel=0.1)
    if sampled:  # five samples a second: four standard errors
        assert part == pytest.approx(work, abs=4 * (0.25 / (5 * seconds)) ** 0.5)
