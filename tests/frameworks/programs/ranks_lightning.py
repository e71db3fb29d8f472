"""Lightning, with the strategy `ddp` or `ddp_spawn`, by the way to train."""

import os

import lightning.pytorch as pl
import ranks
import torch
from torch.utils.data import DataLoader, TensorDataset

ranks.instrument()


class Module(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)

    def training_step(self, batch: list[torch.Tensor], _: int) -> torch.Tensor:
        return self.layer(batch[0]).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


if __name__ == "__main__":
    trainer = pl.Trainer(
        max_epochs=ranks.EPOCHS,
        accelerator="cpu",
        devices=2,
        strategy=ranks.way,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with ranks.run_of(int(os.environ.get("LOCAL_RANK", "0"))):
        trainer.fit(Module(), DataLoader(TensorDataset(torch.ones(ranks.ROWS, 4)), batch_size=ranks.BATCH))
