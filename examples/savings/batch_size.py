"""Large batches against small ones in training: they save energy, and cost accuracy unless the rate follows.

pip install "carbon-otel[mlflow,sklearn]" torch==2.13.0 && python examples/savings/batch_size.py
"""

from __future__ import annotations

import torch
from in_turn import begin, in_turn
from quantised import TEST, digits
from torch import nn

import carbon_otel


def accuracy(batch: int, rate: float, epochs: int) -> float:
    """The accuracy of a network that was trained with batches of this size."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    images, labels = digits()
    with carbon_otel.stage("training") as stage:
        for _ in range(epochs):
            order = torch.randperm(len(images) - TEST) + TEST
            for rows in order.split(batch):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(images[rows]), labels[rows]).backward()
                optimizer.step()
        stage.units(samples=epochs * len(order))
    with torch.inference_mode():
        return float((model(images[:TEST]).argmax(1) == labels[:TEST]).float().mean())


def main(repeats: int = 4, epochs: int = 40) -> None:
    """Train in turn, and print two proofs: a training is one unit of work."""
    torch.set_num_threads(1)
    begin("batch size")
    in_turn(
        repeats,
        small=lambda: accuracy(16, 0.1, epochs),
        large=lambda: accuracy(256, 0.1, epochs),
        large_and_faster=lambda: accuracy(256, 1.6, epochs),
    )
    for variant in ("large", "large_and_faster"):
        print(carbon_otel.prove("small", variant, metric="accuracy", experiment="batch size"), end="\n\n")


if __name__ == "__main__":
    main()
