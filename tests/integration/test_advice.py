"""Advice on runs with known histories: the expected watt-hours are exact."""

from __future__ import annotations

import csv
import itertools
import json
import math
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import carbon_otel
from carbon_otel.advice import (
    batch_size,
    better_hour,
    early_stopping,
    embodied,
    failed_runs,
    other_region,
    poor_trials,
    repeated_runs,
    unused_devices,
    waiting,
)
from carbon_otel.advice.advisor import KINDS, advise
from carbon_otel.advice.literature import factors
from carbon_otel.advice.words import Advice, NothingFound
from carbon_otel.cli import app
from carbon_otel.intensity.providers import csv_file
from carbon_otel.lifecycle.ledger import NotFound, read
from carbon_otel.lifecycle.where import where_of
from carbon_otel.mlflow.schema import names
from tests.integration.measured_runs import BAND, START_MS, Made, write

mlflow = pytest.importorskip("mlflow")

NOW = datetime(2026, 11, 26, 12, tzinfo=timezone.utc)


class Store:
    """Each test has an experiment of its own."""

    def __init__(self, uri, folder) -> None:
        self.uri = uri
        self.client = mlflow.MlflowClient(uri)
        self.folder = folder
        self.numbers = itertools.count()

    def of(self, *runs):
        """A new experiment with these runs; a run whose parent is a place has that run as its parent."""
        name = f"e{next(self.numbers)}"
        experiment = self.client.create_experiment(name, artifact_location=self.folder.as_uri())
        ids = []
        for run in runs:
            if isinstance(run.parent, int):
                run.parent = ids[run.parent]
            ids.append(write(self.client, experiment, run))
        return SimpleNamespace(name=name, ids=ids)

    def advised(self, *runs, **options):
        return advise(self.client, self.of(*runs).name, NOW, **options)


@pytest.fixture(scope="module")
def store(tmp_path_factory, empty_store):
    folder = tmp_path_factory.mktemp("advice")
    return Store(empty_store.copy(folder), folder)


def found(advised, name):
    """The advice of a kind, or why there is none."""
    everything = (*advised.measured, *advised.nothing_found, *advised.lacking)
    return next(each for each in everything if each.name == name)


def steady(seconds, wh, every=10):
    """The curve of an even power."""
    return [(at, wh * at / seconds) for at in range(0, seconds + 1, every)]


def course(*values, every=10):
    """A value at each step, the first after one interval."""
    return [(every * (number + 1), value) for number, value in enumerate(values)]


LOSSES = (9, 8, 7, 6, 7, 7, 7, 7, 7, 7)  # best at step 3, after 40 of 100 s


class TestEarlyStopping:
    def test_the_energy_after_the_best_by_hand(self, store):
        """10 Wh in 100 s. The best is at 40 s: 6 Wh come after it; a patience of 3 stops at 70 s: 3 Wh less."""
        run = Made({"training": 10.0}, curve=steady(100, 10.0), history={"val_loss": course(*LOSSES)})
        advice = found(store.advised(run), early_stopping.NAME)
        assert advice.verdict == "saves" and "3 steps" in advice.title
        assert advice.saved.energy_wh == pytest.approx(3.0, rel=1e-12)
        assert advice.saved.low_wh == pytest.approx(3.0 * (1 - BAND))
        assert advice.saved.high_wh == pytest.approx(3.0 * (1 + BAND))
        assert advice.saved.emissions_g == pytest.approx(3.0 / 1000 * 41.4)
        assert advice.of.energy_wh == pytest.approx(10.0)
        assert advice.finding[0].startswith("6.00 Wh (5.40 to 6.60) came after the best val_loss of 1 run")
        assert "best at step 3 of 9 (6)" in advice.finding[1]

    def test_of_accuracy_the_highest_is_the_best(self, store):
        run = Made(
            {"training": 10.0}, curve=steady(100, 10.0), history={"val_acc": course(*(-x for x in LOSSES))}
        )
        assert found(store.advised(run), early_stopping.NAME).saved.energy_wh == pytest.approx(3.0)

    def test_the_patience_is_as_long_as_the_longest_wait_that_was_worth_it(self, store):
        """One run waits five steps for its best, so the other one, too, stops only five steps after its own."""
        waits = (9, 8, 9, 9, 9, 9, 7, 8, 8, 8)
        one, two = (
            Made({"training": 10.0}, name, curve=steady(100, 10.0), history={"val_loss": course(*values)})
            for name, values in (("one", waits), ("two", LOSSES))
        )
        advice = found(store.advised(one, two), early_stopping.NAME)
        assert "5 steps" in advice.title
        # `one` would end 5 steps after step 6: never. `two` ends at step 8 of 9.
        assert advice.saved.energy_wh == pytest.approx(1.0)

    def test_between_two_checkpoints_the_band_is_what_both_allow(self, store):
        """The curve has 0 Wh at 0 s, 4 at 35 s, 8 at 75 s and 10 at 100 s; stop at 70 s, best at 40 s."""
        curve = [(0, 0.0), (35, 4.0), (75, 8.0), (100, 10.0)]
        run = Made({"training": 10.0}, curve=curve, history={"val_loss": course(*LOSSES)})
        advice = found(store.advised(run), early_stopping.NAME)
        assert advice.saved.energy_wh == pytest.approx(10 - (4 + 4 * 35 / 40))
        assert advice.saved.low_wh == pytest.approx((10 - 8) * (1 - BAND))
        assert advice.saved.high_wh == pytest.approx((10 - 4) * (1 + BAND))

    def test_a_run_that_is_best_at_its_end_widens_no_band(self, store):
        """Its last step lies between two checkpoints, but nothing came after it."""
        stopped = Made(
            {"training": 10.0}, "s", curve=steady(100, 10.0), history={"val_loss": course(*LOSSES)}
        )
        best_last = Made({"training": 10.0}, "b", history={"val_loss": course(*range(9, 0, -1))})
        advice = found(store.advised(stopped, best_last), early_stopping.NAME)
        assert advice.saved.high_wh == pytest.approx(3.0 * (1 + BAND))
        assert len(advice.finding) == 2, "nothing is said of the run that wasted nothing"

    def test_one_checkpoint_tells_nothing_apart(self, store):
        run = Made({"training": 10.0}, history={"val_loss": course(*LOSSES)})
        advice = found(store.advised(run), early_stopping.NAME)
        assert advice.verdict == "cannot be told apart" and advice.saved.low_wh == 0

    def test_the_best_at_the_end_leaves_nothing(self, store):
        run = Made({"training": 10.0}, curve=steady(100, 10.0), history={"val_loss": course(5, 4, 3, 2, 1)})
        silent = found(store.advised(run), early_stopping.NAME)
        assert isinstance(silent, NothingFound) and not silent.lacking

    def test_energy_after_the_last_step_is_not_saved(self, store):
        """An evaluation follows, with as much energy again: early stopping does not shorten it."""
        run = Made(
            {"training": 10.0, "evaluation": 10.0},
            seconds=200,
            curve=steady(200, 20.0),
            history={"val_loss": course(*LOSSES)},
        )
        assert found(store.advised(run), early_stopping.NAME).saved.energy_wh == pytest.approx(3.0)

    def test_a_history_that_was_logged_at_once_has_no_times(self, store):
        history = {"val_loss": [(99.9, value) for value in LOSSES]}
        silent = found(
            store.advised(Made({"training": 10.0}, curve=steady(100, 10.0), history=history)),
            early_stopping.NAME,
        )
        assert silent.lacking and "at once" in silent.reason

    def test_a_run_with_nested_runs_has_no_curve_of_its_own(self, store):
        """Its curve has their energy, too."""
        parent = Made({"run": 1.0}, curve=steady(100, 11.0), history={"val_loss": course(*LOSSES)})
        silent = found(store.advised(parent, Made({"training": 10.0}, parent=0)), early_stopping.NAME)
        assert silent.lacking

    def test_without_a_curve_the_quarter_hours_count(self, store):
        """Two hours from 12:00, 10 Wh each quarter-hour; the best after one hour, stop after 1.75 h."""
        start = datetime(2026, 11, 24, 12, tzinfo=timezone.utc)
        offset = start.timestamp() - START_MS / 1000
        run = Made(
            {"training": 80.0},
            start_s=offset,
            seconds=7200,
            hourly="2026-11-24T12:00=" + ",".join(["10"] * 8),
            history={"val_loss": course(9, 8, 7, 6, 7, 7, 7, 7, every=900)},
        )
        made = store.of(run)
        client = WithoutCurves(store.client)
        advice = found(advise(client, made.name, NOW), early_stopping.NAME)
        assert advice.saved.energy_wh == pytest.approx(10.0)

    def test_the_metric_may_be_named(self, store):
        history = {"val_loss": course(5, 4, 3, 2, 1, 0.5, 0.4), "fit": course(9, 8, 7, 8, 8, 8, 8)}
        run = Made({"training": 7.0}, seconds=70, curve=steady(70, 7.0), history=history)
        made = store.of(run)
        assert isinstance(found(advise(store.client, made.name, NOW), early_stopping.NAME), NothingFound)
        named = advise(store.client, made.name, NOW, metric="fit", lower_is_better=True)
        advice = found(named, early_stopping.NAME)
        assert advice.saved.energy_wh == pytest.approx(1.0)
        assert advice.command.endswith("VARIANT --metric fit --tolerance 0.01 --lower-is-better")
        with pytest.raises(ValueError, match="'fit' does not say which values are better"):
            advise(store.client, made.name, NOW, metric="fit")
        with pytest.raises(ValueError, match="none of these runs has a metric 'val_auc'"):
            advise(store.client, made.name, NOW, metric="val_auc")


class WithoutCurves:
    """A store whose runs have no curve of their energy, as those of other writers."""

    def __init__(self, client) -> None:
        self._client = client

    def __getattr__(self, name):
        return getattr(self._client, name)

    def get_metric_history(self, run_id, metric):
        return [] if metric == names.ENERGY_WH else self._client.get_metric_history(run_id, metric)


class TestFailedRuns:
    def test_their_energy_by_hand(self, store):
        advised = store.advised(
            Made({"training": 5.0}),
            Made({"training": 2.0}, "broken", status="FAILED"),
            Made({"training": 3.0}, "killed", status="KILLED", final=False),
        )
        advice = found(advised, failed_runs.NAME)
        assert advice.saved.energy_wh == pytest.approx(5.0) and advice.of.energy_wh == pytest.approx(10.0)
        assert advice.saved.low_wh == pytest.approx(4.5)
        assert math.isinf(advice.saved.high_wh), "the killed run is a lower bound"
        assert "run killed: KILLED, 3.0 Wh (at least 2.7)" in advice.finding
        assert advised.lower_bounds == ("killed has not ended in order",)

    def test_none(self, store):
        silent = found(store.advised(Made({"training": 5.0})), failed_runs.NAME)
        assert silent == NothingFound(failed_runs.NAME, "of 1 run, none has failed or was killed")


class TestRepeatedRuns:
    def test_all_but_the_first_by_hand(self, store):
        params = {"depth": 3}
        runs = [
            Made({"training": wh}, f"r{wh}", start_s=wh, params=params, dataset="d") for wh in (1.0, 2.0, 4.0)
        ]
        other = Made({"training": 8.0}, "other", params={"depth": 4}, dataset="d")
        advice = found(store.advised(*runs, other), repeated_runs.NAME)
        assert advice.saved.energy_wh == pytest.approx(6.0) and advice.verdict == "saves at most"
        assert "may differ" not in advice.finding[0]

    @pytest.mark.parametrize("change", [{"params": {"depth": 4}}, {"dataset": "e"}, {"status": "FAILED"}])
    def test_what_differs_is_no_repeat(self, store, change):
        given = {"params": {"depth": 3}, "dataset": "d"}
        silent = found(
            store.advised(Made({"training": 1.0}, **given), Made({"training": 1.0}, **{**given, **change})),
            repeated_runs.NAME,
        )
        assert isinstance(silent, NothingFound)

    def test_serving_again_is_no_repeat(self, store):
        """A nightly prediction has the same parameters each time."""
        runs = (Made({"inference": 1.0}, params={"depth": 3}) for _ in range(2))
        assert isinstance(found(store.advised(*runs), repeated_runs.NAME), NothingFound)

    def test_without_datasets_the_doubt_is_said(self, store):
        advice = found(
            store.advised(*(Made({"training": 1.0}, params={"depth": 3}) for _ in range(2))),
            repeated_runs.NAME,
        )
        assert "their data may differ" in advice.finding[0]


class TestWaiting:
    def test_by_hand(self, store):
        advice = found(
            store.advised(
                Made({"training": 6.0, "data_processing": 3.0, "run": 1.0}), Made({"inference": 50.0})
            ),
            waiting.NAME,
        )
        assert advice.saved.energy_wh == pytest.approx(4.0) and advice.of.energy_wh == pytest.approx(10.0)
        assert (
            advice.verdict == "saves at most"
            and "30.0% for data, 10.0% between the stages" in advice.finding[0]
        )

    def test_little(self, store):
        silent = found(store.advised(Made({"training": 99.0, "run": 1.0})), waiting.NAME)
        assert isinstance(silent, NothingFound) and not silent.lacking

    def test_runs_without_stages_are_unknown(self, store):
        assert found(store.advised(Made({"run": 10.0})), waiting.NAME).lacking


class TestUnusedDevices:
    def run(self, hardware, **devices):
        """An hour, so that Wh are W."""
        return Made(
            {"training": 100.0 + sum(devices.values())},
            seconds=3600,
            devices={"cpu-model": 100.0, **devices},
            gpu=sum(devices.values()),
            hardware=hardware,
        )

    def test_beside_a_busy_one(self, store):
        advised = store.advised(self.run("CPU + 2 x Unheard-of Card", one=300.0, two=60.0))
        advice = found(advised, unused_devices.NAME)
        assert advice.saved.energy_wh == pytest.approx(60.0)
        assert advice.finding[0].startswith("run a: two drew 60.0 W in the mean")

    def test_below_its_rated_power(self, store):
        """An H100 of 700 W that draws 80 W has nothing to do."""
        advised = store.advised(self.run("CPU + 1 x NVIDIA H100 80GB HBM3", one=80.0))
        assert found(advised, unused_devices.NAME).saved.energy_wh == pytest.approx(80.0)

    def test_busy_ones(self, store):
        advised = store.advised(self.run("CPU + 2 x NVIDIA H100 80GB HBM3", one=300.0, two=250.0))
        assert isinstance(found(advised, unused_devices.NAME), NothingFound)

    @pytest.mark.parametrize("devices", [{"one": 15.0}, {"one": 15.0, "two": 15.0}])
    def test_without_a_rated_power_all_may_be_idle(self, store, devices):
        """It was said that every one of them drew more than an idle one."""
        advised = store.advised(self.run(f"CPU + {len(devices)} x Unheard-of Card", **devices))
        silent = found(advised, unused_devices.NAME)
        assert silent.lacking and "rated power" in silent.reason

    def test_devices_that_do_not_add_up_are_not_judged(self, store):
        busy = self.run("CPU + 1 x NVIDIA H100 80GB HBM3", one=300.0)
        silent = found(store.advised(replace(busy, gpu=400.0)), unused_devices.NAME)
        assert silent.lacking
        silent = found(store.advised(busy, replace(busy, gpu=400.0)), unused_devices.NAME)
        assert "every GPU of 1 run drew" in silent.reason and "1 other run cannot be judged" in silent.reason

    def test_no_gpu(self, store):
        assert "no GPU" in found(store.advised(Made({"training": 1.0})), unused_devices.NAME).reason


def trials(count=8, wh=10.0):
    """A search of trials one after the other, each of 10 Wh in 100 s; those after the fifth are worse."""
    yield Made({"run": 1.0}, "search", seconds=100 * count)
    for number in range(count):
        value = 1.0 if number < 5 else 2.0
        yield Made(
            {"training": wh},
            f"trial {number}",
            start_s=100 * number,
            curve=steady(100, wh),
            history={"val_loss": course(*(value + 0.01 * number - 0.001 * step for step in range(10)))},
            parent=0,
        )


class TestPoorTrials:
    def test_the_replay_by_hand(self, store):
        """Trials 5 to 7 are worse than the median at step 4, after 50 s: 5 Wh each."""
        advice = found(store.advised(*trials()), poor_trials.NAME)
        assert advice.saved.energy_wh == pytest.approx(15.0) and advice.verdict == "saves"
        assert "3 of 8 trials" in advice.finding[0] and "after step 4" in advice.finding[1]
        assert advice.of.energy_wh == pytest.approx(80.0)

    def test_a_stopped_trial_is_not_in_the_median(self, store):
        """Trial 7 is worse than the trials that went on, and better than those that were stopped."""
        runs = list(trials())
        runs[-1].history = {"val_loss": course(*[1.5] * 10)}
        advice = found(store.advised(*runs), poor_trials.NAME)
        assert advice.saved.energy_wh == pytest.approx(15.0)

    def test_the_loss_of_the_best_trial_is_said(self, store):
        """Trial 7 begins badly and ends best."""
        runs = list(trials())
        runs[-1].history = {"val_loss": course(*[9.0] * 5, *[0.1] * 5)}
        advice = found(store.advised(*runs), poor_trials.NAME)
        assert advice.verdict == "costs quality" and "trial 7, the best trial" in advice.finding[0]

    def test_good_trials(self, store):
        runs = list(trials())
        for number, run in enumerate(runs[1:]):
            run.history = {"val_loss": course(*[9.0 - number] * 10)}
        assert not found(store.advised(*runs), poor_trials.NAME).lacking

    def test_trials_at_once_have_no_median(self, store):
        """None has ended when the others are at half of their steps."""
        runs = list(trials())
        for run in runs:
            run.start_s = 0.0
        assert isinstance(found(store.advised(*runs), poor_trials.NAME), NothingFound)

    def test_few(self, store):
        silent = found(store.advised(*trials(5)), poor_trials.NAME)
        assert silent.lacking and "more than 5 nested runs" in silent.reason

    def test_trials_that_are_stages(self, store):
        run = Made({"training": 5.0}, units={"training/trials": 9.0})
        assert "open a nested run" in found(store.advised(run), poor_trials.NAME).reason


def of_size(size, wh, samples=1000.0, **given):
    return Made(
        {"training": wh},
        f"batch {size}",
        params={"batch_size": size, "lr": 0.1, **given.pop("params", {})},
        units={"training/samples": samples},
        **given,
    )


class TestBatchSize:
    def test_by_hand(self, store):
        """20 and 10 Wh for 1,000 samples: 72 and 36 J each, beyond the bands of 10 %."""
        advice = found(store.advised(of_size(16, 20.0), of_size(256, 10.0)), batch_size.NAME)
        assert advice.verdict == "saves" and advice.title == "training with batch_size 256"
        assert advice.saved.energy_wh == pytest.approx(10.0)
        assert advice.saved.low_wh == pytest.approx(20 * 0.9 - 10 * 1.1)
        assert advice.saved.high_wh == pytest.approx(20 * 1.1 - 10 * 0.9)
        assert advice.finding[0] == "batch_size 256: 36.0 J (32.4 to 39.6) per sample in 1 run"
        assert advice.command.endswith("--stage training --unit samples")

    def test_bands_that_overlap(self, store):
        advice = found(store.advised(of_size(16, 11.0), of_size(256, 10.0)), batch_size.NAME)
        assert advice.verdict == "cannot be told apart" and advice.saved.energy_wh == pytest.approx(1.0)
        assert advice.title.endswith("256 or 16: which one needs the least energy is not known")

    def test_what_is_certain_goes_before_what_is_not(self, store):
        """Another model has the larger difference, on other hardware."""
        other = (
            of_size(16, 200.0, params={"lr": 1}, hardware="x"),
            of_size(256, 10.0, params={"lr": 1}, hardware="y"),
        )
        advice = found(store.advised(*other, of_size(16, 20.0), of_size(256, 10.0)), batch_size.NAME)
        assert advice.verdict == "saves" and advice.saved.energy_wh == pytest.approx(10.0)

    def test_the_quality_is_beside_the_energy(self, store):
        runs = (
            of_size(size, wh, history={"val_accuracy": [(99, accuracy)]})
            for size, wh, accuracy in ((16, 20.0, 0.9), (256, 10.0, 0.8))
        )
        advice = found(store.advised(*runs), batch_size.NAME)
        assert advice.finding[0].endswith("in 1 run, val_accuracy 0.8")

    def test_other_hardware_is_not_compared(self, store):
        advice = found(
            store.advised(of_size(16, 20.0), of_size(256, 10.0, hardware="another")), batch_size.NAME
        )
        assert advice.verdict == "cannot be told apart"
        assert any("hardware differs" in line for line in advice.finding)

    def test_other_parameters_are_another_model(self, store):
        silent = found(
            store.advised(of_size(16, 20.0), of_size(256, 10.0, params={"lr": 0.2})), batch_size.NAME
        )
        assert silent.lacking

    def test_a_seed_is_no_other_model(self, store):
        """Two runs of 16 with different seeds: 20 + 24 Wh against 2 x 10."""
        runs = (of_size(16, wh, params={"seed": wh}) for wh in (20.0, 24.0))
        advice = found(store.advised(*runs, of_size(256, 10.0, params={"seed": 1})), batch_size.NAME)
        assert advice.saved.energy_wh == pytest.approx(24.0)

    def test_a_run_that_has_not_ended_is_left_out(self, store):
        silent = found(store.advised(of_size(16, 20.0), of_size(256, 10.0, final=False)), batch_size.NAME)
        assert silent.lacking


class TestOtherRegion:
    def test_by_hand(self, store):
        made = store.of(Made({"training": 1000.0}, zone="PL"))
        advice = found(advise(store.client, made.name, NOW), other_region.NAME)
        where = where_of(read(store.client, made.name))
        best = next(each for each in where.regions if each.difference == "less")
        assert best.region in advice.title and advice.saved.energy_wh == 0
        # Poland 565 g/kWh, PUE 1 as given (Electricity Maps 2025).
        there = best.g_per_kwh * best.pue
        assert advice.saved.emissions_g == pytest.approx(565 - there)
        assert advice.of.emissions_g == pytest.approx(565), "by the same table, not as logged"
        assert advice.saved.low_g == pytest.approx(
            (565 * 0.6 - there * (1 + math.hypot(0.4, best_above(best)))) * (1 - BAND), rel=0.02
        )

    def test_a_clean_place(self, store):
        silent = found(store.advised(Made({"training": 1000.0}, zone="IS")), other_region.NAME)
        assert isinstance(silent, NothingFound)

    def test_a_place_that_is_not_known(self, store):
        silent = found(store.advised(Made({"training": 1000.0}, zone="WORLD")), other_region.NAME)
        assert silent.lacking and "--here" in silent.reason


def best_above(region):
    """The upper deviation of the PUE of a region, from its band without those of grid (40 %) and energy."""
    both = region.high_g / region.emissions_g - 1
    return math.sqrt(max(0.0, both**2 - BAND**2 - 0.4**2))


class TestBetterHour:
    @pytest.fixture
    def provider(self, tmp_path, monkeypatch):
        """A grid of 40 g/kWh for 4 hours, then of 10."""
        hours = [(NOW + timedelta(hours=hour), 40 if hour < 4 else 10) for hour in range(-1, 30)]
        file = tmp_path / "grid.csv"
        with file.open("w", newline="") as text:
            csv.writer(text).writerows(
                [("start", "g_per_kwh"), *((f"{at:%Y-%m-%dT%H:%MZ}", grams) for at, grams in hours)]
            )
        monkeypatch.setattr(csv_file, "wall", NOW.timestamp)
        return csv_file.CsvFile(file)

    def test_by_hand(self, store, provider):
        run = Made({"training": 2000.0}, hourly="2026-11-24T12:00=2000")
        advice = found(store.advised(run, provider=provider), better_hour.NAME)
        assert advice.saved.emissions_g == pytest.approx(2 * (40 - 10)) and advice.saved.energy_wh == 0
        assert advice.of.emissions_g == pytest.approx(80.0), "by the same forecast"
        assert "2026-11-26 16:00 UTC" in advice.title and advice.command.endswith("--provider grid.csv")

    def test_without_a_provider_the_command_is_named(self, store):
        silent = found(store.advised(Made({"training": 1.0})), better_hour.NAME)
        assert silent.lacking and "carbon-otel when " in silent.reason

    def test_a_run_without_times(self, store, provider):
        assert found(store.advised(Made({"training": 1.0}), provider=provider), better_hour.NAME).lacking


class TestEmbodied:
    def test_by_hand(self, store):
        """100 g over 4 years are 80 g over 5."""
        advice = found(
            store.advised(Made({"training": 800.0, "run": 200.0}, embodied_g=100.0)), embodied.NAME
        )
        assert advice.saved.emissions_g == pytest.approx(20.0)
        assert (advice.saved.low_g, advice.saved.high_g) == (pytest.approx(10.0), pytest.approx(40.0))
        assert advice.counted == "embodied" and "5 years instead of 4" in advice.title
        assert advice.of.emissions_g == pytest.approx(100.0), "embodied grams of embodied ones"
        assert "71% of 100 g embodied and 41.4 g operational" in advice.finding[0]
        assert advice.finding[1].startswith("20% of it")

    def test_unknown(self, store):
        assert found(store.advised(Made({"training": 1.0})), embodied.NAME).lacking


everything = st.fixed_dictionaries(
    {
        "wh": st.floats(0.01, 1e6),
        "idle": st.floats(0, 1e5),
        "values": st.lists(st.floats(-100, 100), min_size=1, max_size=12),
        "status": st.sampled_from(["FINISHED", "FAILED", "KILLED"]),
        "size": st.sampled_from([None, 16, 32]),
        "curve": st.lists(st.floats(0, 1), max_size=6),
        "embodied": st.none() | st.floats(0.1, 1e5),
        "gpu": st.booleans(),
    }
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(everything, min_size=1, max_size=4))
def test_no_saving_is_more_than_there_was(store, drawn):
    runs = []
    for each in drawn:
        wh = each["wh"] + each["idle"]
        runs.append(
            Made(
                {"training": each["wh"], "run": each["idle"]},
                status=each["status"],
                params={"batch_size": each["size"]} if each["size"] else {},
                units={"training/samples": 10.0},
                curve=[(15 * at, share * wh) for at, share in enumerate(sorted(each["curve"]))],
                history={"val_loss": course(*each["values"])},
                embodied_g=each["embodied"],
                devices={"one": wh / 2, "two": wh / 50} if each["gpu"] else {},
                gpu=wh * 0.52 if each["gpu"] else 0.0,
            )
        )
    advised = store.advised(*runs)
    total = advised.total
    for advice in advised.measured:
        saved, of = advice.saved, advice.of
        assert 0 <= saved.energy_wh <= of.energy_wh * (1 + 1e-9) <= total.energy_wh * (1 + 1e-8), advice
        assert saved.low_wh <= saved.energy_wh <= saved.high_wh <= of.high_wh * (1 + 1e-9), advice
        assert saved.low_g <= saved.emissions_g <= saved.high_g, advice
        assert saved.emissions_g <= of.emissions_g * (1 + 1e-9), advice
        if advice.counted == "operational" and advice.name != other_region.NAME:
            assert of.emissions_g <= total.emissions_g * (1 + 1e-8), advice
        assert advice.verdict != "saves" or saved.low_wh > 0 or saved.low_g > 0
    kinds = [each.name for each in (*advised.measured, *advised.nothing_found, *advised.lacking)]
    assert len(kinds) == len(KINDS) == len(set(kinds)), "every kind says something"


def numbers(content):
    """All numbers in plain types."""
    if isinstance(content, dict):
        content = list(content.values())
    if isinstance(content, list | tuple):
        return [number for each in content for number in numbers(each)]
    return [content] if isinstance(content, float) else []


class TestAll:
    def test_the_surest_and_largest_comes_first_and_no_sum_is_presented(self, store):
        advised = store.advised(
            Made({"training": 10.0}, "long", curve=steady(100, 10.0), history={"val_loss": course(*LOSSES)}),
            Made({"training": 2.0}, "broken", status="FAILED"),
            Made({"training": 8.0, "run": 2.0}, "idle", embodied_g=0.01),
        )
        assert [each.verdict for each in advised.measured] == sorted(
            (each.verdict for each in advised.measured), key=("saves", "saves at most").index
        )
        for verdict in ("saves", "saves at most"):
            grams = [each.saved.emissions_g for each in advised.measured if each.verdict == verdict]
            assert grams == sorted(grams, reverse=True)
        content = advised.as_dict()
        for counted in ("energy_wh", "emissions_g"):
            added = sum(getattr(each.saved, counted) for each in advised.measured)
            assert not [number for number in numbers(content) if number == pytest.approx(added)], counted
        assert "not added up" in content["measured_note"]

    def test_nothing_at_all(self, store):
        """A good run in a clean place."""
        advised = store.advised(Made({"training": 10.0}, zone="IS"))
        assert advised.measured == ()
        assert len(advised.nothing_found) + len(advised.lacking) == len(KINDS)

    def test_a_name_that_the_store_does_not_know(self, store):
        with pytest.raises(NotFound):
            advise(store.client, "nothing", NOW)

    def test_runs_of_one_name_are_told_apart(self, store):
        advised = store.advised(*(Made({"training": 1.0}, "same", status="FAILED") for _ in range(2)))
        first, second = found(advised, failed_runs.NAME).finding[1:]
        assert first.partition(":")[0] != second.partition(":")[0]

    def test_the_public_function(self, store):
        made = store.of(Made({"training": 2.0}, status="FAILED"))
        advised = carbon_otel.advise(made.name, tracking_uri=store.uri)
        assert found(advised, failed_runs.NAME).saved.energy_wh == pytest.approx(2.0)
        with pytest.raises(LookupError):
            carbon_otel.advise("nothing", tracking_uri=store.uri)

    def test_a_window_of_a_served_model_is_no_run(self, store):
        """Months of inference have no parameters and no histories; the place and the embodied carbon remain."""
        made = store.of(Made({"inference": 1000.0}, zone="PL", embodied_g=5.0))
        store.client.set_tag(made.ids[0], names.ENTRY, "e")
        advised = advise(store.client, made.name, NOW)
        assert {each.name for each in advised.measured} == {other_region.NAME, embodied.NAME}


@pytest.fixture(scope="module")
def made(store):
    return store.of(
        Made({"training": 10.0}, "long", curve=steady(100, 10.0), history={"val_loss": course(*LOSSES)}),
        Made({"training": 2.0}, "[bold]broken\x1b[0m", status="FAILED", zone="PL"),
    )


class TestCommand:
    def invoke(self, *arguments):
        return CliRunner().invoke(app, ["advise", *arguments], env={"COLUMNS": "100"})

    def test_text(self, store, made):
        done = self.invoke(made.name, "--tracking-uri", store.uri)
        assert done.exit_code == 0, done.output
        assert "saves 3.00 Wh (2.70 to 3.30) and 124 mg" in done.stdout
        assert f"carbon-otel prove {made.ids[0]} VARIANT --metric val_loss --tolerance 0.01" in done.stdout
        assert "[bold]broken\\x1b[0m" in done.stdout, "names of runs stay text"
        assert "not added up" in done.stdout and "never multiply" in done.stdout
        assert "from memory, not verified" in done.stdout
        assert "power cap" not in done.stdout, "no GPU was measured"

    def test_json(self, store, made):
        done = self.invoke(made.name, "--tracking-uri", store.uri, "--format", "json")
        advised = json.loads(done.stdout)
        saved = {each["name"]: each["saved"] for each in advised["measured"]}
        assert saved[early_stopping.NAME]["energy_wh"] == pytest.approx(3.0)
        assert saved[failed_runs.NAME]["energy_wh"] == pytest.approx(2.0)
        assert all(row["source"] and row["checked"] for row in advised["literature"])

    def test_a_single_run(self, store, made):
        done = self.invoke(made.ids[1], "--tracking-uri", store.uri, "--format", "json")
        assert json.loads(done.stdout)["total"]["energy_wh"] == pytest.approx(2.0)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--metric", "f1"], "none of these runs has a metric 'f1'"),
            (["--metric", "x"], "does not say which values are better"),
            (["--provider", "nothing"], "nothing"),
        ],
    )
    def test_refusals(self, store, made, options, message):
        done = self.invoke(made.name, "--tracking-uri", store.uri, *options)
        assert done.exit_code == 2 and message in done.stderr and "Traceback" not in done.stderr


def test_each_kind_of_row_is_shown(store):
    """With a GPU and tokens, every row of the table applies, those that cost more among them."""
    run = Made(
        {"training": 1.0, "inference": 1.0},
        gpu=1.0,
        devices={"one": 1.0},
        units={"inference/output_tokens": 5.0},
    )
    advised = store.advised(run)
    assert advised.literature == tuple(factors())
    assert any(each.costs_more for each in advised.literature)
    assert isinstance(found(advised, failed_runs.NAME), (Advice, NothingFound))
