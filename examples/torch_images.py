"""Image classification in plain PyTorch, with DataLoader workers. No stage is written by hand.

    pip install torch && python examples/torch_images.py

Each pass over a DataLoader is a stage: training, because an optimizer steps in it, then evaluation.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import carbon_otel

CLASSES = 4


def images(count: int, seed: int) -> TensorDataset:
    """Noise of 16 x 16 pixels, with a bright quarter for each class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (count,), generator=generator)
    pixels = torch.randn(count, 1, 16, 16, generator=generator)
    for label in range(CLASSES):
        row, column = 8 * (label // 2), 8 * (label % 2)
        pixels[labels == label, :, row : row + 8, column : column + 8] += 1
    return TensorDataset(pixels, labels)


def network() -> nn.Module:
    """Two convolutions and a linear layer."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(CLASSES)
    )


def train(model: nn.Module, batches: DataLoader, epochs: int) -> None:
    """Train for some epochs."""
    model(next(iter(batches.dataset))[0][None])  # gives the lazy layer its size
    optimizer = torch.optim.Adam(model.parameters())
    for _ in range(epochs):
        for pixels, labels in batches:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(pixels), labels).backward()
            optimizer.step()


@torch.no_grad()
def accuracy(model: nn.Module, batches: DataLoader) -> float:
    """The fraction of images that are classified right."""
    right = [(model(pixels).argmax(1) == labels).float().mean() for pixels, labels in batches]
    return float(torch.stack(right).mean())


def main(epochs: int = 3) -> None:
    """Train and evaluate, and print what the stages have used."""
    carbon_otel.instrument(zone="FR")
    model = network()
    train(model, DataLoader(images(4096, 0), batch_size=64, num_workers=2, persistent_workers=True), epochs)
    print(f"accuracy {accuracy(model, DataLoader(images(1024, 1), batch_size=64)):.2f}")
    carbon_otel.flush()
    for kind, cost in carbon_otel.footprint().stages.items():
        print(f"{kind:<16} {cost.energy_j:8.2f} J {cost.emissions_g * 1000:8.3f} mg CO2e")


if __name__ == "__main__":
    main()
