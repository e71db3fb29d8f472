"""Kedro's plugin: a pipeline is a stage, and its nodes are stages in it."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from carbon_otel.entry_points.kedro import Hooks
from carbon_otel.stages.automatic import around
from tests.frameworks import books

pytest.importorskip("kedro")
from kedro.framework.hooks.manager import _create_hook_manager
from kedro.io import DataCatalog, MemoryDataset
from kedro.pipeline import node, pipeline
from kedro.runner import SequentialRunner, ThreadRunner


def prepare(raw: list[int]) -> list[int]:
    return [2 * each for each in raw]


def fit(data: list[int]) -> int:
    with around("training", "Model.fit"):
        return sum(data)


def look(model: int) -> int:
    return model + 1


def broken(model: int) -> int:
    raise ValueError("by the user")


CHURN = pipeline(
    [
        node(prepare, "raw", "data", name="clean_raw"),
        node(fit, "data", "model", name="train"),
        node(look, "model", "score", name="final_step", tags=["evaluation"]),
    ]
)


def run(of, runner):
    hooks = _create_hook_manager()
    hooks.register(Hooks())
    parameters = {"run_id": "1", "pipeline_names": ["churn"]}
    catalog = DataCatalog({"raw": MemoryDataset([1, 2])})
    hooks.hook.before_pipeline_run(run_params=parameters, pipeline=of, catalog=catalog)
    try:
        runner.run(of, catalog, hook_manager=hooks, run_id="1")
    except ValueError as error:
        hooks.hook.on_pipeline_error(error=error, run_params=parameters, pipeline=of, catalog=catalog)
        raise
    hooks.hook.after_pipeline_run(run_params=parameters, run_result={}, pipeline=of, catalog=catalog)


@pytest.mark.parametrize("runner", [SequentialRunner, ThreadRunner])
def test_nodes_are_stages_of_the_kind_that_their_name_or_tag_tells(stages, runner):
    run(CHURN, runner())
    assert [(each.kind, each.name, each.parent) for each in books.check(stages)] == [
        ("data_processing", "clean_raw", "churn"),
        ("training", "Model.fit", "train"),
        ("training", "train", "churn"),
        ("evaluation", "final_step", "churn"),
        ("pipeline", "churn", None),
    ]


def test_a_node_that_fails_ends_its_stage_and_that_of_the_pipeline(stages):
    with pytest.raises(ValueError, match="by the user"):
        run(pipeline([node(broken, "raw", "model", name="train")]), SequentialRunner())
    ended = stages.ended()
    assert [(each.kind, each.name) for each in ended] == [("training", "train"), ("pipeline", "churn")]
    assert not any(each.span.status.is_ok for each in ended)


def test_the_entry_point_names_hooks_of_kedro():
    written = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    (line,) = [line for line in written.splitlines() if "carbon_otel.entry_points.kedro:" in line]
    module, _, name = line.split('"')[1].partition(":")
    manager = _create_hook_manager()
    manager.register(getattr(importlib.import_module(module), name))
    assert len(manager.hook.before_node_run.get_hookimpls()) == 1


def test_the_hooks_ask_for_nothing_that_older_versions_lack():
    """Kedro 0.19 has `session_id` where Kedro 1 has `run_id`, and refuses hooks that ask for the other."""
    manager = _create_hook_manager()
    manager.register(Hooks())
    asked = {
        argument
        for name in ("before_pipeline_run", "after_pipeline_run", "on_pipeline_error")
        + ("before_node_run", "after_node_run", "on_node_error")
        for each in getattr(manager.hook, name).get_hookimpls()
        for argument in each.argnames
    }
    assert asked == {"run_params", "node", "error"}
