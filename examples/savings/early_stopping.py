"""A training that stops when its validation score no longer improves, against all its epochs.

pip install "carbon-otel[mlflow,sklearn]" && python examples/savings/early_stopping.py
"""

from __future__ import annotations

from in_turn import begin, in_turn
from sklearn.datasets import make_classification
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

import carbon_otel


def main(repeats: int = 4, samples: int = 8_000, epochs: int = 150) -> None:
    """Train in turn, and print the proof: a training is one unit of work."""
    data = make_classification(samples, 20, n_informative=10, class_sep=1.5, random_state=0)
    train, test, train_labels, test_labels = train_test_split(*data, random_state=0)

    def accuracy(*, stops: bool) -> float:
        patience = 10 if stops else epochs
        model = MLPClassifier(
            (64,), max_iter=epochs, early_stopping=stops, n_iter_no_change=patience, random_state=0
        )
        return float(model.fit(train, train_labels).score(test, test_labels))

    begin("early stopping")
    in_turn(repeats, all_epochs=lambda: accuracy(stops=False), stopped=lambda: accuracy(stops=True))
    proof = carbon_otel.prove(
        "all_epochs", "stopped", metric="accuracy", stage="training", experiment="early stopping"
    )
    print(proof)


if __name__ == "__main__":
    main()
