"""Ray Tune: a run is a stage, and its trials are stages in it. Ray is heavy, and not in the group `frameworks`."""

from __future__ import annotations

import time

import pytest

import carbon_otel
from tests.frameworks import books

tune = pytest.importorskip("ray.tune")


@pytest.fixture(scope="module")
def ray():
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    yield
    ray.shutdown()


def objective(config) -> dict[str, float]:
    time.sleep(0.3)
    if config["x"] == 3:
        raise ValueError("by the user")
    return {"score": config["x"] ** 2}


def fit(tmp_path, *values: int) -> None:
    tuner = tune.Tuner(
        objective,
        param_space={"x": tune.grid_search(list(values))},
        run_config=tune.RunConfig(storage_path=str(tmp_path), verbose=0),
    )
    tuner.fit()


def test_a_run_has_its_trials(ray, stages, tmp_path):
    fit(tmp_path / "results", 1, 2)
    *trials, run = books.check(stages)
    assert (run.kind, run.name, run.units, run.parent) == ("training", "tune.run", {"trials": 2}, None)
    assert [(each.kind, each.name[:6], each.parent) for each in trials] == 2 * [
        ("training", "trial ", "tune.run")
    ]
    assert all(each.joules > 0 for each in trials)


def test_a_trial_that_fails_is_an_error_of_its_stage_alone(ray, stages, tmp_path):
    fit(tmp_path / "results", 1, 3)
    *trials, run = books.check(stages)
    assert sorted(each.span.status.is_ok or each.span.status.is_unset for each in trials) == [False, True]
    assert run.span.status.is_unset and run.units == {"trials": 2}


def test_a_stage_of_the_user_has_the_run(ray, stages, tmp_path):
    with carbon_otel.stage("training", "mine"):
        fit(tmp_path / "results", 1)
    assert stages() == [("training", "mine", {"trials": 1})]
