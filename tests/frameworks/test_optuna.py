"""Optuna: studies, their trials, and what is in a trial."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from opentelemetry.trace import StatusCode

import carbon_otel
from tests.frameworks import books

optuna = pytest.importorskip("optuna")
optuna.logging.set_verbosity(optuna.logging.ERROR)


def objective(trial) -> float:
    return trial.suggest_float("x", -1, 1) ** 2


def outline(stages) -> list[tuple[str, str, str | None]]:
    return [(each.kind, each.name, each.parent) for each in stages.ended()]


def trials(number: int, first: int = 0) -> list[tuple[str, str, str | None]]:
    return [("training", f"trial {first + each}", "Study.optimize") for each in range(number)]


STUDY = ("training", "Study.optimize", None)


def test_a_study_has_its_trials(stages):
    study = optuna.create_study()
    study.optimize(objective, n_trials=3)
    study.optimize(objective, n_trials=2)
    ended = books.check(stages)
    assert [(each.kind, each.name, each.parent) for each in ended] == [
        *trials(3),
        STUDY,
        *trials(2, first=3),
        STUDY,
    ]
    assert [dict(each.units) for each in ended if each.name == "Study.optimize"] == [
        {"trials": 3},
        {"trials": 2},
    ]


def test_trials_in_threads_are_children_of_the_study(stages):
    optuna.create_study().optimize(objective, n_trials=6, n_jobs=3)
    ended = books.check(stages)
    assert sorted((each.kind, each.name, each.parent) for each in ended) == sorted([*trials(6), STUDY])
    assert ended[-1].units == {"trials": 6}


def test_anything_may_be_a_stage_in_a_trial(stages):
    linear = pytest.importorskip("sklearn.linear_model")
    selection = pytest.importorskip("sklearn.model_selection")
    data, target = np.ones((20, 2)), np.arange(20) % 2

    def fits(trial) -> float:
        if trial.number:
            return selection.cross_val_score(linear.LogisticRegression(), data, target, cv=2).mean()
        model = linear.LogisticRegression().fit(data, target)
        optuna.create_study().optimize(objective, n_trials=1)
        return model.score(data, target)

    optuna.create_study().optimize(fits, n_trials=2)
    assert outline(stages) == [
        ("training", "LogisticRegression.fit", "trial 0"),
        ("training", "trial 0", "Study.optimize"),  # of the study in the trial
        ("training", "Study.optimize", "trial 0"),
        ("evaluation", "LogisticRegression.score", "trial 0"),
        ("training", "trial 0", "Study.optimize"),
        ("training", "cross_val_score", "trial 1"),
        ("training", "trial 1", "Study.optimize"),
        STUDY,
    ]


def test_a_pruned_trial_and_one_whose_error_is_caught_are_no_errors(stages):
    def fails(trial) -> float:
        if trial.number == 0:
            raise optuna.TrialPruned
        raise ValueError("by the user")

    optuna.create_study().optimize(fails, n_trials=2, catch=ValueError)
    ended = stages.ended()
    assert [(each.kind, each.name, each.parent) for each in ended] == [*trials(2), STUDY]
    assert [each.span.status.status_code for each in ended] == 3 * [StatusCode.UNSET]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_error_of_the_objective_ends_trial_and_study(stages, error):
    def fails(trial) -> float:
        raise error("by the user")

    with pytest.raises(error, match="by the user"):
        optuna.create_study().optimize(fails, n_trials=1)
    ended = stages.ended()
    assert [(each.kind, each.name, each.parent) for each in ended] == [*trials(1), STUDY]
    # An interruption is no error of the stage.
    status = StatusCode.ERROR if error is ValueError else StatusCode.UNSET
    assert [each.span.status.status_code for each in ended] == 2 * [status]
    optuna.create_study().optimize(objective, n_trials=1)
    assert outline(stages) == [*trials(1), STUDY]


def test_an_error_in_a_thread_ends_its_trial(stages):
    def fails(trial) -> float:
        raise ValueError("by the user")

    with pytest.raises(ValueError, match="by the user"):
        optuna.create_study().optimize(fails, n_trials=9, n_jobs=2)
    *failed, study = outline(stages)
    assert study == STUDY and failed
    assert {(kind, parent) for kind, _, parent in failed} == {("training", "Study.optimize")}
    optuna.create_study().optimize(objective, n_trials=1)
    assert outline(stages) == [*trials(1), STUDY]


def test_a_stage_of_the_user_has_the_trials(stages):
    with carbon_otel.stage("training", "mine"):
        optuna.create_study().optimize(objective, n_trials=3, n_jobs=2)
    with carbon_otel.stage("evaluation", "mine"):
        optuna.create_study().optimize(objective, n_trials=3)
    assert stages() == [("training", "mine", {"trials": 3}), ("evaluation", "mine", {})]


def test_the_automatic_stages_have_what_manual_ones_around_the_lines_have(stages):
    with carbon_otel.stage("lines", "study"):
        optuna.create_study().optimize(objective, n_trials=2)
    ended = books.check(stages)
    assert [(each.name, each.parent) for each in ended[2:]] == [("Study.optimize", "study"), ("study", None)]


def test_trials_that_the_user_asks_for_are_no_stages(stages):
    study = optuna.create_study()
    study.tell(study.ask(), 1.0)

    def asks(trial) -> float:
        study.tell(study.ask(), 1.0)
        return 2.0

    study.optimize(asks, n_trials=1)
    assert outline(stages) == [*trials(1, first=1), STUDY]


def test_many_fast_trials_open_a_bounded_number_of_stages(stages):
    optuna.create_study().optimize(objective, n_trials=200)
    ended = books.check(stages)
    lasted = (ended[-1].span.end_time - ended[-1].span.start_time) / 1e9
    assert len(ended) <= 1 + 20 + lasted
    assert ended[-1].units == {"trials": 200}


def test_a_study_pickles_and_its_classes_may_be_derived(stages):
    class Mine(optuna.Study):
        def optimize(self, *args, **kwargs):
            return super().optimize(*args, **kwargs)

    study = optuna.create_study()
    copy = pickle.loads(pickle.dumps(study))
    copy.optimize(objective, n_trials=1)
    study.__class__ = Mine
    study.optimize(objective, n_trials=1)
    assert [each.name for each in stages.ended()] == ["trial 0", "Study.optimize", "trial 0", "Mine.optimize"]
