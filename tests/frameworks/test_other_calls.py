"""Calls that no pipeline of the other files makes: each is seen, and its units are counted."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import carbon_otel
from tests.fakes.powercap import server
from tests.frameworks.calls_seen import Seen
from tests.frameworks.test_sentence_transformers import tokenizer

ROWS, COLUMNS = 30, 3
RANDOM = np.random.default_rng(0)
X = RANDOM.random((ROWS, COLUMNS))
Y = (X.sum(axis=1) > COLUMNS / 2).astype(int)
QUIET = {"iterations": 2, "verbose": 0, "allow_writing_files": False}


def need(module: str) -> Any:
    return pytest.importorskip(module)


def clusters() -> Any:
    return need("sklearn.cluster").KMeans(2, n_init=1)


def neighbours() -> Any:
    return need("sklearn.neighbors").KNeighborsClassifier(2).fit(X, Y)


def bayes() -> Any:
    return need("sklearn.naive_bayes").GaussianNB()


def selection() -> Any:
    return need("sklearn.model_selection")


def resample() -> None:
    base = need("sklearn.base")

    class Sampler(base.BaseEstimator):
        """As imbalanced-learn has them."""

        def fit_resample(self, data, labels):
            return data, labels

    Sampler().fit_resample(X, Y)


def scaler() -> Any:
    return need("sklearn.preprocessing").StandardScaler()


SKLEARN = {
    "fit": lambda: bayes().fit(X, Y),
    "transform": lambda: scaler().fit(X).transform(X),
    "inverse_transform": lambda: scaler().fit(X).inverse_transform(X),
    "predict": lambda: bayes().fit(X, Y).predict(X),
    "predict_proba": lambda: bayes().fit(X, Y).predict_proba(X),
    "decision_function": lambda: (
        need("sklearn.linear_model").RidgeClassifier().fit(X, Y).decision_function(X)
    ),
    "score": lambda: bayes().fit(X, Y).score(X, Y),
    "partial_fit": lambda: bayes().partial_fit(X, Y, classes=[0, 1]),
    "fit_predict": lambda: clusters().fit_predict(X),
    "fit_transform": lambda: scaler().fit_transform(X),
    "fit_resample": resample,
    "predict_log_proba": lambda: bayes().fit(X, Y).predict_log_proba(X),
    "score_samples": lambda: need("sklearn.mixture").GaussianMixture(1).fit(X).score_samples(X),
    "kneighbors": lambda: neighbours().kneighbors(X),
    "radius_neighbors": lambda: (
        need("sklearn.neighbors").NearestNeighbors(radius=1).fit(X).radius_neighbors(X)
    ),
}
FUNCTIONS = {
    "cross_validate": lambda: selection().cross_validate(bayes(), X, Y),
    "cross_val_score": lambda: selection().cross_val_score(bayes(), X, Y),
    "cross_val_predict": lambda: selection().cross_val_predict(bayes(), X, Y),
    "learning_curve": lambda: selection().learning_curve(bayes(), X, Y),
    "validation_curve": lambda: selection().validation_curve(
        neighbours(), X, Y, param_name="n_neighbors", param_range=[1, 2]
    ),
    "permutation_test_score": lambda: selection().permutation_test_score(bayes(), X, Y, n_permutations=2),
}
INSPECTION = {
    "permutation_importance": lambda: need("sklearn.inspection").permutation_importance(
        bayes().fit(X, Y), X, Y
    )
}


def external() -> None:
    """A matrix in parts, as for data that does not fit into memory."""
    xgboost = need("xgboost")

    class Parts(xgboost.DataIter):
        def __init__(self) -> None:
            super().__init__(cache_prefix=None, on_host=True)
            self.left = 1

        def next(self, input_data) -> bool:
            self.left -= 1
            if self.left == 0:
                input_data(data=X, label=Y)
            return self.left == 0

        def reset(self) -> None:
            self.left = 1

    # It is for a GPU.
    with contextlib.suppress(xgboost.core.XGBoostError, ValueError):
        xgboost.ExtMemQuantileDMatrix(Parts())


def ranker() -> Any:
    return need("catboost").CatBoostRanker(**QUIET).fit(X, Y, group_id=np.arange(ROWS) // 10)


def catboost(name: str, target: Any = Y, **settings: Any) -> Any:
    return getattr(need("catboost"), name)(**QUIET, **settings).fit(X, target)


CATBOOST = {
    "CatBoostRanker.fit": ranker,
    "CatBoost.randomized_search": lambda: (
        need("catboost")
        .CatBoostRegressor(**QUIET)
        .randomized_search({"depth": [2, 3]}, X, Y, n_iter=1, verbose=False)
    ),
    "CatBoost.predict": lambda: need("catboost").CatBoost({**QUIET}).fit(X, Y).predict(X),
    "CatBoostClassifier.predict_log_proba": lambda: catboost("CatBoostClassifier").predict_log_proba(X),
    "CatBoostRegressor.predict": lambda: catboost("CatBoostRegressor").predict(X),
    "CatBoostRanker.predict": lambda: ranker().predict(X),
    "CatBoostRegressor.score": lambda: catboost("CatBoostRegressor").score(X, Y),
    "CatBoostRanker.score": lambda: ranker().score(X, Y, group_id=np.arange(ROWS) // 10),
}


def session() -> Any:
    onnxruntime = need("onnxruntime")
    helper, proto = need("onnx").helper, need("onnx").TensorProto
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "relu",
        [helper.make_tensor_value_info("x", proto.FLOAT, [None, COLUMNS])],
        [helper.make_tensor_value_info("y", proto.FLOAT, [None, COLUMNS])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def bound() -> None:
    made = session()
    binding = made.io_binding()
    binding.bind_cpu_input("x", X.astype(np.float32))
    binding.bind_output("y")
    made.run_with_iobinding(binding)


def values() -> None:
    value = need("onnxruntime").OrtValue.ortvalue_from_numpy(X.astype(np.float32))
    session().run_with_ort_values(None, {"x": value})


def sparse() -> None:
    library, modules = need("sentence_transformers"), need("sentence_transformers.sparse_encoder.modules")
    made = modules.SparseStaticEmbedding(tokenizer=tokenizer_of_transformers())
    library.SparseEncoder(modules=[made], device="cpu").encode(["w1 w2"])


def vectors() -> None:
    library = need("sentence_transformers")
    modules = need("sentence_transformers.sentence_transformer.modules")
    made = library.MultiVectorEncoder(
        modules=[modules.StaticEmbedding(tokenizer(), embedding_dim=8)], device="cpu"
    )
    # It wants a vector for each word, which this one has not.
    with contextlib.suppress(ValueError, KeyError, RuntimeError, TypeError):
        made.encode(["w1 w2"])


def tokenizer_of_transformers() -> Any:
    return need("transformers").PreTrainedTokenizerFast(
        tokenizer_object=tokenizer(), unk_token="w0", pad_token="w0"
    )


CALLS = {
    "sklearn.base": SKLEARN,
    "sklearn.model_selection._validation": FUNCTIONS,
    "sklearn.inspection._permutation_importance": INSPECTION,
    "xgboost.core": {"ExtMemQuantileDMatrix.__init__": external},
    "catboost.core": CATBOOST,
    "onnxruntime.capi.onnxruntime_inference_collection": {
        "Session.run_with_iobinding": bound,
        "Session.run_with_ort_values": values,
    },
    "sentence_transformers.sparse_encoder.model": {"SparseEncoder.encode": sparse},
    "sentence_transformers.multi_vector_encoder.model": {"MultiVectorEncoder.encode": vectors},
}
ALL = [
    pytest.param(module, call, make, id=call) for module, made in CALLS.items() for call, make in made.items()
]


@pytest.fixture(autouse=True)
def measured(calls: Seen, tmp_path) -> Iterator[None]:
    carbon_otel.instrument(zone="FR", powercap_root=server(tmp_path / "sys").root)
    yield
    carbon_otel.uninstrument()


@pytest.mark.parametrize(("module", "call", "make"), ALL)
def test_the_call_is_seen(module, call, make, calls, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make()
    assert (module, call) in calls


def test_a_dict_of_data_sets_is_saved(calls, tmp_path):
    datasets = need("datasets")
    data = datasets.Dataset.from_dict({"x": list(range(ROWS))})
    datasets.DatasetDict(train=data).save_to_disk(tmp_path / "data")
    assert ("datasets.dataset_dict", "DatasetDict.save_to_disk") in calls
