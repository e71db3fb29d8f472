"""Dask: stages in a task are children of the stage that has submitted the task, and in its run.

A client puts the variables of its stage on a graph as an annotation, which changes neither keys nor functions.
Schedulers and workers pass on what they do not know. A worker takes the variables from its task, if carbon_otel is
there; with `processes=False` it is in this process, and takes the stage itself.

Without a cluster, Dask uses pools of threads and of processes, which hand the stage on by themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from types import ModuleType, TracebackType
from typing import Any, Final

from carbon_otel.guard import contain
from carbon_otel.instrumentation.base import Undo
from carbon_otel.instrumentation.in_place import Around, Changed, unseen
from carbon_otel.stages.api import inject
from carbon_otel.stages.handing_on import Place, TakenOver, Within, here

_ANNOTATION: Final = "carbon_otel"


class ClientIntegration:
    """Hands the stage on with the graphs that a client submits."""

    module = "distributed.client"

    def connect(self, module: ModuleType) -> Undo:
        changed = Changed()
        submit = vars(module.Client).get("_graph_to_futures")
        changed.put(submit, Around(_submitting, module.dask.annotate))
        return changed.undo


class WorkerIntegration:
    """Takes the stage over in the thread that runs a task."""

    module = "distributed.worker"

    def connect(self, module: ModuleType) -> Undo:
        changed = Changed()
        changed.put(vars(module).get("_run_task"), Around(_running))
        return changed.undo


DASK: Final = (ClientIntegration(), WorkerIntegration())


class _Handed:
    """The place that submits a graph; its variables, once it is pickled for another process."""

    __slots__ = ("place", "variables")

    def __init__(self, place: Place, variables: Mapping[str, str]) -> None:
        self.place = place
        self.variables = variables

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self.variables),)


class _Annotated:
    """A block in which graphs are annotated."""

    __slots__ = ("_annotations",)

    def __init__(self, annotations: AbstractContextManager[None]) -> None:
        self._annotations = annotations

    def __enter__(self) -> Callable[[Any], Any]:
        self._annotations.__enter__()
        return unseen

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # The error of the block is not its error.
        self._annotations.__exit__(None, None, None)


def _submitting(
    annotate: Callable[..., AbstractContextManager[None]], /, *_: Any, **__: Any
) -> _Annotated | None:
    return contain("handing a stage on to Dask", None, _annotated, annotate)


def _annotated(annotate: Callable[..., AbstractContextManager[None]]) -> _Annotated | None:
    place = here()
    return None if place is None else _Annotated(annotate(**{_ANNOTATION: _Handed(place, inject({}))}))


def _running(_: Any, __: Any, execution_state: Mapping[str, Any], key: Any, /, *___: Any) -> Within | None:
    return contain("taking a stage from Dask", None, _taken, execution_state, key)


def _taken(execution_state: Mapping[str, Any], key: Any) -> Within:
    annotations = execution_state["worker"].state.tasks[key].annotations or {}
    handed = annotations.get(_ANNOTATION)
    if isinstance(handed, _Handed):
        return Within(handed.place)
    return Within(Place()) if handed is None else TakenOver(handed)
