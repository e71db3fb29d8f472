"""A plugin of Kedro: a pipeline is a stage, and each of its nodes a stage in it.

The tags of a node, or else its name, tell the kind of its stage. Data sets are loaded before their node begins and
saved after it: the pipeline has that energy. Kedro finds the plugin by itself. It does nothing where nothing is
measured: call `carbon_otel.instrument()` in `settings.py`, or set `CARBON_OTEL_MEASURE_TASKS=true`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pluggy import HookimplMarker

from carbon_otel.entry_points.pipeline_tasks import TaskStages

_hook: Final = HookimplMarker("kedro")
_DEFAULT: Final = "__default__"


class Hooks:
    """Kedro's hooks, by their names. A thread, or a process, runs one node at a time."""

    def __init__(self) -> None:
        self._stages = TaskStages()

    @_hook
    def before_pipeline_run(self, run_params: Mapping[str, Any]) -> None:
        names = run_params.get("pipeline_names") or [run_params.get("pipeline_name") or _DEFAULT]
        self._stages.begin_pipeline(run_params.get("run_id"), "+".join(names))

    @_hook
    def after_pipeline_run(self, run_params: Mapping[str, Any]) -> None:
        self._stages.end(run_params.get("run_id"))

    @_hook
    def on_pipeline_error(self, error: Exception, run_params: Mapping[str, Any]) -> None:
        self._stages.end(run_params.get("run_id"), error)

    @_hook
    def before_node_run(self, node: Any, run_id: str) -> None:
        self._stages.begin((run_id, node.name), node.short_name, node.tags)

    @_hook
    def after_node_run(self, node: Any, run_id: str) -> None:
        self._stages.end((run_id, node.name))

    @_hook
    def on_node_error(self, error: Exception, node: Any, run_id: str) -> None:
        self._stages.end((run_id, node.name), error)


hooks: Final = Hooks()
