"""The Trainer of Transformers. Ways: `trainer`; `folds`, three trainings, each in a run of its own."""

import os
import time

import ranks
import torch

ranks.instrument()

from transformers import Trainer, TrainingArguments  # noqa: E402 - takes seconds, which are measured


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        if ranks.way == "folds":  # rank 0 takes longer for a training than for the end of its run
            time.sleep(0.2)
        return {"loss": self.layer(x).square().mean()}


arguments = TrainingArguments(
    str(ranks.FOLDER / "out"),
    num_train_epochs=ranks.EPOCHS,
    per_device_train_batch_size=ranks.BATCH,
    save_strategy="no",
    report_to=[],
    disable_tqdm=True,
    use_cpu=True,
    remove_unused_columns=False,
)
for _ in range(3 if ranks.way == "folds" else 1):
    trainer = Trainer(Model(), arguments, train_dataset=[{"x": torch.ones(4)} for _ in range(ranks.ROWS)])
    with ranks.run_of(int(os.environ["RANK"])):
        trainer.train()
torch.distributed.destroy_process_group()
