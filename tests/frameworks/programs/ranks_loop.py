"""A loop that people write themselves.

Ways: `loop`; `early`, the others train before the run of rank 0 begins; `late`, rank 1 is still in its training
when the run of rank 0 is over, and has not looked at the board meanwhile; `killed`, rank 1 is killed in its second
epoch.
"""

import os
import signal
import time

import ranks
import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset


def wait_until_written() -> None:
    """Until the first epoch of this rank has been written for its run."""
    until = time.monotonic() + 100
    state = ranks.FOLDER / "state" / "mlflow"
    while time.monotonic() < until:
        for file in state.glob("joined-*.spool"):
            try:
                if "carbon/units/training/samples" in file.read_text():
                    return
            except FileNotFoundError:
                pass
        time.sleep(0.01)


def train(model: torch.nn.Module, rank: int) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    rows = TensorDataset(torch.ones(ranks.ROWS, 4))
    loader = DataLoader(rows, batch_size=ranks.BATCH, sampler=DistributedSampler(rows))
    for epoch in range(ranks.EPOCHS):
        for (batch,) in loader:
            if rank == 1:
                time.sleep(ranks.SLOW_S)
                if ranks.way == "killed" and epoch == 1:
                    wait_until_written()
                    os.kill(os.getpid(), signal.SIGKILL)
            optimizer.zero_grad()
            model(batch).square().mean().backward()
            optimizer.step()
    if rank == 1 and ranks.way == "late":
        time.sleep(1.0)


ranks.instrument(interval_s=30 if ranks.way == "late" else 0.1)
distributed.init_process_group("gloo")
rank = distributed.get_rank()
model = torch.nn.Linear(4, 1)
if ranks.way == "early":
    model = DistributedDataParallel(model)
with ranks.run_of(rank):
    if ranks.way != "early":
        model = DistributedDataParallel(model)
    train(model, rank)
distributed.destroy_process_group()
