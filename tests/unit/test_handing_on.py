"""Work handed to threads, and to the processes of a pool, belongs to the stage of the place that hands it on."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import multiprocessing
import multiprocessing.pool
import pickle
import re
import subprocess
import sys
import threading
import traceback
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import carbon_otel
from carbon_otel import runtime
from carbon_otel.stages.handing_on import for_process
from carbon_otel.stages.open_stage import current

METHODS = [m for m in ("fork", "spawn", "forkserver") if m in multiprocessing.get_all_start_methods()]

exporter = InMemorySpanExporter()
provider = TracerProvider(shutdown_on_exit=False)
provider.add_span_processor(SimpleSpanProcessor(exporter))


@pytest.fixture
def measured():
    exporter.clear()
    carbon_otel.instrument(zone="FR", tracer_provider=provider)
    yield
    carbon_otel.uninstrument()


def name_above(*_: object) -> str | None:
    """The name of the stage that a stage opened here has as its parent."""
    with carbon_otel.stage("inference", "here"):
        opened = current.get()
    assert opened is not None
    return opened.parent.info.name if opened.parent is not None else None


def above_in_a_thread() -> str | None:
    found = []
    thread = threading.Thread(target=lambda: found.append(name_above()))
    thread.start()
    thread.join()
    return found[0]


class OfTheUser(threading.Thread):
    found: str | None = None

    def run(self) -> None:
        self.found = name_above()


class TestThreads:
    def test_a_thread(self, measured):
        with carbon_otel.stage("training", "outer"):
            assert above_in_a_thread() == "outer"
        assert above_in_a_thread() is None

    def test_a_thread_of_a_class_of_the_user(self, measured):
        with carbon_otel.stage("training", "outer"):
            thread = OfTheUser()
            thread.start()
            thread.join()
        assert thread.found == "outer"

    def test_a_thread_that_a_thread_starts(self, measured):
        found = []
        with carbon_otel.stage("training", "outer"):
            thread = threading.Thread(target=lambda: found.append(above_in_a_thread()))
            thread.start()
            thread.join()
        assert found == ["outer"]

    def test_a_thread_that_outlives_the_stage_is_in_none(self, measured):
        go, found = threading.Event(), []

        def work() -> None:
            assert go.wait(20)
            found.append(name_above())

        with carbon_otel.stage("training", "outer"):
            thread = threading.Thread(target=work)
            thread.start()
        go.set()
        thread.join()
        assert found == [None]

    def test_a_timer(self, measured):
        found = []
        with carbon_otel.stage("training", "outer"):
            timer = threading.Timer(0, lambda: found.append(name_above()))
            timer.start()
            timer.join()
        assert found == ["outer"]

    def test_a_thread_has_nothing_else_in_its_context_and_no_frame_of_ours(self, measured):
        found = []

        def work() -> None:
            found.append([frame.filename for frame in traceback.extract_stack()])

        with carbon_otel.stage("training", "outer"):
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
        assert not [name for name in found[0] if "carbon_otel" in name and "tests" not in name]

    def test_the_threads_of_a_pool_belong_to_the_stage_of_their_task(self, measured):
        with ThreadPoolExecutor(1) as pool:
            with carbon_otel.stage("training", "first"):
                assert pool.submit(name_above).result() == "first"
                with carbon_otel.stage("training", "second"):
                    assert pool.submit(name_above).result() == "second"
                assert list(pool.map(name_above, range(2))) == ["first"] * 2
            assert pool.submit(name_above).result() is None

    def test_a_pool_that_was_started_in_an_open_stage_runs_the_tasks_of_others_outside_of_it(self, measured):
        found: list[str | None] = []
        go, asked = threading.Event(), threading.Event()

        def other() -> None:
            assert go.wait(20)
            found.append(pool.submit(name_above).result())
            asked.set()

        thread = threading.Thread(target=other)
        thread.start()
        with ThreadPoolExecutor(1) as pool, carbon_otel.stage("training", "outer"):
            assert pool.submit(name_above).result() == "outer"
            go.set()
            assert asked.wait(20)
        thread.join()
        assert found == [None]

    @pytest.mark.parametrize("call", ["apply", "apply_async", "map", "imap", "imap_unordered", "starmap"])
    def test_thread_pools_of_multiprocessing(self, measured, call):
        with multiprocessing.pool.ThreadPool(1) as pool:
            for name in ("first", "second"):
                with carbon_otel.stage("training", name):
                    assert of_pool(pool, call) == [name]
            assert of_pool(pool, call) == [None]

    def test_asyncio(self, measured):
        async def work() -> list[str | None]:
            loop = asyncio.get_running_loop()
            with carbon_otel.stage("training", "first"):
                in_thread = await asyncio.to_thread(name_above)
            with carbon_otel.stage("training", "second"):
                in_executor = await loop.run_in_executor(None, name_above)
            return [in_thread, in_executor, await loop.run_in_executor(None, name_above)]

        assert asyncio.run(work()) == ["first", "second", None]

    def test_joblib(self, measured):
        joblib = pytest.importorskip("joblib")
        with joblib.Parallel(2, "threading") as parallel:
            for name in ("first", "second"):
                with carbon_otel.stage("training", name):
                    assert parallel(joblib.delayed(name_above)() for _ in range(4)) == [name] * 4

    def test_undone(self, measured):
        carbon_otel.uninstrument()
        assert type(vars(threading.Thread)["_bootstrap"]).__name__ == "function"


def of_pool(pool, call):
    if call == "apply":
        return [pool.apply(name_above)]
    if call == "apply_async":
        return [pool.apply_async(name_above).get(60)]
    return list(getattr(pool, call)(name_above, [(1,)]))


def parent_span(*_: object) -> str:
    """The span id of the parent of a stage opened here, in whatever process this is; empty if it has none."""
    exporter.clear()
    carbon_otel.instrument(zone="FR", tracer_provider=provider)
    with carbon_otel.stage("inference", "here"):
        pass
    (span,) = (span for span in exporter.get_finished_spans() if span.name == "here")
    return format(span.parent.span_id, "016x") if span.parent is not None else ""


def own_span() -> str:
    return carbon_otel.inject()["TRACEPARENT"].split("-")[2]


def none_measured(*_: object) -> bool:
    return runtime.begun() is None


class TestProcesses:
    @pytest.mark.parametrize("method", METHODS)
    def test_a_pool_that_serves_several_stages(self, measured, method):
        with multiprocessing.get_context(method).Pool(1) as pool:
            for calls in (["apply", "map", "imap"], ["apply_async", "starmap", "imap_unordered"]):
                with carbon_otel.stage("training", "outer"):
                    for call in calls:
                        assert of_process_pool(pool, call) == [own_span()]
            assert of_process_pool(pool, "map") == [""]

    @pytest.mark.parametrize("method", METHODS)
    def test_an_executor_that_serves_several_stages(self, measured, method):
        with ProcessPoolExecutor(1, multiprocessing.get_context(method)) as pool:
            with carbon_otel.stage("training", "first"):
                assert pool.submit(parent_span).result() == own_span()
                with carbon_otel.stage("training", "second"):
                    assert list(pool.map(parent_span, [1])) == [own_span()]
            assert pool.submit(parent_span).result() == ""

    @pytest.mark.parametrize("method", METHODS)
    def test_a_pool_that_starts_in_a_stage_is_not_of_that_stage(self, measured, method):
        context = multiprocessing.get_context(method)
        with carbon_otel.stage("training", "outer"):
            pool = context.Pool(1)
            executor = ProcessPoolExecutor(1, context)
            assert executor.submit(parent_span).result() == own_span()
        with pool, executor:
            assert pool.apply(parent_span) == ""
            assert executor.submit(parent_span).result() == ""

    @pytest.mark.parametrize("method", METHODS)
    def test_processes_of_several_stages(self, measured, method):
        context = multiprocessing.get_context(method)
        answers = context.SimpleQueue()
        for name in ("first", "second"):
            with carbon_otel.stage("training", name):
                process = context.Process(target=answer_with_parent_span, args=(answers,))
                process.start()
                assert answers.get() == own_span()
                process.join()

    @pytest.mark.parametrize("backend", ["loky", "multiprocessing"])
    def test_joblib(self, measured, backend):
        joblib = pytest.importorskip("joblib")
        with joblib.Parallel(2, backend, pre_dispatch="all", batch_size=1) as parallel:
            for name in ("first", "second"):
                with carbon_otel.stage("training", name):
                    found = parallel(joblib.delayed(parent_span)() for _ in range(4))
                    assert found == [own_span()] * 4

    def test_a_worker_that_only_computes_begins_no_measurement(self, measured):
        with carbon_otel.stage("training"), multiprocessing.get_context("fork").Pool(1) as pool:
            assert pool.map(none_measured, range(2)) == [True, True]

    def test_a_process_that_a_task_starts(self, measured):
        with (
            carbon_otel.stage("training"),
            ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool,
        ):
            assert pool.submit(start_a_process).result() == own_span()


def of_process_pool(pool, call):
    if call == "apply":
        return [pool.apply(parent_span)]
    if call == "apply_async":
        return [pool.apply_async(parent_span).get(60)]
    return list(getattr(pool, call)(parent_span, [(1,)]))


def answer_with_parent_span(answers) -> None:
    answers.put(parent_span())


def start_a_process() -> str:
    """The answer of a program, started by a worker that has no measurement of its own."""
    assert runtime.begun() is None
    program = "import os; print(os.environ['TRACEPARENT'].split('-')[2])"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout.strip()


def fails(*_: object) -> None:
    raise LookupError("of the user")


class Jealous:
    """A callable that may only be called."""

    def __call__(self) -> str:
        return "called"

    def __getattribute__(self, name: str) -> object:
        if name in ("__class__", "__reduce_ex__", "__reduce__", "__getstate__", "__dict__"):
            return object.__getattribute__(self, name)
        raise AssertionError(f"{name} was asked for")

    def __eq__(self, other: object) -> bool:
        raise AssertionError

    def __len__(self) -> int:
        raise AssertionError

    __hash__ = None  # type: ignore[assignment]


class TestTasks:
    def test_a_task_loads_where_carbon_otel_is_not_installed(self, measured):
        with carbon_otel.stage("training"):
            task = pickle.dumps((for_process(functools.partial(max, 3)), 4))
        program = (
            "import pickle, sys\nsys.path[:] = [p for p in sys.path if 'site-packages' not in p]\n"
            f"task, argument = pickle.loads({task!r})\nprint(type(task).__name__, task(argument))\n"
            "assert not [name for name in sys.modules if name.startswith('carbon_otel')]"
        )
        done = subprocess.run([sys.executable, "-ISc", program], capture_output=True, text=True)
        assert done.stdout == "partial 4\n", done.stderr

    def test_without_a_stage_a_task_is_the_users_callable(self, measured):
        assert for_process(fails) is fails

    def test_a_callable_is_only_called(self, measured):
        with carbon_otel.stage("training"):
            with ThreadPoolExecutor(1) as threads:
                assert threads.submit(Jealous()).result() == "called"
            with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as processes:
                assert processes.submit(Jealous()).result() == "called"

    def test_what_cannot_be_pickled_fails_as_without(self, measured):
        with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
            without = pool.submit(lambda: None).exception()
            with carbon_otel.stage("training"):
                within = pool.submit(lambda: None).exception()
        assert type(within) is type(without)
        assert str(within).partition("at 0x")[0] == str(without).partition("at 0x")[0]

    def test_what_cannot_be_called_fails_as_without(self, measured):
        with ThreadPoolExecutor(1) as pool:
            without = pool.submit(3).exception()
            with carbon_otel.stage("training"):
                within = pool.submit(3).exception()
        assert repr(within) == repr(without)

    @pytest.mark.parametrize("kind", ["threads", "processes"])
    def test_an_error_has_the_traceback_that_it_has_without(self, measured, kind):
        context = multiprocessing.get_context("fork")
        with ThreadPoolExecutor(1) if kind == "threads" else ProcessPoolExecutor(1, context) as pool:
            without = pool.submit(fails).exception()
            with carbon_otel.stage("training"):
                within = pool.submit(fails).exception()

        def printed(error):
            return without_ours("".join(traceback.format_exception(type(error), error, error.__traceback__)))

        assert printed(within) == printed(without)
        with multiprocessing.pool.ThreadPool(1) if kind == "threads" else context.Pool(1) as pool:
            errors = []
            for stage in (None, carbon_otel.stage("training")):
                if stage is not None:
                    stage.__enter__()
                with pytest.raises(LookupError) as raised:
                    pool.apply(fails)
                cause = raised.value.__cause__
                errors.append(without_ours(str(cause)) if cause is not None else trace_of(raised.value))
            stage.__exit__(None, None, None)
        assert errors[0] == errors[1]

    def test_a_frozen_exception_passes(self, measured):
        with ThreadPoolExecutor(1) as pool, carbon_otel.stage("training"):
            assert isinstance(pool.submit(raise_frozen).exception(), Frozen)


def without_ours(text: str) -> str:
    """Python 3.10 adds the frame of a function that raises an error again, whatever the function does."""
    if sys.version_info >= (3, 11):
        return text
    return re.sub(r' *File "[^"]*handing_on.py", line \d+, in (_within|__call__)\n.*\n', "", text)


def trace_of(error: BaseException) -> list[str]:
    names = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
    return names if sys.version_info >= (3, 11) else [name for name in names if name != "_within"]


class Frozen(Exception):
    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(name)


def raise_frozen() -> None:
    raise Frozen


def test_a_future_is_the_executors_own(measured):
    with ThreadPoolExecutor(1) as pool, carbon_otel.stage("training"):
        assert type(pool.submit(name_above)) is concurrent.futures.Future
