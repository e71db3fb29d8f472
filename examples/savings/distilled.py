"""A small network that a large forest has taught, against that forest, with the payback of teaching it.

pip install "carbon-otel[mlflow,sklearn]" && python examples/savings/distilled.py
"""

from __future__ import annotations

import mlflow
from in_turn import begin, in_turn
from sklearn.datasets import make_classification
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import accuracy_score
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

import carbon_otel


def main(repeats: int = 5, samples: int = 10_000, passes: int = 8) -> None:
    """Teach the student, let both predict in turn, and print the proof."""
    data = make_classification(samples, 20, n_informative=10, class_sep=1.5, random_state=0)
    train, test, train_labels, test_labels = train_test_split(*data, random_state=0)
    teacher = RandomForestClassifier(300, random_state=0).fit(train, train_labels)
    student = MLPClassifier((32,), max_iter=60, random_state=0)

    def accuracy(model: RandomForestClassifier | MLPClassifier, times: int) -> float:
        for _ in range(times):
            labels = model.predict(test)  # a stage of inference, without a line of ours
        return float(accuracy_score(test_labels, labels))

    begin("distilled")
    with mlflow.start_run(run_name="distillation"):
        student.fit(train, teacher.predict(train))
    # The student is so fast that only many passes can be measured; the energy is per sample.
    in_turn(
        repeats, teacher=lambda: accuracy(teacher, passes), student=lambda: accuracy(student, 100 * passes)
    )
    print(
        carbon_otel.prove(
            "teacher", "student", metric="accuracy", one_off=["distillation"], experiment="distilled"
        )
    )


if __name__ == "__main__":
    main()
