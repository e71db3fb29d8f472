"""What the hooks of PyTorch's loops cost, as CPU time of the thread, beside the same without measurement."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

import pytest

import carbon_otel
from tests.fakes.powercap import server

torch = pytest.importorskip("torch")
data = pytest.importorskip("torch.utils.data")

REPEATS, TIMES = 7, 5_000


class Nothing(torch.optim.Optimizer):
    """A step that does nothing but call the hooks."""

    def __init__(self) -> None:
        super().__init__([torch.nn.Parameter(torch.zeros(1))], {})

    def step(self, closure=None) -> None:
        pass


def loader():
    return data.DataLoader(data.TensorDataset(torch.zeros(TIMES, 1)), batch_size=1)


def us(work: Callable[[], object], times: int) -> float:
    begun = time.thread_time()
    work()
    return (time.thread_time() - begun) / times * 1e6


def steps() -> float:
    step = Nothing().step

    def work() -> None:
        for _ in range(TIMES):
            step()

    return us(work, TIMES)


def batches() -> float:
    made = loader()

    def work() -> None:
        for _ in made:
            pass

    return us(work, TIMES)


def a_pass() -> float:
    made = data.DataLoader(data.TensorDataset(torch.zeros(1, 1)), batch_size=1)

    def work() -> None:
        for _ in range(200):
            for _ in made:
                pass

    return us(work, 200)


KINDS = {
    "a step outside of a DataLoader": (steps, None),
    "a step in a pass": (steps, loader),
    "a step in a stage of yours": (steps, "training"),
    "a batch": (batches, None),
    "a batch in a stage of yours": (batches, "training"),
    "a pass of one batch": (a_pass, None),
}


@pytest.mark.parametrize("what", KINDS)
def test_a_hook(what, tmp_path, table):
    work, around = KINDS[what]
    root = server(tmp_path).root
    for measured in (False, True) * REPEATS:
        with contextlib.ExitStack() as within:
            if measured:
                carbon_otel.instrument(zone="FR", powercap_root=root)
                within.callback(carbon_otel.uninstrument)
            if measured and around == "training":
                within.enter_context(carbon_otel.stage("training"))
            if around is loader:
                batch = iter(loader())
                next(batch)
            table(what, "carbon_otel" if measured else "PyTorch alone", work(), "us")
