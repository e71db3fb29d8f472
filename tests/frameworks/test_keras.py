"""Keras on PyTorch."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

import carbon_otel
from tests.frameworks import books

ROWS = 60
X = np.random.default_rng(0).random((ROWS, 4)).astype("float32")
Y = X[:, :1]


@pytest.fixture
def keras():
    pytest.importorskip("torch")
    return pytest.importorskip("keras")


@pytest.fixture
def model(keras):
    made = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(1)])
    made.compile(loss="mse", optimizer="sgd")
    return made


def names(stages) -> list[tuple[str, str, str | None]]:
    return [(each.kind, each.name, each.parent) for each in stages.ended()]


def test_a_training_has_epochs_and_an_epoch_has_its_validation(stages, model):
    history = model.fit(X, Y, epochs=2, batch_size=20, validation_split=0.5, verbose=0)
    model.evaluate(X, Y, verbose=0)
    model.predict(X, verbose=0)
    assert history.epoch == [0, 1]
    ended = books.check(stages)
    assert [(each.kind, each.name, each.parent) for each in ended] == [
        ("evaluation", "Sequential.evaluate", "epoch 1"),
        ("training", "epoch 1", "Sequential.fit"),
        ("evaluation", "Sequential.evaluate", "epoch 2"),
        ("training", "epoch 2", "Sequential.fit"),
        ("training", "Sequential.fit", None),
        ("evaluation", "Sequential.evaluate", None),
        ("inference", "Sequential.predict", None),
    ]
    assert [dict(each.units) for each in ended[4:]] == [
        {"epochs": 2, "steps": 4, "samples": ROWS},
        {"samples": ROWS},
        {"samples": ROWS},
    ]


def test_the_automatic_stages_have_what_manual_ones_around_the_lines_have(stages, model):
    with carbon_otel.stage("lines", "fit"):
        model.fit(X, Y, epochs=3, verbose=0)
    with carbon_otel.stage("lines", "evaluate"):
        model.evaluate(X, Y, verbose=0)
    ended = books.check(stages)
    assert [(each.name, each.parent) for each in ended if each.kind != "lines"][-2:] == [
        ("Sequential.fit", "fit"),
        ("Sequential.evaluate", "evaluate"),
    ]


def test_a_training_in_a_stage_of_the_user_opens_none_and_gives_its_units(stages, model):
    with carbon_otel.stage("training", "mine"):
        model.fit(X, Y, epochs=2, batch_size=30, validation_data=(X, Y), verbose=0)
    assert stages() == [("training", "mine", {"epochs": 2, "steps": 4, "samples": 2 * ROWS})]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_interrupted_training_ends_its_stages(stages, model, keras, error):
    class Raises(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                raise error("by the user")

    class RaisesInTheMidst(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            raise error("by the user")

    for callback in Raises(), RaisesInTheMidst():
        with pytest.raises(error, match="by the user"):
            model.fit(X, Y, epochs=3, verbose=0, callbacks=[callback])
    ended = stages.ended()
    assert [(each.kind, each.name, each.parent) for each in ended] == [
        ("training", "epoch 1", "Sequential.fit"),
        ("training", "epoch 2", "Sequential.fit"),
        ("training", "Sequential.fit", None),
        ("training", "epoch 1", "Sequential.fit"),
        ("training", "Sequential.fit", None),
    ]
    # Epochs count that are in the history, which learns of them after the callbacks of the user.
    done = {"epochs": 1, "steps": 2, "samples": ROWS}
    assert [each.units for each in ended if each.parent is None] == [done, {}]
    model.predict(X, verbose=0)
    assert names(stages) == [("inference", "Sequential.predict", None)]


def test_another_training_in_a_callback_is_part_of_the_epoch(stages, model, keras):
    other = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(1)])
    other.compile(loss="mse")

    class Distils(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            other.fit(X, Y, epochs=2, verbose=0)

    model.fit(X, Y, epochs=2, verbose=0, callbacks=[Distils()])
    assert names(stages) == [
        ("training", "epoch 1", "Sequential.fit"),
        ("training", "epoch 2", "Sequential.fit"),
        ("training", "Sequential.fit", None),
    ]


def test_a_subclass_with_its_own_steps_and_several_inputs(stages, keras):
    class Model(keras.Model):
        def train_step(self, *data):
            return super().train_step(*data)  # on JAX with its state

        def fit(self, *args, **kwargs):
            return super().fit(*args, **kwargs)

    first, second = keras.Input((4,)), keras.Input((4,))
    model = Model(inputs=[first, second], outputs=keras.layers.Dense(1)(first + second))
    model.compile(loss="mse")
    model.fit([X, X], Y, epochs=1, steps_per_epoch=1, batch_size=8, verbose=0)
    assert stages()[1:] == [("training", "Model.fit", {"epochs": 1, "steps": 1, "samples": 8})]


def test_batches_of_a_generator_are_left_to_the_training(stages, model):
    taken = []

    def batches():
        for _ in range(6):
            taken.append(0)
            yield X[:10], Y[:10]

    model.fit(batches(), epochs=1, steps_per_epoch=3, verbose=0)
    assert stages()[1:] == [("training", "Sequential.fit", {"epochs": 1, "steps": 3})]
    assert len(taken) <= 4  # Keras itself looks at the first


def test_the_batches_of_a_loader_of_pytorch_are_counted(stages, model):
    torch = pytest.importorskip("torch")
    data = torch.utils.data.TensorDataset(torch.ones(50, 4), torch.ones(50, 1))
    loader = torch.utils.data.DataLoader(data, batch_size=20)
    model.fit(loader, epochs=2, verbose=0)
    model.fit(loader, epochs=1, steps_per_epoch=2, verbose=0)
    model.evaluate(loader, verbose=0)
    ended = [units for _, name, units in stages() if not name.startswith("epoch")]
    assert ended == [
        {"epochs": 2, "steps": 6, "samples": 100},
        {"epochs": 1, "steps": 2, "samples": 40},
        {"samples": 50},
    ]


def test_the_list_of_callbacks_stays_as_it_is_and_the_model_pickles(stages, model, keras):
    mine = [keras.callbacks.TerminateOnNaN()]
    model.fit(X, Y, verbose=0, callbacks=mine)
    assert len(mine) == 1
    copy = pickle.loads(pickle.dumps(model))
    copy.fit(X, Y, verbose=0)
    assert [each.name for each in stages.ended()] == 2 * ["epoch 1", "Sequential.fit"]


def test_nothing_is_measured_after_the_end(stages, model):
    carbon_otel.uninstrument()
    model.fit(X, Y, verbose=0)
    assert stages() == []
