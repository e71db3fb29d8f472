"""A notebook with classes of its own works with `instrument()` as without, up to the models that it logs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import carbon_otel

ROOT = Path(carbon_otel.__file__).parents[1]
NOTEBOOK = """
import sys
if "measured" in sys.argv:
    import carbon_otel
    carbon_otel.instrument(zone="FR", interval_s=30)
import cloudpickle, mlflow
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.datasets import make_classification
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline

X, y = make_classification(120, 6, random_state=0)
FACTOR = 2

class Scale(TransformerMixin, BaseEstimator):
    def __init__(self, power=1):
        self.power = power

    def fit(self, X, y=None):
        self.n_ = X.shape[1]
        return self

    def transform(self, X):
        return X ** self.power * FACTOR

    def get_feature_names_out(self, names=None):
        return [f"x{n}" for n in range(self.n_)]

model = make_pipeline(Scale(), LogisticRegression())
search = GridSearchCV(model, {"scale__power": [1, 3]}, cv=2, n_jobs=2).fit(X, y)
print(round(search.best_score_, 6))
print([round(score, 6) for score in cross_val_score(model, X, y, cv=2, n_jobs=2)])
print(search.best_estimator_.set_output(transform="pandas")[0].transform(X[:1]).columns[0])
mlflow.set_tracking_uri("sqlite:///store.db")
with mlflow.start_run():
    mlflow.sklearn.log_model(
        model.fit(X, y), name="model", serialization_format="cloudpickle", pip_requirements=["none"]
    )
mlflow.sklearn.autolog(serialization_format="cloudpickle")
model.fit(X, y)
print([len(run.outputs.model_outputs) for run in mlflow.search_runs(output_format="list")])
with open("model.pkl", "wb") as file:
    cloudpickle.dump(search.best_estimator_, file)
"""

LOAD = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "carbon_otel":
            raise ImportError("not installed: " + name)
sys.meta_path.insert(0, Block())
import cloudpickle, inspect
import numpy as np
model = cloudpickle.load(open("model.pkl", "rb"))
print(model.predict(np.ones((2, 6))).tolist(), model[0].set_output(transform="default").transform(np.ones((1, 1))))
print(inspect.signature(type(model[0]).fit), inspect.signature(type(model[0]).transform))
"""


def run(program: str, folder: Path, *arguments: str) -> str:
    (folder / "notebook.py").write_text(program)
    done = subprocess.run(
        [sys.executable, "notebook.py", *arguments],
        cwd=folder,
        # MLflow would load the model in a process of its own, to see what that imports.
        env={**os.environ, "PYTHONPATH": str(ROOT), "MLFLOW_REQUIREMENTS_INFERENCE_TIMEOUT": "1"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_transformer_of_a_script_is_searched_logged_and_loaded_as_without_us(tmp_path):
    outputs = []
    for argument in ("measured", "not"):
        folder = tmp_path / argument
        folder.mkdir()
        outputs.append(run(NOTEBOOK, folder, argument) + run(LOAD, folder))
    assert outputs[0] == outputs[1] and "[1, 1]" in outputs[1]
