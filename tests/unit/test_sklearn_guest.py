"""A program with estimators of its own behaves with `instrument()` as without."""

from __future__ import annotations

import copy
import functools
import gc
import inspect
import pickle
import traceback
import warnings
import weakref
from pathlib import Path
from unittest import mock

import cloudpickle
import joblib
import numpy as np
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from sklearn import model_selection
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin, clone
from sklearn.cluster import KMeans
from sklearn.datasets import make_classification
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest, RandomForestClassifier
from sklearn.inspection import permutation_importance
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import (
    GridSearchCV,
    StratifiedKFold,
    cross_val_predict,
    cross_val_score,
    cross_validate,
    learning_curve,
    permutation_test_score,
    validation_curve,
)
from sklearn.neighbors import KernelDensity, NearestNeighbors
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.metaestimators import available_if
from sklearn.utils.parallel import Parallel, delayed

import carbon_otel
from tests.fakes.drawing import Drawing
from tests.fakes.powercap import server

X, Y = make_classification(120, 6, random_state=0)


class Session:
    """Measures with 50 W, and tells of the stages that have ended since the last question: (kind, name)."""

    def __init__(self, folder: Path) -> None:
        self._exporter = InMemorySpanExporter()
        self._provider = TracerProvider(shutdown_on_exit=False)
        self._provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self._root = server(folder).root

    def start(self) -> None:
        carbon_otel.instrument(
            zone="FR", powercap_root=self._root, interval_s=30, tracer_provider=self._provider
        )

    def __call__(self) -> list[tuple[str, str]]:
        spans = self._exporter.get_finished_spans()
        self._exporter.clear()
        return [(span.attributes["carbon_otel.stage.kind"], span.name) for span in spans]


@pytest.fixture
def session(tmp_path):
    return Session(tmp_path)


@pytest.fixture
def stages(session):
    session.start()
    return session


# Classes of a script.


def by_value(cls: type) -> type:
    """A class like `cls`, of a script."""
    cls.__module__ = "__main__"
    cls.__qualname__ = cls.__name__
    return cls


def transformers():
    class Shift(TransformerMixin, BaseEstimator):
        def fit(self, X, y=None):  # noqa: N803 - scikit-learn's name
            return self

        def transform(self, X):  # noqa: N803
            return X + 1

        @available_if(lambda self: True)
        def predict(self, X):  # noqa: N803
            return X.sum(axis=1)

    return by_value(Shift)


@pytest.mark.parametrize("defined", ["before", "after"])
def test_a_class_loaded_by_value_is_measured_again(session, defined):
    cls = transformers() if defined == "before" else None
    session.start()
    cls = cls or transformers()
    data = cloudpickle.dumps(cls())
    assert b"carbon_otel.instrumentation" not in data
    cls().transform(X)
    assert session() == [("data_processing", "Shift.transform")]
    # Another process gets a class of its own.
    with mock.patch.dict(cloudpickle.cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID, clear=True):
        loaded = cloudpickle.loads(data)
    assert type(loaded) is not cls
    assert (loaded.fit(X).transform(X) == X + 1).all() and len(loaded.predict(X)) == len(X)
    assert session() == [
        ("training", "Shift.fit"),
        ("data_processing", "Shift.transform"),
        ("inference", "Shift.predict"),
    ]
    carbon_otel.uninstrument()
    assert (loaded.transform(X) == X + 1).all() and session() == []
    assert loaded.transform.__func__.__code__.co_varnames[:2] == ("self", "X")


class ByReference(TransformerMixin, BaseEstimator):
    def fit(self, X, y=None):  # noqa: N803
        return self

    def transform(self, X):  # noqa: N803
        return X + 1


def test_pickles_copies_and_clones_are_the_same_bytes(session, tmp_path):
    estimator, bound = ByReference(), ByReference().transform

    def forms():
        joblib.dump(estimator, tmp_path / "model")
        return (
            pickle.dumps(estimator),
            pickle.dumps(ByReference.fit),
            cloudpickle.dumps(bound),
            joblib.hash(bound),
            (tmp_path / "model").read_bytes(),
            type(copy.deepcopy(estimator)),
            type(clone(estimator)),
            inspect.getsource(ByReference.transform),
            inspect.signature(ByReference.transform),
        )

    before = forms()
    session.start()
    assert forms() == before
    assert bound is not None and session() == []
    bound(X)
    assert session() == [("data_processing", "ByReference.transform")]


# Cross-validation.

CALLS = {
    "cross_val_score": lambda model, jobs: cross_val_score(model, X, Y, cv=2, n_jobs=jobs),
    "cross_validate": lambda model, jobs: cross_validate(model, X, Y, cv=2, n_jobs=jobs),
    "cross_val_predict": lambda model, jobs: cross_val_predict(model, X, Y, cv=2, n_jobs=jobs),
    "learning_curve": lambda model, jobs: learning_curve(
        model, X, Y, cv=2, train_sizes=[0.5, 1.0], n_jobs=jobs
    ),
    "validation_curve": lambda model, jobs: validation_curve(
        model, X, Y, param_name="C", param_range=[1, 2], cv=2, n_jobs=jobs
    ),
    "permutation_test_score": lambda model, jobs: permutation_test_score(
        model, X, Y, cv=2, n_permutations=3, n_jobs=jobs
    ),
}


@pytest.mark.parametrize("jobs", [None, 2])
@pytest.mark.parametrize("name", CALLS)
def test_a_cross_validation_is_one_stage_of_training(stages, name, jobs):
    """Also where the function was imported by name before `instrument()`, as here, and with threads."""
    with joblib.parallel_config("threading"):
        CALLS[name](LogisticRegression(), jobs)
    assert stages() == [("training", name)]
    with carbon_otel.stage("evaluation", "mine"):
        CALLS[name](LogisticRegression(), jobs)
    assert stages() == [("evaluation", "mine")]


def test_permutation_importance_is_an_evaluation(stages):
    model = LogisticRegression().fit(X, Y)
    stages()
    permutation_importance(model, X, Y, n_repeats=2)
    assert stages() == [("evaluation", "permutation_importance")]


class Slow(ClassifierMixin, BaseEstimator):
    def fit(self, X, y):  # noqa: N803
        import time

        time.sleep(0.3)
        self.classes_ = np.unique(y)
        return self

    def predict(self, X):  # noqa: N803
        return np.full(len(X), self.classes_[0])


def test_the_folds_of_a_cross_validation_are_training_as_in_a_written_loop(tmp_path):
    def joules(work) -> float:
        before = trained()
        work()
        return trained() - before

    def trained() -> float:
        cost = carbon_otel.footprint().stages.get("training")
        return cost.energy_j if cost else 0.0

    def loop():
        for train, _ in StratifiedKFold(3).split(X, Y):
            Slow().fit(X[train], Y[train])

    least_j = 3 * 0.3 * 50 * 0.9  # the sleeps at 50 W; the last tenth leaves room for extrapolated edges
    with Drawing(server(tmp_path), zones=1, watts=50) as drawing:
        carbon_otel.instrument(zone="FR", powercap_root=drawing.root)
        assert joules(loop) > least_j
        for jobs in (None, 2):
            assert joules(lambda jobs=jobs: cross_val_score(Slow(), X, Y, cv=3, n_jobs=jobs)) > least_j / (
                jobs or 1
            )
        carbon_otel.uninstrument()


def test_fits_in_a_parallel_of_the_user_are_stages(stages):
    """In threads, and in the calling thread."""
    for jobs in (None, 2):
        with joblib.parallel_config("threading"):
            Parallel(n_jobs=jobs)(delayed(LogisticRegression().fit)(X, Y) for _ in range(3))
        assert stages() == [("training", "LogisticRegression.fit")] * 3
        joblib.Parallel(n_jobs=jobs, backend="threading")(
            joblib.delayed(LogisticRegression().fit)(X, Y) for _ in range(3)
        )
        assert stages() == [("training", "LogisticRegression.fit")] * 3


def test_all_tasks_of_a_parallel_belong_to_the_stage_of_the_call(stages):
    """joblib starts later tasks, and asks for them, in its own threads."""

    def task(number):
        with carbon_otel.stage("task"):
            return number

    def tasks():
        for number in range(40):
            with carbon_otel.stage("preparing"):
                pass
            yield joblib.delayed(task)(number)

    exporter = stages._exporter
    with carbon_otel.stage("work"):
        joblib.Parallel(n_jobs=2, backend="threading", pre_dispatch=2, batch_size=1)(tasks())
    spans = {span.context.span_id: span for span in exporter.get_finished_spans()}
    names = [span.name for span in spans.values()]
    assert names.count("task") == names.count("preparing") == 40
    parents = {spans[span.parent.span_id].name for span in spans.values() if span.name != "work"}
    assert parents == {"work"}


def test_the_threads_of_a_forest_open_no_stage(stages):
    forest = RandomForestClassifier(40, n_jobs=2, random_state=0)
    with joblib.parallel_config("threading"):
        GridSearchCV(forest, {"max_depth": [1, 2]}, cv=2, n_jobs=2).fit(X, Y).predict_proba(X)
    assert stages() == [("training", "GridSearchCV.fit"), ("inference", "GridSearchCV.predict_proba")]


# The table.


def test_further_methods(stages):
    scaled = PCA(2).fit_transform(X)
    PCA(2).fit(X).inverse_transform(scaled)
    NearestNeighbors().fit(X).kneighbors(X)
    IsolationForest(n_estimators=3).fit(X).score_samples(X)
    model = LogisticRegression().fit(X, Y)
    model.decision_function(X)
    model.predict_log_proba(X)
    KMeans(2, n_init=1).fit_predict(X)
    KernelDensity().fit(X).score_samples(X)
    assert [stage for stage in stages() if not stage[1].endswith(".fit")] == [
        ("data_processing", "PCA.fit_transform"),
        ("data_processing", "PCA.inverse_transform"),
        ("inference", "NearestNeighbors.kneighbors"),
        ("inference", "IsolationForest.score_samples"),
        ("inference", "LogisticRegression.decision_function"),
        ("inference", "LogisticRegression.predict_log_proba"),
        ("training", "KMeans.fit_predict"),
        ("inference", "KernelDensity.score_samples"),
    ]


@pytest.mark.parametrize(
    ("estimator", "kind"),
    [
        (make_pipeline(StandardScaler(), PCA(2)), "data_processing"),
        (make_pipeline(StandardScaler(), "passthrough"), "data_processing"),
        (make_pipeline(StandardScaler(), make_pipeline(PCA(2))), "data_processing"),
        (FeatureUnion([("pca", PCA(2))]), "data_processing"),
        (make_pipeline(StandardScaler(), LogisticRegression()), "training"),
        (make_pipeline(StandardScaler(), KMeans(2, n_init=1)), "training"),
        (make_pipeline(StandardScaler(), make_pipeline(LogisticRegression())), "training"),
        (GridSearchCV(LogisticRegression(), {"C": [1]}, cv=2), "training"),
        (GridSearchCV(PCA(), {"n_components": [1]}, cv=2), "data_processing"),
        (GridSearchCV(KernelDensity(), {"bandwidth": [1.0]}, cv=2), "training"),
    ],
)
def test_the_kind_of_a_fit_is_that_of_the_last_part(stages, estimator, kind):
    estimator.fit(X, Y)
    assert [stage[0] for stage in stages()] == [kind]


# Objects that must not be touched.


class Refuses:
    """Data that refuses everything but to be passed on."""

    def _refuse(self, *_):
        raise AssertionError("touched")

    __len__ = __bool__ = __iter__ = __eq__ = __hash__ = __getattr__ = __repr__ = __str__ = _refuse
    __getitem__ = __contains__ = __call__ = __index__ = __float__ = __lt__ = __format__ = __array__ = _refuse


class Meta(type):
    """A metaclass that refuses as well, once its class is made."""

    def _refuse(cls, *_):
        raise AssertionError("touched")

    __eq__ = __bool__ = __len__ = __iter__ = __hash__ = __repr__ = __instancecheck__ = _refuse

    @property
    def __name__(cls):
        raise AssertionError("touched")


def hostile():
    touched = []

    class Hostile(BaseEstimator, metaclass=Meta):
        __class__ = property(lambda self: touched.append("class") or dict)

        def __getattribute__(self, name):
            touched.append(name)
            return object.__getattribute__(self, name)

        def __getattr__(self, name):
            touched.append(name)
            raise AttributeError(name)

        def __bool__(self):
            raise AssertionError("touched")

        __len__ = __hash__ = __eq__ = __iter__ = __repr__ = __bool__

        @property
        def transform(self):
            raise AssertionError("touched")

        def fit(self, X, y=None):  # noqa: N803
            return touched

        def predict(self, X):  # noqa: N803
            return X

        def score(self, X, y):  # noqa: N803
            raise LookupError("of the user")

    return Hostile, touched


@pytest.mark.parametrize("defined", ["before", "after"])
def test_no_object_of_the_user_is_touched(session, defined, caplog):
    made = hostile() if defined == "before" else None
    session.start()
    cls, touched = made or hostile()
    estimator, data = cls(), Refuses()
    touched.clear()
    assert type.__getattribute__(cls, "__dict__")["fit"](estimator, data, data) is touched
    assert estimator.predict(data) is data
    with pytest.raises(LookupError, match="of the user"):
        estimator.score(data, data)
    assert touched == ["predict", "score"]
    assert session() == [
        ("training", "Hostile.fit"),
        ("inference", "Hostile.predict"),
        ("evaluation", "Hostile.score"),
    ]
    assert not caplog.records


def test_a_class_with_a_long_name_is_measured(stages):
    long = type("L" * 300, (LogisticRegression,), {})
    long().fit(X, Y)
    assert [(kind, len(name)) for kind, name in stages()] == [("training", 250)]


def test_a_class_with_an_init_subclass_of_its_own(stages):
    class Registers:
        classes = ()

        def __init_subclass__(cls, *, key, **kwargs):
            super().__init_subclass__(**kwargs)
            method = cls.fit
            cls.fit = functools.wraps(method)(lambda self, *args: method(self, *args))
            Registers.classes += ((key, cls),)

    class Keyed(Registers, LogisticRegression, key="k"):
        def fit(self, X, y):  # noqa: N803
            return super().fit(X, y)

    Keyed().fit(X, Y)
    assert Registers.classes == (("k", Keyed),)
    assert stages() == [("training", "Keyed.fit")]
    with pytest.raises(TypeError) as caught:

        class Wrong(BaseEstimator, unknown=1):
            pass

    assert "unknown" in str(caught.value) or "keyword" in str(caught.value)


def test_a_class_that_is_gone_is_forgotten(stages):
    class Cell(TransformerMixin, BaseEstimator):
        def fit(self, X, y=None):  # noqa: N803
            return self

        def transform(self, X):  # noqa: N803
            return X

    Cell().fit(X).transform(X)
    gone = weakref.ref(Cell)
    del Cell
    gc.collect()
    assert gone() is None


class Warns(BaseEstimator):
    def fit(self, X, y=None):  # noqa: N803
        warnings.warn("of the caller", FutureWarning, stacklevel=2)
        raise ZeroDivisionError("of the user")


def test_warnings_and_tracebacks_are_as_without_us(session):
    def outcome():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                Warns().fit(X)
            except ZeroDivisionError as error:
                lines = traceback.format_exception(error)
        ours = [line for line in lines if "<carbon_otel" in line]
        return (
            [(w.filename, w.lineno) for w in caught],
            [line for line in lines if line not in ours],
            len(ours),
        )

    outcomes = []
    for start in (lambda: None, session.start):
        start()
        outcomes.append(outcome())
    assert outcomes[0][:2] == outcomes[1][:2] and outcomes[1][2] == 1


def test_autospec_and_patches_of_a_test_suite(stages):
    double = mock.create_autospec(LogisticRegression, instance=True)
    double.fit(X, Y)
    with pytest.raises(TypeError):
        double.fit()
    with mock.patch.object(LogisticRegression, "fit", autospec=True) as fit:
        LogisticRegression().fit(X, Y)
    assert fit.called and stages() == []
    with mock.patch.object(model_selection, "cross_val_score") as replaced:
        model_selection.cross_val_score(1)
    assert replaced.called


def test_a_subclass_that_calls_its_parent_is_one_stage(stages):
    class Loud(RandomForestClassifier):
        def fit(self, X, y, sample_weight=None):  # noqa: N803
            return super().fit(X, y, sample_weight=sample_weight)

    Loud(3).fit(X, Y).predict(X)
    assert stages() == [("training", "Loud.fit"), ("inference", "Loud.predict")]
