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
# The key of the pipeline; those of nodes are their names, which are never empty.
_PIPELINE: Final = ""


class Hooks:
    """Kedro's hooks, by their names, with those arguments that all versions have: Kedro refuses others.

    A process runs one pipeline at a time, and a node of it in one thread.
    """

    def __init__(self) -> None:
        self._stages = TaskStages()

    @_hook
    def before_pipeline_run(self, run_params: Mapping[str, Any]) -> None:
        names = run_params.get("pipeline_names") or [run_params.get("pipeline_name") or _DEFAULT]
        self._stages.begin_pipeline(_PIPELINE, "+".join(names))

    @_hook
    def after_pipeline_run(self) -> None:
        self._stages.end(_PIPELINE)

    @_hook
    def on_pipeline_error(self, error: Exception) -> None:
        self._stages.end(_PIPELINE, error)

    @_hook
    def before_node_run(self, node: Any) -> None:
        self._stages.begin(node.name, node.short_name, node.tags)

    @_hook
    def after_node_run(self, node: Any) -> None:
        self._stages.end(node.name)

    @_hook
    def on_node_error(self, error: Exception, node: Any) -> None:
        self._stages.end(node.name, error)


hooks: Final = Hooks()
