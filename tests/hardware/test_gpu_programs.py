"""Programs on a real card: what their stages have, against its counter. `test_gpu.py` says how to run them."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import carbon_otel
from tests.hardware.gpu import joules, row

pytestmark = pytest.mark.gpu

BATCH, BATCHES = 256, 16


@pytest.fixture
def spans(gpu):
    """The spans of a measurement that has learned the periods of the card."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    carbon_otel.instrument(zone="FR", tracer_provider=provider)
    time.sleep(1.5)
    return exporter


class Images:
    """Batches of noise, a network of convolutions, and a pass over the batches in about half a second."""

    def __init__(self, torch) -> None:
        self.torch, nn = torch, torch.nn
        data = torch.randn(BATCH * BATCHES, 3, 64, 64), torch.randint(10, (BATCH * BATCHES,))
        self.loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*data), batch_size=BATCH)
        self.model = nn.Sequential(
            *(nn.Conv2d(3, 256, 3, padding=1), nn.ReLU(), nn.Conv2d(256, 512, 3, 2, padding=1), nn.ReLU()),
            *(nn.Conv2d(512, 512, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
            nn.Linear(512, 10),
        ).cuda()
        self.optimizer = torch.optim.Adam(self.model.parameters())

    def epoch(self) -> None:
        for pixels, labels in self.loader:
            self.optimizer.zero_grad()
            loss = self.torch.nn.functional.cross_entropy(self.model(pixels.cuda()), labels.cuda())
            loss.backward()
            self.optimizer.step()


class Counted:
    """The joules that a block has drawn, from readings of the counter a while before and after it.

    What the card draws meanwhile is known from the time after it, when it does nothing.
    """

    def __init__(self, gpu, torch) -> None:
        self._gpu, self._torch = gpu, torch

    def __enter__(self) -> Counted:
        self._begun = self._settled()
        self._begun_s = time.monotonic()
        return self

    def __exit__(self, *error: object) -> None:
        self.seconds = time.monotonic() - self._begun_s
        at_s, at_j = self._settled()
        time.sleep(5 * self._gpu.update_period_s)
        later_s, later_j = self._settled()
        self.idle_w = (later_j - at_j) / (later_s - at_s)
        around_s = at_s - self._begun[0] - self.seconds
        self.joules = at_j - self._begun[1] - self.idle_w * around_s

    def _settled(self) -> tuple[float, float]:
        """A time, and what the counter shows once it has the work before it."""
        self._torch.cuda.synchronize()
        time.sleep(3 * self._gpu.update_period_s)
        before_j = joules(self._gpu)
        while (now_j := joules(self._gpu)) == before_j:
            pass
        return time.monotonic(), now_j


@pytest.mark.parametrize("epochs", [2, 10])
def test_the_epochs_of_a_plain_loop_have_what_the_counter_counts(epochs, gpu, torch, spans):
    images = Images(torch)
    images.epoch()
    with Counted(gpu, torch) as counted:
        for _ in range(epochs):
            images.epoch()
        torch.cuda.synchronize()
    with carbon_otel.stage("evaluation"):
        pass
    carbon_otel.flush()
    finished = [s for s in spans.get_finished_spans() if s.name.startswith("epoch") and "(pro" not in s.name]
    assert len(finished) == epochs + 1
    ours_j = sum(span.attributes["carbon_otel.energy.gpu_j"] for span in finished[1:])
    off = ours_j / counted.joules - 1
    row(
        gpu,
        f"{epochs} epochs of a plain loop, {counted.seconds:.1f} s",
        f"{counted.joules:.0f} J at the counter, stages {off:+.1%}",
    )
    assert abs(off) < 0.03 + 0.2 / counted.seconds


@pytest.mark.parametrize("seconds", [0.3, 1.0, 5.0])
def test_a_stage_has_what_the_counter_counts(seconds, gpu, torch, spans):
    zeus = pytest.importorskip("zeus.monitor").ZeusMonitor(gpu_indices=[0])
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    ours, theirs, counts = [], [], []
    for at in range(4 if seconds < 5 else 1):
        time.sleep(0.17 * at)  # another time since the last tick
        with Counted(gpu, torch) as counted:
            zeus.begin_window("stage")
            with carbon_otel.stage("inference") as stage:
                end = time.monotonic() + seconds
                while time.monotonic() < end:
                    for _ in range(20):
                        a @ a
                    torch.cuda.synchronize()
            zeus_j = zeus.end_window("stage").gpu_energy[0]
        ours.append(stage.footprint.devices[gpu.device.id] / counted.joules - 1)
        theirs.append(zeus_j / counted.joules - 1)
        counts.append(counted.joules)
    each = [", ".join(f"{off:+.1%}" for off in offs) for offs in (ours, theirs)]
    row(gpu, f"a stage of {seconds} s", f"{max(counts):.0f} J at the counter; {each[0]}; zeus {each[1]}")
    assert all(abs(off) < 0.03 + 0.2 / seconds for off in ours)


def test_stages_and_the_rest_are_what_the_counter_counts(gpu, torch, spans):
    def ours():
        carbon_otel.flush()
        return carbon_otel.footprint().devices_inclusive[gpu.device.id]

    first_j, begun_j, second_j = joules(gpu), ours(), joules(gpu)
    images = Images(torch)
    for _ in range(3):
        images.epoch()
    with carbon_otel.stage("evaluation"):
        time.sleep(1)
    third_j, ended_j, last_j = joules(gpu), ours(), joules(gpu)
    own_j, counted_j = ended_j - begun_j, third_j - second_j
    row(gpu, "all stages and the rest", f"{counted_j:.0f} J at the counter, {own_j / counted_j - 1:+.2%}")
    period_j = gpu.update_period_s * gpu.power_bounds_w[1] / 2
    assert counted_j - period_j <= own_j <= last_j - first_j + period_j


def test_a_capture_in_another_thread_goes_on(gpu, torch, spans):
    graph, y = torch.cuda.CUDAGraph(), torch.zeros(8, device="cuda")
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        y += 1

        def stage():
            with carbon_otel.stage("inference"):
                pass

        thread = threading.Thread(target=stage)
        thread.start()
        thread.join()
        y += 1
    graph.replay()
    torch.cuda.synchronize()
    assert y[0].item() == 2
    with carbon_otel.stage("inference"):  # the next one waits again
        a = torch.randn(8192, 8192, device="cuda")
        for _ in range(10):
            a @ a
    assert torch.cuda.current_stream().query()


def test_a_compiled_model_is_captured_within_a_stage(gpu, torch, spans):
    model = torch.nn.Linear(64, 64).cuda()
    compiled = torch.compile(model, mode="reduce-overhead", fullgraph=True)
    x = torch.randn(8, 64, device="cuda")
    for _ in range(4):
        with carbon_otel.stage("inference"), torch.no_grad():
            y = compiled(x)
    assert torch.allclose(y, model(x), atol=1e-3)


JAX = """
import json, time
import jax, jax.numpy as jnp
import carbon_otel
x = jnp.ones((8192, 8192), jnp.bfloat16)
f = jax.jit(lambda x: jax.lax.fori_loop(0, 400, lambda _, y: (x @ y) * 0.0001, x))
f(x).block_until_ready()
carbon_otel.instrument(zone="FR")
with carbon_otel.stage("training"):
    result = f(x)
    waits = not result.is_ready()
print(json.dumps([waits, result.is_ready()]))
"""


def test_a_stage_waits_for_what_jax_has_queued(gpu):
    pytest.importorskip("jax")
    done = subprocess.run([sys.executable, "-c", JAX], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [True, True]
