"""datasets, also with processes of `multiprocess`."""

from __future__ import annotations

import json
import os

import pytest

import carbon_otel
from carbon_otel import runtime
from tests.frameworks import books

datasets = pytest.importorskip("datasets")
datasets.disable_progress_bars()
ROWS = 12


@pytest.fixture
def data():
    return datasets.Dataset.from_dict({"x": list(range(ROWS))})


def double(row):
    return {"y": row["x"] * 2}


def stage(name: str, rows: int = ROWS):
    return "data_processing", name, {"rows": rows}


def test_each_change_of_a_data_set_is_a_stage(stages, data, tmp_path):
    doubled = data.map(double)
    doubled.filter(lambda row: row["x"] > 2)
    data.sort("x", reverse=True)
    data.train_test_split(0.5, seed=0)
    data.save_to_disk(tmp_path / "saved")
    assert doubled["y"][1] == 2
    assert stages() == [
        stage("Dataset.map"),
        stage("Dataset.filter"),
        stage("Dataset.sort"),
        stage("Dataset.train_test_split"),
        stage("Dataset.save_to_disk"),
    ]


def test_the_splits_of_a_dict_are_one_stage(stages, data):
    both = datasets.DatasetDict(train=data, test=data)
    both.map(double).filter(lambda row: True).sort("x")
    assert stages() == [stage(f"DatasetDict.{name}", 2 * ROWS) for name in ("map", "filter", "sort")]


def test_a_data_set_that_is_loaded(stages, tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(json.dumps({"x": number}) for number in range(ROWS)))
    load = {"data_files": str(file), "cache_dir": str(tmp_path / "cache")}
    datasets.load_dataset("json", split="train", **load)
    datasets.load_dataset("json", streaming=True, **load)
    assert stages() == [stage("load_dataset"), ("data_processing", "load_dataset", {})]


def test_the_automatic_stages_have_what_manual_ones_around_the_lines_have(stages, data):
    with carbon_otel.stage("lines", "map"):
        data.map(double)
    ended = books.check(stages)
    assert [(each.name, each.parent) for each in ended] == [("Dataset.map", "map"), ("map", None)]


def test_the_fingerprint_of_a_function_is_the_same_with_us(stages, data):
    with_us = data.map(double)._fingerprint, data.filter(double)._fingerprint
    carbon_otel.uninstrument()
    assert (data.map(double)._fingerprint, data.filter(double)._fingerprint) == with_us


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_interrupted_map_ends_its_stage(stages, data, error):
    def fails(row):
        raise error("by the user")

    with pytest.raises(error, match="by the user"):
        data.map(fails)
    assert stages() == [("data_processing", "Dataset.map", {})]
    data.sort("x")
    assert [(each.name, each.parent) for each in stages.ended()] == [("Dataset.sort", None)]


class TestProcesses:
    def test_a_helper_measures_nothing_by_itself(self, stages, data):
        preprocessing = pytest.importorskip("sklearn.preprocessing")

        def scale(row):
            preprocessing.StandardScaler().fit_transform([[row["x"]], [0]])
            return {"pid": os.getpid(), "measures": runtime.begun() is not None}

        made = data.map(scale, num_proc=2, load_from_cache_file=False)
        assert os.getpid() not in made["pid"] and not any(made["measures"])
        assert stages() == [stage("Dataset.map")]

    def test_a_stage_of_the_user_in_it_is_in_the_trace(self, stages, data):
        def measured(row):
            with carbon_otel.stage("inference", "row"):
                return {"trace": carbon_otel.inject({})["TRACEPARENT"].split("-")[1]}

        with carbon_otel.stage("lines"):
            made = data.map(measured, num_proc=2, load_from_cache_file=False)
        (_, outer) = stages.ended()
        assert set(made["trace"]) == {f"{outer.span.context.trace_id:032x}"}

    def test_a_process_that_has_measured_sends_its_last_figures(self, stages, data, tmp_path, monkeypatch):
        here = os.getpid()
        stop = runtime.stop

        def noted(**options: bool) -> None:
            if os.getpid() != here:
                (tmp_path / f"stopped {os.getpid()}").touch()
            stop(**options)

        monkeypatch.setattr(runtime, "stop", noted)

        def measured(row):
            with carbon_otel.stage("inference"):
                return {"pid": os.getpid()}

        made = data.map(measured, num_proc=2, load_from_cache_file=False)
        assert {path.name for path in tmp_path.glob("stopped *")} == {f"stopped {pid}" for pid in made["pid"]}
