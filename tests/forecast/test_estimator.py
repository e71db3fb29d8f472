"""Estimators: their time from small fits, on some that take a known time on a virtual clock, and on real ones."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import pytest

from carbon_otel.forecast.estimator import Power, family_of, forecast_of, law, time_of
from carbon_otel.forecast.place import site_of
from carbon_otel.forecast.records import Interval, Place

pytest.importorskip("sklearn")
from sklearn.base import BaseEstimator
from sklearn.ensemble import (
    GradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
)
from sklearn.linear_model import LogisticRegression, SGDRegressor
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

POWER = Power(Interval(90, 100, 110), "a meter", True)


class Virtual(BaseEstimator):
    """Its `fit` takes a time that a law says."""

    now_s = 0.0
    seen: ClassVar[list[tuple[int, float]]] = []

    def __init__(self, n_estimators=100, max_depth=None, n_jobs=None, random_state=None):
        self.n_estimators = n_estimators
        self.max_depth = max_depth
        self.n_jobs = n_jobs
        self.random_state = random_state

    def cost_s(self, rows):
        raise NotImplementedError

    def fit(self, features, target=None):
        self.fitted_ = True
        Virtual.seen.append((len(features), self.n_estimators))
        Virtual.now_s += self.cost_s(len(features))
        return self


class VirtualForest(Virtual):
    def cost_s(self, rows):
        return 0.01 + self.n_estimators * law("forest", rows, self.max_depth) * 2e-9


class VirtualGradientBoosting(Virtual):
    def cost_s(self, rows):
        return 0.02 + 2e-6 * rows + self.n_estimators * (1e-3 + 1e-7 * rows)


class VirtualQuadratic(Virtual):
    def cost_s(self, rows):
        return 0.001 + rows**2 * 1e-8


@pytest.fixture(autouse=True)
def clock():
    Virtual.now_s, Virtual.seen = 0.0, []


def timer(call):
    before = Virtual.now_s
    call()
    return Virtual.now_s - before


@pytest.mark.parametrize("rows", [1000, 20_000, 300_000, 5_000_000])
@pytest.mark.parametrize("depth", [None, 5, 12])
@pytest.mark.parametrize("kind", [VirtualForest, VirtualGradientBoosting])
def test_the_time_is_within_the_interval_and_10_per_cent(rows, depth, kind):
    estimator = kind(500, max_depth=depth)
    timing = time_of(estimator, range(rows), None, timer)
    whole = kind(500, max_depth=depth).cost_s(rows)
    print(f"{kind.__name__} {rows:>9} rows, depth {depth}: {timing.seconds.p50 / whole - 1:+.1%}")
    assert timing.seconds.p50 == pytest.approx(whole, rel=0.1)
    assert timing.seconds.p10 < whole < timing.seconds.p90
    assert timing.fit_s < max(2.5, 0.3 * whole)


@pytest.mark.parametrize("rows", [300, 7500, 100_000])
@pytest.mark.parametrize("trees", [1, 20, 100, 5000])
@pytest.mark.parametrize("kind", [VirtualForest, VirtualGradientBoosting, VirtualQuadratic])
def test_the_small_fits_last_long_enough_for_a_meter(kind, trees, rows):
    """More than a second, or about as long as the training itself: a power of 0.1 s is that of anything."""
    estimator = kind(trees)
    timing = time_of(estimator, range(rows), None, timer)
    assert timing.fit_s == pytest.approx(Virtual.now_s)
    assert timing.fit_s >= min(1.2, 0.9 * timing.seconds.p50)
    assert timing.fit_s < 2.5 + 0.3 * estimator.cost_s(rows)


def test_a_clock_that_stands_still_ends_the_repetitions():
    """As a coarse one does in a fit of some milliseconds."""
    assert 0 < time_of(VirtualQuadratic(), range(8000), None, lambda call: (call(), 0.0)[1]).fit_s < 1e-6
    assert len(Virtual.seen) < 100


def test_an_unknown_law_is_in_a_wide_interval():
    estimator = VirtualQuadratic()
    timing = time_of(estimator, range(8000), None, timer)
    whole = estimator.cost_s(8000)
    assert timing.family == "other"
    assert timing.seconds.p10 / 2 < whole < timing.seconds.p90 * 2 and timing.seconds.width > 3


def test_the_users_estimator_is_never_fitted():
    estimator = VirtualForest(50)
    time_of(estimator, range(5000), None, timer)
    assert not hasattr(estimator, "fitted_") and estimator.n_estimators == 50
    assert all(trees < 50 for _, trees in Virtual.seen)


def test_without_trees_to_leave_out_at_most_a_quarter_of_the_rows_is_fitted():
    time_of(VirtualQuadratic(), range(40_000), None, timer)
    assert max(rows for rows, _ in Virtual.seen) <= 10_000


def test_more_rows_trees_and_depth_never_take_less():
    def seconds(rows, trees, depth):
        return time_of(VirtualForest(trees, max_depth=depth), range(rows), None, timer).seconds.p50

    assert seconds(1000, 100, 5) < seconds(4000, 100, 5) < seconds(4000, 400, 5) < seconds(4000, 400, 10)


@pytest.mark.parametrize(
    ("estimator", "family"),
    [
        (RandomForestClassifier(), "forest"),
        (GradientBoostingClassifier(), "boosting"),
        (HistGradientBoostingRegressor(), "boosting"),
        (LogisticRegression(), "linear"),
        (SGDRegressor(), "linear"),
        (SVC(), "other"),
        (GaussianNB(), "other"),
        (make_pipeline(StandardScaler(), RandomForestClassifier()), "forest"),
    ],
)
def test_real_estimators_have_a_family_and_a_forecast(estimator, family):
    """The clock stands still but for the rows that a fit gets, so nothing depends on the machine."""
    generator = np.random.default_rng(0)
    features = generator.normal(size=(600, 5))
    target = features[:, 0] if "Regressor" in type(estimator).__name__ else np.repeat([0, 1, 2], 200)
    before = repr(estimator)

    def virtual(call):
        call()
        return 0.1

    timing = time_of(estimator, features, target, virtual)
    assert family_of(estimator) == timing.family == family
    assert 0 < timing.seconds.p10 <= timing.seconds.p50 <= timing.seconds.p90
    assert repr(estimator) == before
    last = estimator.steps[-1][1] if hasattr(estimator, "steps") else estimator
    assert not [name for name in vars(last) if name.endswith("_") and not name.startswith("_")]


def test_every_class_is_in_each_part():
    """The first rows have one class only, and one class has a single row."""
    target = np.array([0] * 900 + [1] * 99 + [2])
    seen = []

    class Classes(Virtual):
        def cost_s(self, rows):
            return 1e-3

        def fit(self, features, target=None):
            seen.append(set(target.tolist()))
            return super().fit(features)

    time_of(Classes(), np.zeros((1000, 2)), target, timer)
    assert seen and all(classes == {0, 1, 2} for classes in seen)


def test_the_numbers_that_the_program_draws_stay_the_same():
    features, target = np.random.default_rng(0).normal(size=(300, 4)), np.arange(300) % 2
    np.random.seed(1)
    expected = np.random.random()
    np.random.seed(1)
    time_of(RandomForestClassifier(20), features, target, lambda call: (call(), 0.1)[1])
    assert np.random.random() == expected


def test_frames_lists_and_sparse_matrices():
    pandas = pytest.importorskip("pandas")
    scipy = pytest.importorskip("scipy.sparse")
    dense, target = np.random.default_rng(0).normal(size=(500, 3)), np.arange(500) % 2
    for features, labels in (
        (pandas.DataFrame(dense, columns=list("abc")), pandas.Series(target)),
        (dense.tolist(), target.tolist()),
        (scipy.csr_matrix(dense), target),
        (scipy.coo_matrix(dense), target),
    ):
        timing = time_of(RandomForestClassifier(8), features, labels, lambda call: (call(), 0.1)[1])
        assert timing.rows == 500


def test_energy_and_carbon_of_a_fit():
    timing = time_of(VirtualForest(500), range(20_000), None, timer)
    forecast = forecast_of(timing, POWER, site_of(Place(intensity_g_per_kwh=50, pue=1.2)))
    kwh = timing.seconds.p50 * 100 / 3.6e6
    assert forecast.it_energy_kwh.p50 == pytest.approx(kwh)
    assert forecast.energy_kwh.p50 == pytest.approx(kwh * 1.2)
    assert forecast.emissions_kg.p50 == pytest.approx(kwh * 1.2 * 0.05)
    assert forecast.title == "VirtualForest, 20,000 rows, 500 trees"
    named = {each.name: each for each in forecast.assumptions}
    assert named["power"].source == "a meter" and named["power"].verified
    assert named["carbon intensity"].source == "given" and named["PUE"].value == 1.2
    assert forecast.water_l.p10 > 0
    width = math.log(forecast.it_energy_kwh.width)
    assert width == pytest.approx(math.hypot(math.log(timing.seconds.width), math.log(110 / 90)), rel=0.05)


@pytest.mark.parametrize("wrong", [object(), RandomForestClassifier])
def test_what_is_no_estimator_is_refused(wrong):
    with pytest.raises((TypeError, ValueError), match="needs fit, get_params"):
        time_of(wrong, range(10), None, timer)


def test_too_few_rows_are_refused():
    with pytest.raises(ValueError, match="X has 1 rows"):
        time_of(VirtualForest(), range(1), None, timer)
