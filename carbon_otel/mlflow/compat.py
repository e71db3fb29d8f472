"""The private names of MLflow that carbon_otel uses, and wrappers of a few public ones.

MLflow is never imported at the top of a module, because that takes seconds. Tried with MLflow 3.5 to 3.17.
"""

from __future__ import annotations

import copy
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import Token
from typing import Any, Final, NamedTuple, Protocol

from opentelemetry import context, trace
from opentelemetry.context import Context

from carbon_otel.fork import before_a_fork, renew_after_fork

# A program that imports this module can create runs.
TRACKING_CLIENT_MODULE: Final = "mlflow.tracking._tracking_service.client"
# It starts runs, and knows which is active.
FLUENT_MODULE: Final = "mlflow.tracking.fluent"
# The methods of tracking stores that delete; the second of each pair is for `mlflow gc`.
DELETE_RUN: Final = ("delete_run", "_hard_delete_run")
DELETE_EXPERIMENT: Final = ("delete_experiment", "_hard_delete_experiment")
# The states of a run that has not ended.
UNFINISHED: Final = ("RUNNING", "SCHEDULED")
_NO_RUNS: Final[tuple[tuple[Any, ...], int]] = (), 0
# A fork waits at most this long for a call of our threads to a store. SQLite keeps the locks of its files in
# memory, where a child would wait for them in vain; a call takes some milliseconds. With a server, only short
# locks of Python's libraries are shared, and a server may hang.
_SQLITE_CALL_S: Final = 1.0
_CALL_S: Final = 0.05
# They log each error of a database, with its traceback, and each retry of a request.
_TALKATIVE: Final = ("mlflow.store.db.utils", "urllib3.connectionpool")
_SERVING: Final = "_MLFLOW_IS_IN_SERVING_ENVIRONMENT"


class TrackingStore(Protocol):
    """The methods of MLflow's `AbstractStore` that carbon_otel calls. Every method may raise MlflowException."""

    def log_batch(
        self, run_id: str, metrics: Sequence[Any], params: Sequence[Any], tags: Sequence[Any]
    ) -> None: ...

    def get_run(self, run_id: str) -> Any: ...

    def create_run(
        self, experiment_id: str, user_id: str, start_time: int, tags: Sequence[Any], run_name: str
    ) -> Any: ...

    def update_run_info(
        self, run_id: str, run_status: int, end_time: int | None, run_name: str | None
    ) -> Any: ...

    def search_runs(
        self, experiment_ids: Sequence[str], filter_string: str, run_view_type: int, max_results: int
    ) -> Sequence[Any]: ...

    def get_experiment_by_name(self, experiment_name: str) -> Any | None: ...

    def create_experiment(self, name: str, artifact_location: str | None, tags: Any) -> str: ...

    def get_logged_model(self, model_id: str) -> Any: ...


class MetricPoint(NamedTuple):
    """The latest point of one metric of a run; `timestamp` is in milliseconds since the epoch."""

    key: str
    value: float
    timestamp: int
    step: int


def metric_points(data: Any) -> list[MetricPoint]:
    """The latest point of each metric, from the data of a run."""
    return [MetricPoint(m.key, m.value, m.timestamp, m.step) for m in data._metric_objs]


def store_of(client: Any) -> TrackingStore:
    """The tracking store behind an `MlflowClient`."""
    store: TrackingStore = client._tracking_client.store
    return store


def store_at(uri: str) -> TrackingStore:
    """The tracking store that MLflow uses for this URI. Imports MLflow."""
    from mlflow import MlflowClient

    with our_call(uri):  # MLflow makes all stores under one lock
        return store_of(MlflowClient(uri))


def client_at(uri: str) -> Any:
    """An `MlflowClient` of the store at this URI. Imports MLflow."""
    from mlflow import MlflowClient

    return MlflowClient(uri)


def experiment_here() -> tuple[str, str]:
    """The URI of the program's store, and the experiment of the run that is active, or that would start, here.

    MLflow's fluent API must be imported.
    """
    fluent: Any = sys.modules[FLUENT_MODULE]
    run = fluent.active_run()
    experiment = run.info.experiment_id if run is not None else fluent._active_experiment_id
    from mlflow import get_tracking_uri

    return get_tracking_uri(), experiment or ""


@contextmanager
def without_autologging() -> Iterator[None]:
    """A block whose fits MLflow logs nowhere. It has one switch, for all threads."""
    switches: Any = sys.modules.get("mlflow.utils.autologging_utils")
    before = getattr(switches, "_AUTOLOGGING_GLOBALLY_DISABLED", None)
    if before is None:
        yield
        return
    switches._AUTOLOGGING_GLOBALLY_DISABLED = True
    try:
        yield
    finally:
        switches._AUTOLOGGING_GLOBALLY_DISABLED = before


def our_call(uri: str) -> AbstractContextManager[None]:
    """A block in which a thread of ours calls the store at this URI; a fork waits for its end."""
    return _quiet_call(_SQLITE_CALL_S if uri.startswith("sqlite:") else _CALL_S)


class _NotOfOurCalls(logging.Filter):
    """Drops what is logged during a call of ours."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not getattr(_in_thread, "calls", False)


@contextmanager
def _quiet_call(at_most_s: float) -> Iterator[None]:
    """A fork waits for this block, for `at_most_s` seconds. What fails in it is reported by our caller, once."""
    for name in _TALKATIVE:
        logging.getLogger(name).addFilter(_not_of_our_calls)
    outer, _in_thread.calls = getattr(_in_thread, "calls", False), True
    try:
        with before_a_fork(at_most_s):
            yield
    finally:
        _in_thread.calls = outer


_in_thread = threading.local()
_not_of_our_calls: Final = _NotOfOurCalls()


def client_of(store: TrackingStore) -> Any:
    """An `MlflowClient` of this store, for runs and experiments, wherever MLflow's tracking URI leads now."""
    from mlflow import MlflowClient

    tracking = sys.modules[TRACKING_CLIENT_MODULE].TrackingServiceClient
    # Its constructor would look the store up by an address.
    client = MlflowClient.__new__(MlflowClient)
    client._tracking_client = object.__new__(type(tracking.__name__, (tracking,), {"store": store}))
    return client


def current_store() -> TrackingStore:
    """The tracking store of MLflow's fluent API, which must have been imported."""
    store: TrackingStore = sys.modules["mlflow.tracking.fluent"]._get_store()
    return store


# Asked for once, since it is a system call, and `active_run_ids` is called at each edge of a stage.
_pid = os.getpid()


def _renew() -> None:
    """In a forked child."""
    global _pid
    _pid = os.getpid()


renew_after_fork(_renew)


def active_run_ids() -> Sequence[str]:
    """The runs that the fluent API has active in this thread, the innermost first.

    Called at each edge of a stage. `mlflow.active_run()` would create a list for a thread that has none.
    """
    variable = getattr(sys.modules.get(FLUENT_MODULE), "_active_run_stack", None)
    if variable is None:  # not imported, or not yet completely
        return ()
    stack, pid = getattr(variable.thread_local, "value", _NO_RUNS)
    if not stack or pid != _pid:
        return ()
    return (stack[0].info.run_id,) if len(stack) == 1 else [run.info.run_id for run in reversed(stack)]


def active_runs() -> list[Any]:
    """The runs that the fluent API has active in any thread; the outer before those nested in it.

    A thread that has ended may have left some.
    """
    variable = getattr(sys.modules.get(FLUENT_MODULE), "_active_run_stack", None)
    if variable is None:
        return []
    return [run for stack in variable.get_all_thread_values().values() for run in stack]


def is_served(store: Any) -> bool:
    """Whether it is the store of an MLflow server in this process, whose runs belong to other processes."""
    handlers = sys.modules.get("mlflow.server.handlers")
    return handlers is not None and getattr(handlers, "_tracking_store", None) is store


def location_of(store: Any) -> str | None:
    """The database, server or folder of a store, as MLflow writes it; it may contain a password."""
    credentials = getattr(store, "get_host_creds", None)
    if credentials is not None:
        return str(credentials().host)
    for name in ("db_uri", "root_directory"):
        if hasattr(store, name):
            return str(getattr(store, name))
    return None


def explicit_tracking_uri() -> str:
    """The tracking URI that was set, by a call or by the environment; empty if MLflow uses its default."""
    utils = sys.modules.get("mlflow.tracking._tracking_service.utils")
    uri: str = getattr(utils, "_tracking_uri", None) or os.environ.get("MLFLOW_TRACKING_URI", "")
    return uri


def tracking_uri() -> str:
    """MLflow's tracking URI. Looks at the disk for the default."""
    uri: str = sys.modules["mlflow"].get_tracking_uri()
    return uri


def separate(store: TrackingStore) -> TrackingStore:
    """The same store for a thread of ours, so that the application's children can use theirs after a fork.

    It has separate database connections: in a child, a lock of the application's pool that our thread held at
    the fork would stay locked. A fork waits for its calls, since the libraries below have locks of their own. A
    database in memory exists in its own connections only, which are used here too.
    """
    engine = getattr(store, "engine", None)
    if engine is None or not hasattr(store, "ManagedSessionMaker"):
        return _OfOurThread(store, _CALL_S)
    at_most_s = _SQLITE_CALL_S if engine.url.get_backend_name() == "sqlite" else _CALL_S
    if _is_in_memory(engine.url):
        return _OfOurThread(store, at_most_s)
    from mlflow.store.db.utils import _get_managed_session_maker
    from sqlalchemy.orm import sessionmaker  # noqa: PLC0415 - comes with mlflow

    own: Any = copy.copy(store)
    # A copy keeps the credentials and the listeners of the application's engine; `dispose` gives it a new
    # pool.
    own.engine = copy.copy(engine)
    own.engine.dispose(close=False)
    own.ManagedSessionMaker = _get_managed_session_maker(sessionmaker(bind=own.engine), own.db_type)
    return _OfOurThread(own, at_most_s)


class _OfOurThread:
    """A store; a fork waits for each call, for `at_most_s` seconds."""

    def __init__(self, store: TrackingStore, at_most_s: float) -> None:
        self._store = store
        self._at_most_s = at_most_s

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)
        if not callable(method):
            return method

        def call(*args: Any, **kwargs: Any) -> Any:
            with _quiet_call(self._at_most_s):
                return method(*args, **kwargs)

        return call


def _is_in_memory(url: Any) -> bool:
    if url.get_backend_name() != "sqlite":
        return False
    return url.database in (None, "", ":memory:") or "mode=memory" in str(url)


def attach_span(span: Any) -> object:
    """Make a span the active one in MLflow's own context; returns a token for `detach_span`."""
    token: object = sys.modules["mlflow.tracing.provider"].set_span_in_context(span)
    return token


def detach_span(span: Any, token: object) -> None:
    """Undo `attach_span`; nothing in a context in which another span is active.

    The token cannot be given back to MLflow in another context than the one in which the span was attached:
    OpenTelemetry would log an error.
    """
    for each in token if isinstance(token, tuple) else (token,):
        if isinstance(each, Token) and trace.get_current_span(each.var.get()) is span._span:
            each.var.set(Context() if each.old_value is Token.MISSING else each.old_value)
        elif each is not None and not isinstance(each, Token):
            context.detach(each)


def is_serving(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether this process is a scoring server of MLflow."""
    return bool(environ.get(_SERVING))


def found_by(search: Callable[..., Any], *args: Any, **kwargs: Any) -> Iterator[Any]:
    """All results of `search`, a method of `MlflowClient` that takes a `page_token`. Raises its errors."""
    token = None
    while True:
        page = search(*args, **kwargs, page_token=token)
        yield from page
        token = page.token
        if not token:
            return
