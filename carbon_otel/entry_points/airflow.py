"""A plugin of Airflow: each task is a stage, in the process of the task, named by its id.

The words of the id tell the kind. Airflow finds the plugin by itself. It does nothing where nothing is measured:
set `CARBON_OTEL_MEASURE_TASKS=true`, or call `carbon_otel.instrument()` in the task. Airflow ends the process of a
task without `atexit`, so what was measured is sent, in 5 seconds at most, before that.
"""

from __future__ import annotations

from typing import Any, Final

from airflow.plugins_manager import AirflowPlugin
from pluggy import HookimplMarker

from carbon_otel.entry_points.pipeline_tasks import TaskStages

_hook: Final = HookimplMarker("airflow")


class Listener:
    """Airflow's hooks, by their names."""

    def __init__(self) -> None:
        self._stages = TaskStages()

    @_hook
    def on_task_instance_running(self, task_instance: Any) -> None:
        self._stages.begin(_key(task_instance), task_instance.task_id)

    @_hook
    def on_task_instance_success(self, task_instance: Any) -> None:
        self._end(task_instance)

    @_hook
    def on_task_instance_skipped(self, task_instance: Any) -> None:
        self._end(task_instance)

    @_hook
    def on_task_instance_failed(self, task_instance: Any) -> None:
        # Airflow before 2.10 has no `error` here, and refuses a listener that asks for it.
        self._end(task_instance, RuntimeError("the task has failed"))

    @_hook
    def before_stopping(self) -> None:
        self._stages.stop()

    def _end(self, task_instance: Any, error: BaseException | None = None) -> None:
        self._stages.end(_key(task_instance), error)
        self._stages.send()


class CarbonPlugin(AirflowPlugin):  # type: ignore[misc]  # the package is not there for the type checker
    """What Airflow looks for."""

    name = "carbon_otel"
    listeners = (Listener(),)


def _key(task_instance: Any) -> tuple[Any, ...]:
    return tuple(getattr(task_instance, part, None) for part in ("dag_id", "run_id", "task_id", "map_index"))
