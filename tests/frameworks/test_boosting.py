"""XGBoost, LightGBM and CatBoost: native and scikit-learn interfaces."""

from __future__ import annotations

import numpy as np
import pytest

import carbon_otel

ROWS = 300
X = np.random.default_rng(0).random((ROWS, 4))
Y = (X[:, 0] > 0.5).astype(int)
SAMPLES = {"samples": ROWS}


def rounds(number: int) -> dict[str, float]:
    return {"rounds": number, "samples": ROWS}


class TestXGBoost:
    def test_the_native_interface(self, stages):
        xgboost = pytest.importorskip("xgboost")
        data = xgboost.DMatrix(X, Y)
        booster = xgboost.train({}, data, 3)
        booster.predict(data)
        booster.inplace_predict(X)
        xgboost.cv({}, data, 2, nfold=3, as_pandas=False)
        xgboost.cv({}, data, 2, nfold=3)
        xgboost.QuantileDMatrix(X, Y)
        assert stages() == [
            ("data_processing", "DMatrix", SAMPLES),
            ("training", "xgboost.train", rounds(3)),
            ("inference", "Booster.predict", SAMPLES),
            ("inference", "Booster.inplace_predict", SAMPLES),
            ("training", "xgboost.cv", rounds(2)),
            ("training", "xgboost.cv", rounds(2)),
            ("data_processing", "QuantileDMatrix", SAMPLES),
        ]

    def test_the_estimators(self, stages):
        xgboost = pytest.importorskip("xgboost")
        model = xgboost.XGBClassifier(n_estimators=4).fit(X, Y)
        model.predict(X)
        model.score(X, Y)
        assert stages() == [
            ("training", "XGBClassifier.fit", rounds(4)),
            ("inference", "XGBClassifier.predict", SAMPLES),
            ("evaluation", "XGBClassifier.score", SAMPLES),
        ]

    def test_a_training_that_goes_on_counts_its_own_rounds(self, stages):
        xgboost = pytest.importorskip("xgboost")
        data = xgboost.DMatrix(X, Y)
        booster = xgboost.train({}, data, 5)
        stages()
        xgboost.train({}, data, 2, xgb_model=booster)
        xgboost.train({}, data, 2, xgb_model=booster.save_raw())
        xgboost.XGBClassifier(n_estimators=2).fit(X, Y, xgb_model=booster)
        assert [units for _, _, units in stages()] == [rounds(2)] * 3

    def test_a_search_is_one_stage(self, stages):
        xgboost = pytest.importorskip("xgboost")
        from sklearn.model_selection import GridSearchCV

        GridSearchCV(xgboost.XGBClassifier(n_estimators=2), {"max_depth": [1, 2]}, cv=2).fit(X, Y)
        assert stages() == [("training", "GridSearchCV.fit", SAMPLES)]

    def test_an_interrupted_training_ends_its_stage(self, stages):
        xgboost = pytest.importorskip("xgboost")

        class Interrupts(xgboost.callback.TrainingCallback):
            def after_iteration(self, model, epoch, evals_log):
                raise KeyboardInterrupt

        data = xgboost.DMatrix(X, Y)
        with pytest.raises(KeyboardInterrupt):
            xgboost.train({}, data, 3, callbacks=[Interrupts()])
        xgboost.train({}, data, 1)
        assert stages()[1:] == [("training", "xgboost.train", {}), ("training", "xgboost.train", rounds(1))]


class TestLightGBM:
    def test_the_native_interface(self, stages):
        lightgbm = pytest.importorskip("lightgbm")
        booster = lightgbm.train({"verbose": -1}, lightgbm.Dataset(X, Y), 3)
        booster.predict(X)
        booster.refit(X, Y)
        lightgbm.cv({"verbose": -1}, lightgbm.Dataset(X, Y), 2, nfold=2)
        lightgbm.Dataset(X, Y).construct()
        assert stages() == [
            ("training", "lightgbm.train", rounds(3)),
            ("inference", "Booster.predict", SAMPLES),
            ("training", "Booster.refit", SAMPLES),
            ("training", "lightgbm.cv", rounds(2)),
            ("data_processing", "Dataset.construct", SAMPLES),
        ]

    def test_the_estimators(self, stages):
        lightgbm = pytest.importorskip("lightgbm")
        model = lightgbm.LGBMClassifier(n_estimators=4, verbose=-1).fit(X, Y)
        model.predict(X)
        assert stages() == [
            ("training", "LGBMClassifier.fit", rounds(4)),
            ("inference", "LGBMClassifier.predict", SAMPLES),
        ]

    def test_a_training_that_goes_on_counts_its_own_rounds(self, stages, tmp_path):
        lightgbm = pytest.importorskip("lightgbm")
        booster = lightgbm.train({"verbose": -1}, lightgbm.Dataset(X, Y), 5)
        booster.save_model(tmp_path / "model.txt")
        stages()
        for before in booster, tmp_path / "model.txt":
            lightgbm.train({"verbose": -1}, lightgbm.Dataset(X, Y), 2, init_model=before)
        lightgbm.LGBMClassifier(n_estimators=2, verbose=-1).fit(X, Y, init_model=booster)
        assert [units for _, _, units in stages()] == [rounds(2)] * 3


class TestCatBoost:
    def test_the_native_interface(self, stages, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)  # CatBoost writes into the working folder
        catboost = pytest.importorskip("catboost")
        pool = catboost.Pool(X, Y)
        catboost.train(pool, {"verbose": 0, "iterations": 2})
        catboost.cv(pool, {"loss_function": "Logloss", "iterations": 2, "verbose": 0}, nfold=2)
        assert stages() == [
            ("data_processing", "Pool", SAMPLES),
            ("training", "catboost.train", rounds(2)),
            ("training", "catboost.cv", SAMPLES),
        ]

    def test_a_training_that_goes_on_counts_its_own_rounds(self, stages, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        catboost = pytest.importorskip("catboost")
        before = catboost.CatBoostClassifier(iterations=5, verbose=0).fit(X, Y)
        stages()
        catboost.CatBoostClassifier(iterations=2, verbose=0).fit(X, Y, init_model=before)
        assert stages() == [("training", "CatBoostClassifier.fit", rounds(2))]

    @pytest.mark.parametrize("wrapped", [False, True], ids=["array", "pool"])
    def test_the_estimators(self, stages, wrapped, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        catboost = pytest.importorskip("catboost")
        data = (catboost.Pool(X, Y),) if wrapped else (X, Y)
        stages()
        model = catboost.CatBoostClassifier(iterations=3, verbose=0).fit(*data)
        model.predict(data[0])
        model.predict_proba(data[0])
        model.score(*data)
        model.eval_metrics(catboost.Pool(X, Y), ["Logloss"])
        assert stages() == [
            ("training", "CatBoostClassifier.fit", rounds(3)),
            ("inference", "CatBoostClassifier.predict", SAMPLES),
            ("inference", "CatBoostClassifier.predict_proba", SAMPLES),
            ("evaluation", "CatBoostClassifier.score", SAMPLES),
            ("data_processing", "Pool", SAMPLES),
            ("evaluation", "CatBoostClassifier.eval_metrics", SAMPLES),
        ]

    def test_a_search_is_one_stage(self, stages, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        catboost = pytest.importorskip("catboost")
        model = catboost.CatBoostRegressor(iterations=2, verbose=0)
        model.grid_search({"depth": [2, 3]}, X, Y, cv=2, verbose=False)
        assert stages() == [("training", "CatBoostRegressor.grid_search", SAMPLES)]


def test_calls_in_a_stage_of_the_user_add_their_units_to_it(stages):
    xgboost = pytest.importorskip("xgboost")
    data = xgboost.DMatrix(X, Y)
    stages()
    with carbon_otel.stage("training"):
        xgboost.train({}, data, 3)
        xgboost.XGBClassifier(n_estimators=4).fit(X, Y)
    with carbon_otel.stage("training") as stage:
        xgboost.train({}, data, 3)
        stage.units(samples=7)
    with carbon_otel.stage("evaluation"):
        xgboost.train({}, data, 3)
    assert stages() == [
        ("training", "training", {"rounds": 7, "samples": 2 * ROWS}),
        ("training", "training", {"rounds": 3, "samples": 7}),
        ("evaluation", "evaluation", {}),
    ]
    assert stage.footprint.units == {"rounds": 3, "samples": 7}
