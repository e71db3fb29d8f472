"""An int8 model against its float32 original: a wide network saves energy, a narrow one loses.

    pip install "carbon-otel[mlflow,sklearn]" torch==2.13.0 && python examples/savings/quantised.py

Each layer first quantises what it is given. That pays only where the multiplication that follows is large.
"""

from __future__ import annotations

import warnings

import torch
from in_turn import begin, in_turn
from sklearn.datasets import load_digits
from torch import nn
from torch.ao.quantization import quantize_dynamic

import carbon_otel

TEST = 597


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """The images as rows of 64 pixels, and what they show."""
    images, labels = load_digits(return_X_y=True)
    return torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)


def trained(width: int, epochs: int = 60) -> nn.Module:
    """A classifier with two hidden layers of this width."""
    torch.manual_seed(0)
    layers = [nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10)]
    model = nn.Sequential(*layers)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1 / width**0.5)
    images, labels = digits()
    for _ in range(epochs):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images[TEST:]), labels[TEST:]).backward()
        optimizer.step()
    return model.eval()


def quantised(model: nn.Module) -> nn.Module:
    """The model with weights of 8 bits."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch moves quantisation to another package
        return quantize_dynamic(model, {nn.Linear}, torch.qint8)


@torch.inference_mode()
def accuracy(model: nn.Module, passes: int) -> float:
    """The accuracy on the test images, which are computed several times: one pass is too short to measure."""
    images, labels = (part[:TEST] for part in digits())
    with carbon_otel.stage("inference") as stage:
        for _ in range(passes):
            guessed = torch.cat([model(batch).argmax(1) for batch in images.split(64)])
        stage.units(samples=passes * len(images))
    return float((guessed == labels).float().mean())


def main(repeats: int = 4, work: int = 200) -> None:
    """Train a wide and a narrow network, let them and their int8 models predict in turn, and print two proofs."""
    torch.set_num_threads(1)
    wide, narrow = trained(1024), trained(32)
    wide_int8, narrow_int8 = quantised(wide), quantised(narrow)
    begin("quantised")
    in_turn(
        repeats,
        wide_float32=lambda: accuracy(wide, work // 5),
        wide_int8=lambda: accuracy(wide_int8, work // 5),
        narrow_float32=lambda: accuracy(narrow, work),
        narrow_int8=lambda: accuracy(narrow_int8, work),
    )
    for size in ("wide", "narrow"):
        pair = f"{size}_float32", f"{size}_int8"
        print(carbon_otel.prove(*pair, metric="accuracy", experiment="quantised"), end="\n\n")


if __name__ == "__main__":
    main()
