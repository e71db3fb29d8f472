"""The work of one example, measured and not, in turn: `python -m tests.benchmarks.examples finetune 20`.

A round takes about a second. Prints, as JSON, the median ratio of a measured round to the mean of those without
measurement around it, in CPU time of the process and by the clock, and the median difference of two neighbouring
rounds without. The start of the measurement is not part of a round.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import itertools
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

# One thread each: others that wait for work in a loop would hide what is measured.
os.environ.update(OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="")

import carbon_otel
from tests.fakes.powercap import server

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
    with tempfile.TemporaryDirectory() as folder, globals()[name]() as work:
        root = server(Path(folder) / "sys").root

        def measured() -> tuple[float, float]:
            carbon_otel.instrument(zone="FR", powercap_root=root)
            try:
                time.sleep(1)  # the sampler learns the periods of the sensors
                return timed(round_)
            finally:
                carbon_otel.uninstrument()

        def round_() -> None:
            for _ in range(times):
                work()

        work()
        times = max(1, round(1 / timed(work)[0]))
        measured()
        without, within = [timed(round_)], []
        for _ in range(rounds):
            within.append(measured())
            without.append(timed(round_))
    figures: dict[str, float] = {"seconds": statistics.median(cpu for cpu, _ in without)}
    for at, what in enumerate(("cpu", "clock")):
        off, on = [each[at] for each in without], [each[at] for each in within]
        pairs = list(itertools.pairwise(off))
        figures[what] = statistics.median(
            2 * now / (before + after) for now, (before, after) in zip(on, pairs, strict=True)
        )
        figures[f"{what}_spread"] = statistics.median(abs(after / before - 1) for before, after in pairs)
    print(json.dumps(figures))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
