"""MLflow's autologging, turned on before us and after us: the stages are the same, in the run that it begins."""

from __future__ import annotations

import importlib
from collections.abc import Callable

import numpy as np
import pytest

import carbon_otel
from carbon_otel.semconv import names as semconv

mlflow = pytest.importorskip("mlflow")

X = np.random.default_rng(0).random((20, 4)).astype("float32")


def keras(folder) -> Callable[[], object]:
    library = pytest.importorskip("keras")
    model = library.Sequential([library.layers.Input((4,)), library.layers.Dense(1)])
    model.compile(loss="mse")
    return lambda: model.fit(X, X[:, :1], epochs=2, verbose=0)


def transformers(folder) -> Callable[[], object]:
    library = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    config = library.GPT2Config(vocab_size=9, n_positions=8, n_embd=8, n_layer=1, n_head=2)
    ids = torch.arange(4)
    trainer = library.Trainer(
        model=library.GPT2LMHeadModel(config),
        args=library.TrainingArguments(
            output_dir=str(folder),
            num_train_epochs=2,
            save_strategy="no",
            use_cpu=True,
            disable_tqdm=True,
            report_to=["mlflow"],
        ),
        train_dataset=[{"input_ids": ids, "labels": ids}] * 4,
    )
    return trainer.train


def lightning(folder) -> Callable[[], object]:
    library = pytest.importorskip("lightning.pytorch")
    torch = pytest.importorskip("torch")

    class Module(library.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(4, 1)

        def training_step(self, batch, _):
            return self.layer(batch[0]).square().mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.01)

    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.tensor(X)), batch_size=10)
    trainer = library.Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    return lambda: trainer.fit(Module(), data)


def xgboost(folder) -> Callable[[], object]:
    library = pytest.importorskip("xgboost")
    data = library.DMatrix(X, X[:, 0])
    return lambda: library.train({}, data, 2)


# The flavour of MLflow, and the stages that end.
EPOCHS = ["epoch 1", "epoch 2"]
LIBRARIES = {
    keras: ("keras", [*EPOCHS, "Sequential.fit"]),
    transformers: ("transformers", [*EPOCHS, "Trainer.train"]),
    lightning: ("pytorch", [*EPOCHS, "Trainer.fit"]),
    xgboost: ("xgboost", ["xgboost.train"]),
}


@pytest.fixture
def store(tmp_path):
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    yield
    mlflow.set_tracking_uri(before)


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: library.__name__)
@pytest.mark.parametrize("first", ["autolog", "instrument"])
def test_the_stages_are_in_the_run_of_autologging(stages, store, tmp_path, library, first):
    flavour, expected = LIBRARIES[library]
    call = library(tmp_path / "work")
    autolog = importlib.import_module(f"mlflow.{flavour}").autolog
    if first == "autolog":
        carbon_otel.uninstrument()
    autolog(log_models=False)
    if first == "autolog":
        stages.begin()
    stages()
    try:
        call()
    finally:
        autolog(disable=True)
    ended = [each for each in stages.ended() if each.kind == "training"]
    assert [each.name for each in ended] == expected
    (run,) = mlflow.search_runs(output_format="list", search_all_experiments=True)
    assert run.info.status == "FINISHED"
    in_run = [each for each in ended if each.span.attributes.get(semconv.RUN_ID) == run.info.run_id]
    if library is not transformers:
        assert in_run == ended
        return
    # A callback of the trainer begins the run, in the stage of the training.
    assert [each.name for each in in_run] == EPOCHS
    units = {"epochs": 1, "steps": 1, "samples": 4, "tokens": 16}
    assert [dict(each.units) for each in in_run] == 2 * [units]
