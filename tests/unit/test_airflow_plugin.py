"""Airflow's plugin, by the hooks that Airflow calls in the process of a task.

Airflow itself is no dependency of the tests. The specifications are those of Airflow 3.3, called through pluggy as
Airflow does.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType, SimpleNamespace

import pluggy
import pytest

import carbon_otel
from carbon_otel import runtime
from carbon_otel.sinks import Sink
from tests.fakes.powercap import server

_spec = pluggy.HookspecMarker("airflow")


class Specifications:
    @_spec
    def on_task_instance_running(self, previous_state, task_instance): ...

    @_spec
    def on_task_instance_success(self, previous_state, task_instance): ...

    @_spec
    def on_task_instance_failed(self, previous_state, task_instance, error): ...

    @_spec
    def on_task_instance_skipped(self, previous_state, task_instance): ...

    @_spec
    def before_stopping(self, component): ...


@pytest.fixture
def tree(tmp_path):
    yield server(tmp_path / "sys")
    carbon_otel.uninstrument()


@pytest.fixture
def airflow(monkeypatch):
    """The hooks of the plugin, as Airflow calls them."""
    manager = ModuleType("airflow.plugins_manager")
    manager.AirflowPlugin = type("AirflowPlugin", (), {})
    monkeypatch.setitem(sys.modules, "airflow", ModuleType("airflow"))
    monkeypatch.setitem(sys.modules, "airflow.plugins_manager", manager)
    monkeypatch.delitem(sys.modules, "carbon_otel.entry_points.airflow", raising=False)
    module = importlib.import_module("carbon_otel.entry_points.airflow")
    hooks = pluggy.PluginManager("airflow")
    hooks.add_hookspecs(Specifications)
    for listener in module.CarbonPlugin.listeners:
        hooks.register(listener)
    hooks.check_pending()
    yield hooks.hook
    del sys.modules["carbon_otel.entry_points.airflow"]


def task(name: str) -> SimpleNamespace:
    return SimpleNamespace(dag_id="churn", run_id="1", task_id=name, map_index=-1)


def run(airflow, name: str, end: str = "success", **more) -> None:
    airflow.on_task_instance_running(previous_state=None, task_instance=task(name))
    getattr(airflow, f"on_task_instance_{end}")(previous_state=None, task_instance=task(name), **more)


def test_a_task_is_a_stage_of_the_kind_that_its_name_tells(airflow, tree):
    carbon_otel.instrument(zone="FR", powercap_root=tree.root)
    run(airflow, "prepare_data")
    run(airflow, "train_model", "skipped")
    run(airflow, "evaluate", "failed", error=ValueError("by the user"))
    run(airflow, "publish", "failed", error="by the user")
    airflow.before_stopping(component=None)
    stages = set(carbon_otel.footprint().stages)
    assert stages == {"data_processing", "training", "evaluation", "task", "unattributed"}
    assert runtime.begun() is not None  # who has begun it ends it


def test_a_listener_asks_for_nothing_that_older_versions_lack(airflow):
    """pluggy refuses a listener with an argument that the specification has not."""
    asked = {
        name: each.argnames
        for name in vars(Specifications)
        if not name.startswith("_")
        for each in getattr(airflow, name).get_hookimpls()
    }
    assert set(asked.pop("before_stopping")) == set()
    assert set(asked.values()) == {("task_instance",)}


def test_nothing_is_measured_where_nobody_asks(airflow):
    run(airflow, "train_model")
    airflow.before_stopping(component=None)
    assert runtime.begun() is None


def test_by_its_setting_the_plugin_measures_the_task(airflow, tree, monkeypatch):
    monkeypatch.setenv("CARBON_OTEL_MEASURE_TASKS", "true")
    monkeypatch.setenv("CARBON_OTEL_POWERCAP_ROOT", str(tree.root))
    run(airflow, "train_model")
    assert "training" in carbon_otel.footprint().stages
    airflow.before_stopping(component=None)
    assert runtime.begun() is None


def test_a_wrong_setting_reaches_the_log_and_no_task(airflow, monkeypatch, caplog):
    monkeypatch.setenv("CARBON_OTEL_MEASURE_TASKS", "perhaps")
    run(airflow, "train_model")
    assert "perhaps" in caplog.text


def test_the_stage_of_the_process_ends_with_the_task(airflow, tree, monkeypatch):
    """Where the task calls `instrument()` itself: Airflow ends its process without `atexit`."""
    monkeypatch.setenv("AIRFLOW_CTX_TASK_ID", "train_model")
    ended = []

    class Ended(Sink):
        def stage_closed(self, stage, end) -> None:
            ended.append((stage.kind, stage.name))

    airflow.on_task_instance_running(previous_state=None, task_instance=task("train_model"))
    carbon_otel.instrument(zone="FR", powercap_root=tree.root)
    runtime.begun().add_sink(Ended())
    airflow.on_task_instance_success(previous_state=None, task_instance=task("train_model"))
    assert ended == [("training", "train_model")]
