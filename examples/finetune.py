"""Fine-tuning of a small transformer with the Trainer of Hugging Face. No stage is written by hand.

    pip install torch transformers accelerate && python examples/finetune.py

`Trainer.train` is a stage with its epochs in it, `evaluate` another, `generate` a third. The model is made from
a configuration, so nothing is downloaded.
"""

from __future__ import annotations

import tempfile
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

import carbon_otel

WORDS = 64


class Counting(Dataset):
    """Texts in which each word follows from the one before."""

    def __init__(self, texts: int, length: int = 32) -> None:
        self._texts, self._length = texts, length

    def __len__(self) -> int:
        return self._texts

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        words = (torch.arange(self._length) + index) % WORDS
        return {"input_ids": words, "labels": words}


def trainer(folder: str, epochs: int = 2, texts: int = 128) -> Trainer:
    """A trainer of a model with two small layers."""
    config = GPT2Config(
        vocab_size=WORDS, n_positions=64, n_embd=64, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    )
    arguments: dict[str, Any] = {"per_device_train_batch_size": 16, "report_to": "none", "use_cpu": True}
    return Trainer(
        GPT2LMHeadModel(config),
        TrainingArguments(
            folder, num_train_epochs=epochs, learning_rate=1e-2, disable_tqdm=True, **arguments
        ),
        train_dataset=Counting(texts),
        eval_dataset=Counting(texts // 4),
    )


def main() -> None:
    """Train, evaluate and generate, and print what the stages have used."""
    carbon_otel.instrument(zone="FR")
    with tempfile.TemporaryDirectory() as folder:
        tuner = trainer(folder)
        tuner.train()
        print(f"loss {tuner.evaluate()['eval_loss']:.2f}")
        prompt = torch.arange(8)[None]
        words = tuner.model.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=16, pad_token_id=0
        )
        print(f"words {words[0].tolist()}")
    carbon_otel.flush()
    for kind, cost in carbon_otel.footprint().stages.items():
        print(f"{kind:<16} {cost.energy_j:8.2f} J {cost.emissions_g * 1000:8.3f} mg CO2e")


if __name__ == "__main__":
    main()
