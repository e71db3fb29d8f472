"""The work of one example, measured and not, in turn: `python -m tests.benchmarks.examples finetune 20`.

A round takes about a second. After two without measurement follow two with it: the first has what a program pays
once, at the first calls of what is replaced. Prints, as JSON, the median ratio of each to the mean of the same
rounds without, before and after, in CPU time of the process and by the clock, and the median difference of two
such rounds without. The start of the measurement is not part of a round.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import itertools
import json
import operator
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

# One thread each: others that wait for work in a loop would hide what is measured. `cuda_images` needs a card:
# `CUDA_VISIBLE_DEVICES=0 python -m tests.benchmarks.examples cuda_images 20`.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import carbon_otel
from tests.benchmarks.counters import moving

EXAMPLES = Path(__file__).parents[2] / "examples"


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def torch_images() -> Iterator[Callable[[], object]]:
    images = example("torch_images")
    model = images.network()
    batches = images.DataLoader(images.images(4096, 0), batch_size=64, num_workers=1, persistent_workers=True)
    held_out = images.DataLoader(images.images(1024, 1), batch_size=64)
    yield lambda: (images.train(model, batches, 1), images.accuracy(model, held_out))


@contextlib.contextmanager
def cuda_images() -> Iterator[Callable[[], object]]:
    """A network of some size, with passes of some tenths of a second."""
    images, torch = example("torch_images"), importlib.import_module("torch")
    nn = torch.nn
    layers = [nn.Conv2d(1, 512, 3), nn.ReLU(), nn.Conv2d(512, 512, 3), nn.ReLU(), nn.Flatten()]
    model = nn.Sequential(*layers, nn.LazyLinear(images.CLASSES)).cuda()
    batches = images.DataLoader(images.images(16384, 0), batch_size=256)
    model(torch.zeros(1, 1, 16, 16, device="cuda"))
    optimizer = torch.optim.Adam(model.parameters())

    def work() -> None:
        for pixels, labels in batches:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(pixels.cuda()), labels.cuda()).backward()
            optimizer.step()
        torch.cuda.synchronize()

    yield work


@contextlib.contextmanager
def finetune() -> Iterator[Callable[[], object]]:
    module = example("finetune")
    with tempfile.TemporaryDirectory() as folder:

        def work() -> None:
            tuner = module.trainer(folder, epochs=2, texts=128)
            tuner.train()
            tuner.evaluate()

        yield work


@contextlib.contextmanager
def boosting() -> Iterator[Callable[[], object]]:
    module = example("boosting")
    module.optuna.logging.set_verbosity(module.optuna.logging.WARNING)
    yield lambda: module.search(*module.matrices(module.table()), trials=3)


@contextlib.contextmanager
def service() -> Iterator[Callable[[], object]]:
    module = example("service")
    server = module.uvicorn.Server(module.uvicorn.Config(module.service(), port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.05)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield lambda: asyncio.run(module.load(f"http://127.0.0.1:{port}", 80))
    finally:
        server.should_exit = True
        thread.join()


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds of CPU time of the process, and by the clock."""
    cpu, clock = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - cpu, time.perf_counter() - clock


def main(name: str, rounds: int) -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        moving(Path(folder) / "sys") as root,
        globals()[name]() as work,
    ):

        def measured() -> list[tuple[float, float]]:
            carbon_otel.instrument(zone="FR", powercap_root=root)
            try:
                return plain()
            finally:
                carbon_otel.uninstrument()

        def plain() -> list[tuple[float, float]]:
            # The sampler learns the periods of the sensors. A processor that has rested is slow, so that all
            # rounds rest.
            time.sleep(1)
            return [timed(round_), timed(round_)]

        def round_() -> None:
            for _ in range(times):
                work()

        work()
        times = max(1, round(1 / timed(work)[0]))
        measured()
        without, within = [plain()], []
        for _ in range(rounds):
            within.append(measured())
            without.append(plain())
    figures: dict[str, float] = {"seconds": statistics.median(cpu for pair in without for cpu, _ in pair)}
    for (at, what), (which, place) in itertools.product(
        enumerate(("cpu", "clock")), enumerate(("first", "then"))
    ):
        off, on = ([pair[which][at] for pair in rounds_] for rounds_ in (without, within))
        around = [statistics.fmean(pair) for pair in itertools.pairwise(off)]
        figures[f"{what}_{place}"] = statistics.median(map(operator.truediv, on, around))
        figures[f"{what}_{place}_spread"] = statistics.median(
            abs(after / before - 1) for before, after in itertools.pairwise(off)
        )
    print(json.dumps(figures))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
