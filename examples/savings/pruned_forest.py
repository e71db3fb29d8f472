"""A pruned forest against the full one: fewer and shallower trees, and what they save in inference.

pip install "carbon-otel[mlflow,sklearn]" && python examples/savings/pruned_forest.py
"""

from __future__ import annotations

from in_turn import begin, in_turn
from sklearn.datasets import make_classification
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import accuracy_score
from sklearn.model_selection import train_test_split

import carbon_otel


def main(repeats: int = 5, samples: int = 10_000, passes: int = 8) -> None:
    """Train both forests, let them predict in turn, and print the proof."""
    data = make_classification(samples, 20, n_informative=10, class_sep=1.5, random_state=0)
    train, test, train_labels, test_labels = train_test_split(*data, random_state=0)
    full = RandomForestClassifier(300, random_state=0).fit(train, train_labels)
    pruned = RandomForestClassifier(60, max_depth=12, random_state=0).fit(train, train_labels)

    def accuracy(forest: RandomForestClassifier) -> float:
        for _ in range(passes):
            labels = forest.predict(test)  # a stage of inference, without a line of ours
        return float(accuracy_score(test_labels, labels))

    begin("pruned forest")
    in_turn(repeats, full=lambda: accuracy(full), pruned=lambda: accuracy(pruned))
    print(carbon_otel.prove("full", "pruned", metric="accuracy", experiment="pruned forest"))


if __name__ == "__main__":
    main()
