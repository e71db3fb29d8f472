"""Only the outermost calls on scikit-learn estimators are stages. Nothing else about estimators changes."""

from __future__ import annotations

import copy
import inspect
import pickle
import subprocess
import sys

import numpy as np
import pytest
import sklearn
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.cluster import KMeans
from sklearn.datasets import make_classification
from sklearn.ensemble import RandomForestClassifier, VotingClassifier
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.svm import SVC

import carbon_otel
from carbon_otel.instrumentation import in_place
from tests.fakes.powercap import server

X, Y = make_classification(120, 6, random_state=0)
KINDS = {"fit", "partial_fit", "predict", "predict_proba", "score", "transform", "fit_transform"}


class Spans:
    def __init__(self, exporter: InMemorySpanExporter) -> None:
        self._exporter = exporter

    def __call__(self) -> list[tuple[str, str]]:
        """(kind, name) of the stages that have ended since the last call."""
        ended = [
            (s.attributes["carbon_otel.stage.kind"], s.name) for s in self._exporter.get_finished_spans()
        ]
        self._exporter.clear()
        return ended


@pytest.fixture
def stages(tmp_path):
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    carbon_otel.instrument(
        zone="FR", powercap_root=server(tmp_path).root, interval_s=30, tracer_provider=provider
    )
    yield Spans(exporter)
    carbon_otel.uninstrument()


def test_a_predictor(stages):
    model = LogisticRegression().fit(X, Y)
    model.predict(X)
    model.predict_proba(X)
    model.score(X, Y)
    assert stages() == [
        ("training", "LogisticRegression.fit"),
        ("inference", "LogisticRegression.predict"),
        ("inference", "LogisticRegression.predict_proba"),
        ("evaluation", "LogisticRegression.score"),
    ]


def test_a_transformer_prepares_data(stages):
    scaler = StandardScaler().fit(X)
    scaler.partial_fit(X)
    scaler.transform(X)
    StandardScaler().fit_transform(X)
    assert [kind for kind, _ in stages()] == ["data_processing"] * 4


def test_an_estimator_that_transforms_and_predicts_is_trained(stages):
    KMeans(2, n_init=1).fit(X)
    SGDClassifier().partial_fit(X, Y, classes=[0, 1])
    assert stages() == [("training", "KMeans.fit"), ("training", "SGDClassifier.partial_fit")]


@pytest.mark.parametrize("n_jobs", [None, 2])
def test_only_the_outermost_call_is_a_stage(stages, n_jobs):
    forest = RandomForestClassifier(8, n_jobs=n_jobs, random_state=0)
    make_pipeline(StandardScaler(), forest).fit(X, Y).predict_proba(X)
    GridSearchCV(LogisticRegression(), {"C": [0.1, 1]}, cv=2, n_jobs=n_jobs).fit(X, Y).score(X, Y)
    VotingClassifier([("a", LogisticRegression()), ("b", SVC())], n_jobs=n_jobs).fit(X, Y).predict(X)
    assert stages() == [
        ("training", "Pipeline.fit"),
        ("inference", "Pipeline.predict_proba"),
        ("training", "GridSearchCV.fit"),
        ("evaluation", "GridSearchCV.score"),
        ("training", "VotingClassifier.fit"),
        ("inference", "VotingClassifier.predict"),
    ]


def test_a_call_inside_a_lifecycle_stage_of_the_user_opens_no_stage(stages):
    with carbon_otel.stage("evaluation", "mine"):
        model = LogisticRegression().fit(X, Y)
    assert stages() == [("evaluation", "mine")]
    with carbon_otel.stage("experiment"):
        model.predict(X)
    assert [kind for kind, _ in stages()] == ["inference", "experiment"]


def test_methods_behind_available_if_exist_as_before_and_are_stages(stages):
    assert hasattr(SVC(probability=True), "predict_proba")
    assert not hasattr(SVC(), "predict_proba")
    assert not hasattr(make_pipeline(StandardScaler()), "predict")
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(X, Y)
    stages()
    assert (Pipeline.predict(model, X) == model.predict(X)).all()
    assert stages() == [("inference", "Pipeline.predict")] * 2
    with pytest.raises(AttributeError, match="transform"):
        model.transform(X)


def test_estimators_are_pickled_copied_and_cloned_as_before(stages):
    model = make_pipeline(StandardScaler(), RandomForestClassifier(5, random_state=0)).fit(X, Y)
    expected = model.predict(X)
    for copied in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model), clone(model).fit(X, Y)):
        assert (copied.predict(X) == expected).all()
    bound = pickle.loads(pickle.dumps(model.named_steps["randomforestclassifier"].predict))
    assert len(bound(X)) == len(X)
    assert pickle.loads(pickle.dumps(RandomForestClassifier.fit)) is RandomForestClassifier.fit
    carbon_otel.uninstrument()
    assert (model.predict(X) == expected).all()


CLASSES = (RandomForestClassifier, LogisticRegression, StandardScaler, KMeans, SVC, Pipeline, GridSearchCV)


def signatures_and_docstrings():
    return {
        (cls, method): (inspect.signature(getattr(cls, method)), getattr(cls, method).__doc__)
        for cls in CLASSES
        for method in KINDS
        if hasattr(cls, method)
    }


def own_methods():
    pending, methods = [BaseEstimator], {}
    while pending:
        cls = pending.pop()
        pending += cls.__subclasses__()
        for owner in cls.__mro__:
            methods |= {(owner, m): vars(owner)[m] for m in (*KINDS, "__init_subclass__") if m in vars(owner)}
    return methods


def test_methods_signatures_and_docstrings_stay_and_uninstrument_restores_the_code(tmp_path):
    signatures, methods = signatures_and_docstrings(), own_methods()
    code = in_place.innermost(LogisticRegression.fit).__code__
    carbon_otel.instrument(zone="FR", powercap_root=server(tmp_path).root)
    assert signatures_and_docstrings() == signatures and own_methods() == methods
    assert in_place.innermost(LogisticRegression.fit).__code__ is not code
    carbon_otel.uninstrument()
    assert in_place.innermost(LogisticRegression.fit).__code__ is code
    assert own_methods() == methods


def test_an_estimator_class_defined_later_is_instrumented(stages):
    class Majority(ClassifierMixin, BaseEstimator):
        def fit(self, X, y):  # noqa: N803 - scikit-learn's name
            self.classes_ = np.unique(y)
            return self

        def predict(self, X):  # noqa: N803 - scikit-learn's name
            return np.full(len(X), self.classes_[0])

    Majority().fit(X, Y).score(X, Y)
    assert stages() == [("training", "Majority.fit"), ("evaluation", "Majority.score")]


def test_metadata_routing_still_reads_the_signatures(stages):
    with sklearn.config_context(enable_metadata_routing=True):
        weighted = LogisticRegression().set_fit_request(sample_weight=True)
        make_pipeline(MinMaxScaler(), weighted).fit(X, Y, sample_weight=np.ones(len(Y)))
    assert stages() == [("training", "Pipeline.fit")]


def test_an_error_passes_through(tmp_path):
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    carbon_otel.instrument(zone="FR", powercap_root=server(tmp_path).root, tracer_provider=provider)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        LogisticRegression().fit(X, Y[:5])
    assert [span.status.status_code for span in exporter.get_finished_spans()] == [StatusCode.ERROR]


@pytest.mark.parametrize("first", ["import carbon_otel, sklearn.linear_model", "import carbon_otel"])
def test_sklearn_may_be_imported_before_or_after_instrument(first):
    program = f"""
{first}
carbon_otel.instrument(zone="FR")
from sklearn.linear_model import LogisticRegression
LogisticRegression().fit([[0], [1]], [0, 1])
print("training" in carbon_otel.footprint().stages)
carbon_otel.uninstrument()
import sys
print(any("carbon_otel" in type(finder).__module__ for finder in sys.meta_path))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "True\nFalse\n"
