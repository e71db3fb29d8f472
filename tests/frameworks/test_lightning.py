"""Lightning, in both of its packages."""

from __future__ import annotations

import importlib
import pickle
import warnings

import pytest

import carbon_otel
from tests.frameworks import books

torch = pytest.importorskip("torch")
ROWS = 10


@pytest.fixture(params=["lightning.pytorch", "pytorch_lightning"])
def lightning(request, monkeypatch):
    pytest.importorskip(request.param)
    warnings.simplefilter("ignore")
    return importlib.import_module(request.param)


@pytest.fixture
def module(lightning):
    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(4, 1)

        def training_step(self, batch, _):
            return self.layer(batch[0]).square().mean()

        def validation_step(self, batch, _, dataloader_idx=0):
            self.log("loss", self.layer(batch[0]).square().mean())

        test_step = validation_step

        def predict_step(self, batch, _):
            return self.layer(batch[0])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.01)

    return Module()


def loader(rows: int = ROWS):
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.ones(rows, 4)), batch_size=4)


def trainer(lightning, **arguments):
    settings = {
        "max_epochs": 2,
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        **arguments,
    }
    return lightning.Trainer(**settings)


def outline(stages) -> list[tuple[str, str, str | None]]:
    return [(each.kind, each.name, each.parent) for each in stages.ended()]


def test_a_fit_its_epochs_and_its_validations(stages, lightning, module):
    made = trainer(lightning, num_sanity_val_steps=1)
    made.fit(module, loader(), loader(6))
    made.validate(module, loader(6), verbose=False)
    made.test(module, [loader(6), loader(3)], verbose=False)
    made.predict(module, loader(5))
    ended = books.check(stages)
    assert [(each.kind, each.name, each.parent, dict(each.units)) for each in ended] == [
        ("evaluation", "validation", "Trainer.fit", {"samples": 4}),  # before the first epoch
        ("evaluation", "validation", "epoch 1", {"samples": 6}),
        ("training", "epoch 1", "Trainer.fit", {}),
        ("evaluation", "validation", "epoch 2", {"samples": 6}),
        ("training", "epoch 2", "Trainer.fit", {}),
        ("training", "Trainer.fit", None, {"epochs": 2, "steps": 6, "batches": 6, "samples": 2 * ROWS}),
        ("evaluation", "Trainer.validate", None, {"samples": 6}),
        ("evaluation", "Trainer.test", None, {"samples": 9}),
        ("inference", "Trainer.predict", None, {"samples": 5}),
    ]


def test_a_second_fit_and_a_checkpoint_count_their_own_part(stages, lightning, module, tmp_path):
    made = trainer(lightning)
    made.fit(module, loader())
    made.save_checkpoint(tmp_path / "saved")
    made.fit_loop.max_epochs = 3
    made.fit(module, loader())
    trainer(lightning, max_epochs=5).fit(module, loader(), ckpt_path=tmp_path / "saved")
    fits = [(name, units.get("epochs"), units.get("steps")) for _, name, units in stages()]
    assert fits == [
        ("epoch 1", None, None),
        ("epoch 2", None, None),
        ("Trainer.fit", 2, 6),
        ("epoch 3", None, None),
        ("Trainer.fit", 1, 3),
        ("epoch 3", None, None),
        ("epoch 4", None, None),
        ("epoch 5", None, None),
        ("Trainer.fit", 3, 9),
    ]


def test_the_automatic_stages_have_what_manual_ones_around_the_lines_have(stages, lightning, module):
    made = trainer(lightning)
    with carbon_otel.stage("lines", "fit"):
        made.fit(module, loader())
    with carbon_otel.stage("lines", "test"):
        made.test(module, loader(), verbose=False)
    ended = books.check(stages)
    assert [(each.name, each.parent) for each in ended if each.kind != "lines"][2:] == [
        ("Trainer.fit", "fit"),
        ("Trainer.test", "test"),
    ]


def test_a_stage_of_the_user_has_the_units(stages, lightning, module):
    with carbon_otel.stage("training", "mine"):
        trainer(lightning).fit(module, loader(), loader())
    assert stages() == [("training", "mine", {"epochs": 2, "steps": 6, "batches": 6, "samples": 2 * ROWS})]


@pytest.mark.parametrize(
    ("error", "arrives"), [(KeyboardInterrupt, SystemExit), (ValueError, ValueError)], ids=["ctrl-c", "error"]
)
@pytest.mark.parametrize("event", ["on_train_epoch_end", "on_train_batch_end", "on_validation_end"])
def test_an_interrupted_fit_ends_its_stages(stages, lightning, module, event, error, arrives):
    def interrupt(*_: object) -> None:
        raise error("by the user")

    callback = type("Raises", (lightning.Callback,), {event: interrupt})()
    with pytest.raises(arrives):
        trainer(lightning, callbacks=[callback]).fit(module, loader(), loader())
    ended = stages()
    assert [each[:2] for each in ended[-2:]] == [("training", "epoch 1"), ("training", "Trainer.fit")]
    assert ended[-1][2]["steps"] == (1 if event == "on_train_batch_end" else 3)
    trainer(lightning).predict(module, loader())
    assert outline(stages) == [("inference", "Trainer.predict", None)]


def test_a_subclass_and_the_list_of_callbacks(stages, lightning, module):
    class Mine(lightning.Trainer):
        def fit(self, *args, **kwargs):
            super().fit(*args, **kwargs)

    made = Mine(max_epochs=1, accelerator="cpu", logger=False, enable_progress_bar=False)
    before = list(made.callbacks)
    made.fit(module, loader())
    assert made.callbacks == before
    pickle.dumps(made.fit_loop.epoch_progress)
    assert [each.name for each in stages.ended()] == ["epoch 1", "Mine.fit"]


class Loader:
    """A loader of the user, which does not tell its size."""

    def __iter__(self):
        return iter([[torch.ones(2, 4)]] * 3)


def test_a_loader_of_the_user_is_not_asked(stages, lightning, module):
    trainer(lightning, max_epochs=1).fit(module, Loader())
    assert stages()[-1] == ("training", "Trainer.fit", {"epochs": 1, "steps": 3, "batches": 3})
