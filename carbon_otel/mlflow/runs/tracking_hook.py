"""Reports the start and the end of MLflow runs, whatever API starts them.

The fluent API, the client, resumed runs, nested runs, other threads and autologging all reach the tracking
store. Its methods show every event: the start of a run, its resumption (status RUNNING) and its end, which may
be a deletion. `mlflow.start_run` is not patched, because from-imports and clients would bypass the patch; the
`ActiveRun` that it makes shows that a run becomes active in a thread.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from types import ModuleType
from typing import Any, Final, Protocol

from carbon_otel.guard import contain, log_once
from carbon_otel.instrumentation.base import Undo, replace
from carbon_otel.mlflow import compat, otlp_redirect
from carbon_otel.mlflow.runs.run_stages import Begun
from carbon_otel.mlflow.schema import names
from carbon_otel.units import MS_PER_S

_PARENT_TAG: Final = "mlflow.parentRunId"
_RUNNING: Final = "RUNNING"
# A run with an earlier start time than this records work that has ended; autologged searches create such
# runs.
_PAST_MS: Final = 1000

# Tells the listener what ends; the result takes that back.
_End = Callable[["RunEvents", Any, Any], "Callable[[], None] | None"]

_renaming: ContextVar[bool] = ContextVar("carbon_otel_mlflow_renaming", default=False)


class RunEvents(Protocol):
    """The listener to the events of runs."""

    def run_started(self, begun: Begun) -> None: ...

    def run_entered(self, run_id: str) -> None: ...

    def continue_with(self, unfinished: Sequence[Begun]) -> None:
        """Continue those runs that are still running, in the background."""

    def run_ended(self, run_id: str) -> Callable[[], None] | None:
        """The run is about to be marked as ended. Figures written now are there when it is.

        The result is called if the store refuses.
        """

    def experiment_ended(self, store: Any, experiment_id: str) -> Callable[[], None] | None:
        """The same for all runs of an experiment."""

    def run_found_ended(self, run_id: str) -> None:
        """The program has read that the run has ended. Another process may have ended it."""


def patch(module: ModuleType, events: Callable[[], RunEvents | None]) -> Undo:
    """Patch MLflow. `events` returns the listener at each event, or None."""
    client: Any = module.TrackingServiceClient
    undos: list[Undo] = []
    watched: set[type] = set()

    def watch(store_class: type) -> None:
        for owner in store_class.__mro__:
            if owner not in watched and owner is not object and owner.__name__ != "AbstractStore":
                watched.add(owner)
                undos.extend(_watch_store(owner, events))

    def watch_store_of(made: Any) -> None:
        watch(type(made.store))

    original_init, original_update, original_get = client.__init__, client.update_run, client.get_run

    @functools.wraps(original_init)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807 - the name of the replaced method
        original_init(self, *args, **kwargs)
        contain("watching MLflow's store", None, watch_store_of, self)

    @functools.wraps(original_update)
    def update_run(self: Any, run_id: str, status: str | None = None, name: str | None = None) -> Any:
        # A new name is sent together with the run's status, which is then not a resumption.
        token = _renaming.set(status is None)
        try:
            return original_update(self, run_id, status=status, name=name)
        finally:
            _renaming.reset(token)

    @functools.wraps(original_get)
    def get_run(self: Any, *args: Any, **kwargs: Any) -> Any:
        run = original_get(self, *args, **kwargs)
        contain("noticing the end of an MLflow run", None, _found, run, events)
        return run

    undos += [
        replace(client, "__init__", __init__),
        replace(client, "update_run", update_run),
        replace(client, "get_run", get_run),
    ]
    for store_class in _known_stores(module):
        watch(store_class)
    warning = otlp_redirect.warning()
    if warning is not None:
        log_once(warning)
    contain("noticing the active MLflow run", None, _adopt, events)

    def undo() -> None:
        while undos:
            undos.pop()()

    return undo


def patch_fluent(module: ModuleType, events: Callable[[], RunEvents | None]) -> Undo:
    """Patch the fluent API. `events` returns the listener at each event, or None."""
    original = module.ActiveRun.__init__

    @functools.wraps(original)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807 - the name of the replaced method
        original(self, *args, **kwargs)
        contain("entering an MLflow run", None, _entered, self, events)

    return replace(module.ActiveRun, "__init__", __init__)


def _adopt(events: Callable[[], RunEvents | None]) -> None:
    """Measure the runs that were active before the patch, from now on."""
    listener = events()
    if listener is None:
        return
    mine = compat.active_run_ids()
    begun = [_begun(compat.current_store(), run, resumed=True) for run in compat.active_runs()]
    for each in begun:
        if each.run_id in mine:
            listener.run_started(each)
            listener.run_entered(each.run_id)
    listener.continue_with([each for each in begun if each.run_id not in mine])


def _known_stores(module: ModuleType) -> list[type]:
    """The store classes of clients that exist already."""
    rest_store: Any = getattr(module, "RestStore", None)
    bases = [base for base in getattr(rest_store, "__mro__", ()) if base.__name__ == "AbstractStore"]
    stores: list[type] = []
    while bases:
        base = bases.pop()
        below = base.__subclasses__()
        stores += below
        bases += below
    return stores


def _watch_store(owner: type, events: Callable[[], RunEvents | None]) -> list[Undo]:
    undos = []
    create, update = vars(owner).get("create_run"), vars(owner).get("update_run_info")
    if create is not None:

        @functools.wraps(create)
        def create_run(self: Any, *args: Any, **kwargs: Any) -> Any:
            asked_ms = time.time() * MS_PER_S
            # A file store names a new run by an update, which is not a resumption.
            token = _renaming.set(True)
            try:
                run = create(self, *args, **kwargs)
            finally:
                _renaming.reset(token)
            contain("noticing a new MLflow run", None, _created, self, run, args, kwargs, asked_ms, events)
            return run

        undos.append(replace(owner, "create_run", create_run))
    if update is not None:

        @functools.wraps(update)
        def update_run_info(self: Any, *args: Any, **kwargs: Any) -> Any:
            run_id, status = contain("reading the status of an MLflow run", ("", None), _change, args, kwargs)
            if run_id and status and status not in compat.UNFINISHED:
                return _ending(_run_ended, run_id, events, update, self, *args, **kwargs)
            info = update(self, *args, **kwargs)
            if run_id and status == _RUNNING and not _renaming.get():
                contain("noticing a resumed MLflow run", None, _resumed, self, run_id, info, events)
            return info

        undos.append(replace(owner, "update_run_info", update_run_info))
    undos += [
        _watch_end(owner, name, "run_id", _run_ended, events)
        for name in compat.DELETE_RUN
        if name in vars(owner)
    ]
    undos += [
        _watch_end(owner, name, "experiment_id", _experiment_ended, events)
        for name in compat.DELETE_EXPERIMENT
        if name in vars(owner)
    ]
    return undos


def _watch_end(
    owner: type, name: str, argument: str, ended: _End, events: Callable[[], RunEvents | None]
) -> Undo:
    """Watch a method that ends what its first argument names."""
    original = vars(owner)[name]

    @functools.wraps(original)
    def delete(self: Any, *args: Any, **kwargs: Any) -> Any:
        subject = contain("reading what MLflow deletes", None, _first, args, kwargs, argument)
        return _ending(ended, subject, events, original, self, *args, **kwargs)

    return replace(owner, name, delete)


def _ending(
    ended: _End,
    subject: Any,
    events: Callable[[], RunEvents | None],
    original: Callable[..., Any],
    store: Any,
    /,
    *args: Any,
    **kwargs: Any,
) -> Any:
    """Call a method of the store that ends a run. If it raises, the run has not ended."""
    listener = contain("ending an MLflow run", None, events)
    undo = (
        contain("ending an MLflow run", None, ended, listener, store, subject)
        if listener is not None
        else None
    )
    try:
        return original(store, *args, **kwargs)
    except BaseException:
        if undo is not None:
            contain("continuing an MLflow run", None, undo)
        raise


def _run_ended(listener: RunEvents, store: Any, run_id: str) -> Callable[[], None] | None:
    return listener.run_ended(run_id)


def _experiment_ended(listener: RunEvents, store: Any, experiment_id: Any) -> Callable[[], None] | None:
    return listener.experiment_ended(store, str(experiment_id))


def _created(
    store: Any,
    run: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    asked_ms: float,
    events: Callable[[], RunEvents | None],
) -> None:
    start_ms = kwargs.get("start_time") or (args[2] if len(args) > 2 else None)
    if start_ms and start_ms <= asked_ms - _PAST_MS:
        return
    listener = events()
    if run.data is not None and names.ENTRY in run.data.tags:
        return  # an entry of the ledger
    if listener is not None and not compat.is_served(store):
        listener.run_started(_begun(store, run, resumed=False))


def _resumed(store: Any, run_id: str, info: Any, events: Callable[[], RunEvents | None]) -> None:
    listener = events()
    if listener is not None and not compat.is_served(store):
        listener.run_started(
            Begun(
                run_id,
                getattr(info, "run_name", None) or run_id,
                store,
                str(getattr(info, "experiment_id", "")),
                getattr(info, "start_time", 0),
                resumed=True,
            )
        )


def _found(run: Any, events: Callable[[], RunEvents | None]) -> None:
    listener = events() if run.info.status not in compat.UNFINISHED else None
    if listener is not None:
        listener.run_found_ended(run.info.run_id)


def _entered(run: Any, events: Callable[[], RunEvents | None]) -> None:
    listener = events()
    if listener is not None:
        listener.run_entered(run.info.run_id)


def _begun(store: Any, run: Any, *, resumed: bool) -> Begun:
    info = run.info
    parent = run.data.tags.get(_PARENT_TAG) if run.data is not None else None
    name = info.run_name or info.run_id
    return Begun(info.run_id, name, store, str(info.experiment_id), info.start_time, parent, resumed)


def _first(args: tuple[Any, ...], kwargs: dict[str, Any], name: str) -> Any:
    return kwargs.get(name) or (args[0] if args else None)


def _change(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[str, str | None]:
    """The id of the run, and its status as a name; MLflow passes a number or a name."""
    run_id = str(kwargs.get("run_id") or (args[0] if args else ""))
    status = kwargs.get("run_status", args[1] if len(args) > 1 else None)
    if isinstance(status, int):
        return run_id, {1: "RUNNING", 2: "SCHEDULED", 3: "FINISHED", 4: "FAILED", 5: "KILLED"}.get(status)
    return run_id, str(status) if status else None
