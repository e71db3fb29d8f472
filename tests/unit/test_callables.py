"""`@stage(...)` on every kind of callable: who pays inside it, what the caller sees, what is open afterwards."""

from __future__ import annotations

import abc
import asyncio
import builtins
import contextlib
import copy
import functools
import gc
import inspect
import itertools
import logging
import multiprocessing.pool
import pickle
import subprocess
import sys
import threading
import types
import typing
import warnings
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
import typer
from typer.testing import CliRunner

import carbon_otel
from carbon_otel import runtime
from carbon_otel.sinks import Sink
from carbon_otel.stages.open_stage import current
from tests.fakes.powercap import server

training = carbon_otel.stage("training")


class Opened(Sink):
    """The kinds of the stages that were opened."""

    def __init__(self) -> None:
        self.kinds: list[str] = []
        self.errors: list[BaseException | None] = []

    def stage_opened(self, stage):
        self.kinds.append(stage.kind)

    def stage_closed(self, stage, end):
        self.errors.append(end.error)


@pytest.fixture
def opened(tmp_path):
    carbon_otel.instrument(zone="FR", powercap_root=server(tmp_path).root, interval_s=30)
    sink = Opened()
    runtime.active().add_sink(sink)
    yield sink
    assert not runtime.active().engine._open, "a stage is still open"
    assert current.get() is None


def payers() -> list[str]:
    """Who pays at this moment."""
    return [account.kind for account in runtime.active().engine.books.payers()]


def work(*_: object, **__: object) -> list[str]:
    return payers()


async def work_later(*_: object, **__: object) -> list[str]:
    await asyncio.sleep(0)
    return payers()


def steps(*_: object, **__: object):
    yield payers()
    yield payers()
    return payers()


async def steps_later(*_: object, **__: object):
    yield payers()
    await asyncio.sleep(0)
    yield payers()


async def listed(stream):
    return [item async for item in stream]


PAID = ["training"]
NAMED = ["Thread", "Timer", "ApplyResult", "IMapIterator", "Popen"]


class TestDescriptors:
    """The result of the decorator is used as the object below it would be."""

    def test_class_and_static_methods_on_either_side(self, opened):
        class Model:
            @training
            @classmethod
            def above(cls, x: int = 1) -> object:
                return cls, x, payers()

            @classmethod
            @training
            def below(cls, x: int = 1) -> object:
                return cls, x, payers()

            @training
            @staticmethod
            def plain(x: int = 1) -> object:
                return x, payers()

            @training
            @staticmethod
            async def later() -> object:
                return await work_later()

        class Child(Model):
            pass

        assert Model.above(2) == (Model, 2, PAID) and Child().above() == (Child, 1, PAID)
        assert Child.below(2) == (Child, 2, PAID)
        assert Model.plain(3) == (3, PAID) == Model().plain(3)
        assert inspect.iscoroutinefunction(Model.later) and asyncio.run(Model.later()) == PAID
        assert isinstance(vars(Model)["above"], classmethod) and isinstance(
            vars(Model)["plain"], staticmethod
        )
        assert str(inspect.signature(Model.above)) == "(x: 'int' = 1) -> 'object'"

    def test_properties(self, opened):
        class Model:
            """A model."""

            @training
            @property
            def score(self):
                """The score."""
                return payers()

            @score.setter
            def score(self, value):
                self.value = value, payers()

            @training
            @functools.cached_property
            def table(self):
                """The table."""
                return payers()

        model = Model()
        model.score = 1
        assert model.score == PAID and model.value == (1, ["unattributed"])
        assert Model.score.__doc__ == "The score." and isinstance(Model.score, property)
        assert model.table == PAID and model.table is model.table
        assert opened.kinds == ["training"] * 2

    def test_partialmethod(self, opened):
        class Model:
            def fit(self, rows, *, fast):
                return rows, fast, payers()

            @classmethod
            def make(cls, rows):
                return cls, rows, payers()

            quick = training(functools.partialmethod(fit, fast=True))
            empty = training(functools.partialmethod(make, 0))

        assert Model().quick(3) == (3, True, PAID)
        assert Model.empty() == (Model, 0, PAID)

    def test_abstract_methods_stay_abstract(self, opened):
        class Base(abc.ABC):
            @training
            @abc.abstractmethod
            def fit(self): ...

            @abc.abstractmethod
            @training
            def score(self): ...

            @training
            @classmethod
            @abc.abstractmethod
            def make(cls): ...

            @training
            @property
            @abc.abstractmethod
            def name(self): ...

        assert Base.__abstractmethods__ == {"fit", "score", "make", "name"}

    def test_singledispatch(self, opened):
        @training
        @functools.singledispatch
        def show(value):
            return "any", payers()

        @show.register
        def _(value: int):
            return "int", payers()

        assert show("a") == ("any", PAID) and show(1) == ("int", PAID)

        class Model:
            @training
            @functools.singledispatchmethod
            def show(self, value):
                return "any", payers()

            @show.register
            def _(self, value: int):
                return self, payers()

        model = Model()
        assert model.show("a") == ("any", PAID) and model.show(1) == (model, PAID)

    def test_dataclass_methods(self, opened):
        import dataclasses

        @dataclasses.dataclass
        class Model:
            depth: int = 3

            @training
            def __post_init__(self):
                self.paid = payers()

        assert Model(4).paid == PAID and Model(4).depth == 4


class TestCallables:
    def test_lru_cache_keeps_its_functions(self, opened):
        class Model:
            @training
            @functools.lru_cache(maxsize=4)  # noqa: B019 - ends with the test
            def square(self, x):
                return x * x, payers()

        model = Model()
        assert model.square(3) == (9, PAID) == model.square(3)
        assert Model.square.cache_info().hits == 1
        Model.square.cache_clear()
        assert Model.square.cache_parameters()["maxsize"] == 4
        assert opened.kinds == ["training"] * 2

    @pytest.mark.parametrize("function", [work, work_later, steps, steps_later])
    @pytest.mark.parametrize(
        "form", ["partial", "partial of partial", "object", "bound", "lambda", "wrapped"]
    )
    def test_every_form_of_every_kind_of_function(self, opened, function, form):
        class Callable:
            __call__ = function
            method = function

        shown = {
            "partial": functools.partial(function, 1),
            "partial of partial": functools.partial(functools.partial(function, 1), x=2),
            "object": Callable(),
            "bound": Callable().method,
            "lambda": lambda *a: function(*a),
            "wrapped": functools.wraps(function)(lambda *a: function(*a)),
        }[form]
        measured = training(shown)
        for detect in (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction):
            if detect(shown):
                assert detect(measured)
        result = measured(1)
        if function is work:
            assert result == PAID
        elif function is work_later:
            assert inspect.isawaitable(result) and asyncio.iscoroutine(result)
            assert asyncio.run(result) == PAID
        elif function is steps:
            assert isinstance(result, types.GeneratorType)
            assert list(result) == [PAID, PAID]
        else:
            assert inspect.isasyncgen(result)
            assert asyncio.run(listed(result)) == [PAID, PAID]
        assert opened.kinds == ["training"]

    def test_an_object_with_an_async_call_is_an_async_function(self, opened):
        """So that a web framework that asks does not run it in a thread."""

        class Endpoint:
            async def __call__(self, rows: int) -> list[str]:
                return await work_later()

        measured = training(Endpoint())
        assert inspect.iscoroutinefunction(measured)
        assert str(inspect.signature(measured)) == "(rows: 'int') -> 'list[str]'"

    def test_builtins(self, opened):
        assert training(len)([1, 2]) == 2
        assert training(builtins.sorted)([2, 1]) == [1, 2]
        assert training("ab".upper)() == "AB"
        assert training(functools.partial(max, 3))(2) == 3

    def test_marked_coroutine_functions(self, opened):
        def later():
            return work_later()

        later = mark(later)
        measured = training(later)
        assert asyncio.iscoroutinefunction(measured) == asyncio.iscoroutinefunction(later)
        assert asyncio.run(measured()) == PAID

    def test_async_mocks(self, opened):
        from unittest.mock import AsyncMock, MagicMock

        assert asyncio.run(training(AsyncMock(side_effect=work_later))()) == PAID
        assert training(MagicMock(return_value=3))() == 3

    @pytest.mark.parametrize("wrong", [dict, int, type("Model", (), {})])
    def test_a_class_is_refused_with_the_remedy(self, opened, wrong):
        with pytest.raises(TypeError, match=r"is a class; write @carbon_otel\.stage.* above its methods"):
            training(wrong)

    @pytest.mark.parametrize("wrong", [3, None, "training", [work]])
    def test_what_cannot_be_called_is_refused_with_the_remedy(self, opened, wrong):
        with pytest.raises(TypeError, match="function"):
            training(wrong)

    def test_a_forgotten_kind_is_explained(self):
        with pytest.raises(ValueError, match=r"write @carbon_otel\.stage\('training'\)"):

            @carbon_otel.stage
            def fit(): ...

    def test_click_commands(self, opened):
        click = pytest.importorskip("click", reason="comes with mlflow")
        from click.testing import CliRunner

        said = []

        @click.command()
        @click.option("--depth", type=int, default=1)
        @training
        def fit(depth: int) -> None:
            said.append((depth, payers()))

        assert CliRunner().invoke(fit, ["--depth", "3"]).exit_code == 0
        assert said == [(3, PAID)]

    def test_typer_commands(self, opened):
        said = []
        app = typer.Typer()

        @app.command()
        @training
        def fit(depth: int = 1) -> None:
            said.append((depth, payers()))

        assert CliRunner().invoke(app, ["--depth", "4"]).exit_code == 0
        assert said == [(4, PAID)]

    def test_type_hints_are_those_of_the_function(self):
        @training
        def fit(rows: int) -> list[str]: ...

        assert typing.get_type_hints(fit) == {"rows": int, "return": list[str]}


def mark(function):
    if hasattr(inspect, "markcoroutinefunction"):
        return inspect.markcoroutinefunction(function)
    function._is_coroutine = asyncio.coroutines._is_coroutine
    return function


class TestResults:
    """A plain function that returns something to be run later: its stage goes on with that."""

    def test_tasks_and_futures(self, opened):
        seen = []

        async def train():
            await asyncio.sleep(0)
            seen.append(payers())
            with carbon_otel.stage("evaluation"):
                seen.append(current.get().parent.info.kind)
            return 7

        @training
        def start():
            return asyncio.get_running_loop().create_task(train())

        async def main():
            task = start()
            assert isinstance(task, asyncio.Task) and current.get() is None
            assert await task == 7
            future = asyncio.get_running_loop().create_future()
            assert training(lambda: future)() is future
            assert payers() == PAID
            future.set_result(8)
            assert await future == 8
            await asyncio.sleep(0)
            assert payers() == ["unattributed"]

        asyncio.run(main())
        assert seen == [PAID, "training"]
        assert opened.kinds == ["training", "evaluation", "training"]

    def test_a_task_that_is_dropped_or_cancelled_ends_its_stage(self, opened):
        async def main():
            task = training(lambda: asyncio.ensure_future(asyncio.sleep(60)))()
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            training(lambda: asyncio.get_running_loop().create_future())()
            gc.collect()
            await asyncio.sleep(0)

        asyncio.run(main())
        assert opened.kinds == ["training"] * 2

    def test_the_error_of_a_task_is_still_reported_by_asyncio(self, opened):
        async def fail():
            raise KeyError("x")

        async def main():
            reported = []
            asyncio.get_running_loop().set_exception_handler(lambda _, c: reported.append(c["message"]))
            training(lambda: asyncio.ensure_future(fail()))()
            await asyncio.sleep(0.01)
            gc.collect()
            return reported

        assert asyncio.run(main()) == ["Task exception was never retrieved"]

    def test_a_coroutine_that_is_never_awaited_warns_once_with_its_own_name(self, opened):
        measured = training(lambda: work_later())
        for call in (work_later, measured):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                call()
                gc.collect()
            assert [str(w.message) for w in caught] == ["coroutine 'work_later' was never awaited"]
        assert current.get() is None

    def test_a_coroutine_that_fails_passes_its_error_on(self, opened):
        error = KeyError("x")

        async def fail():
            raise error

        with pytest.raises(KeyError) as caught:
            asyncio.run(training(lambda: fail())())
        assert caught.value is error and opened.errors == [error]

    def test_a_coroutine_can_be_driven_by_hand(self, opened):
        @types.coroutine
        def receive():
            return (yield "ready")

        async def both():
            return await receive(), await receive()

        coroutine = training(lambda: both())()
        assert coroutine.send(None) == "ready" and coroutine.send(1) == "ready"
        with pytest.raises(StopIteration) as stop:
            coroutine.send(2)
        assert stop.value.value == (1, 2)
        training(lambda: both())().close()

    def test_generator_based_coroutines_can_be_awaited(self, opened):
        @types.coroutine
        def later():
            yield from asyncio.sleep(0).__await__()
            return payers()

        async def main():
            assert inspect.isawaitable(training(later)())
            return await training(later)(), await training(lambda: later())()

        assert asyncio.run(main()) == (PAID, PAID)

    def test_generator_based_coroutines_pay_while_they_wait(self, opened):
        @types.coroutine
        def wait(event):
            yield from event.wait().__await__()

        async def main(measured):
            event = asyncio.Event()
            waiting = asyncio.ensure_future(measured(event))
            await asyncio.sleep(0)
            paying = payers()
            event.set()
            await waiting
            return paying, payers()

        for measured in (training(wait), training(lambda event: wait(event))):
            assert asyncio.run(main(measured)) == (PAID, ["unattributed"])

    def test_generators_receive_sent_values_and_thrown_exceptions(self, opened):
        def echo():
            seen = []
            with contextlib.suppress(KeyError):
                seen.append((yield 1))
                seen.append((yield 2))
            yield 3
            return seen

        generator = training(lambda: echo())()
        assert next(generator) == 1 and generator.send("a") == 2
        assert generator.throw(KeyError("k")) == 3
        with pytest.raises(StopIteration) as stop:
            next(generator)
        assert stop.value.value == ["a"]
        assert generator.__name__ == "echo"

    @pytest.mark.parametrize("stream", [steps, steps_later, work_later])
    @pytest.mark.filterwarnings("ignore:coroutine")
    def test_a_stream_that_is_never_started_ends_its_stage(self, opened, stream):
        training(lambda: stream())()
        gc.collect()
        assert opened.kinds == ["training"] and len(opened.errors) == 1

    def test_an_async_function_that_returns_a_stream(self, opened):
        @training
        async def answer():
            await asyncio.sleep(0)
            return steps_later()

        async def main():
            stream = await answer()
            assert payers() == ["unattributed"]
            return await listed(stream)

        assert asyncio.run(main()) == [PAID, PAID]
        assert opened.kinds == ["training"]

    def test_another_decorator_in_between(self, opened):
        def retry(function):
            def again(*args):
                return function(*args)

            return again

        async def main():
            async def step():
                return payers()

            return await asyncio.create_task(training(retry(step))()), await training(retry(training(step)))()

        assert asyncio.run(main()) == (PAID, PAID)

    @pytest.mark.parametrize("above", [True, False])
    def test_context_managers(self, opened, above):
        seen = []

        def block():
            seen.append(payers())
            try:
                yield 5
            finally:
                seen.append(payers())

        manager = (
            training(contextlib.contextmanager(block))
            if above
            else contextlib.contextmanager(training(block))
        )
        with manager() as value:
            seen.append((value, payers()))

        @manager()
        def decorated():
            seen.append(payers())

        decorated()
        assert seen == [PAID, (5, ["unattributed"]), PAID, PAID, ["unattributed"], PAID]
        assert opened.kinds == ["training"] * 2

    @pytest.mark.parametrize("above", [True, False])
    def test_async_context_managers(self, opened, above):
        seen = []

        async def block():
            seen.append(payers())
            yield 5
            await asyncio.sleep(0)
            seen.append(payers())

        async def main():
            make = contextlib.asynccontextmanager
            manager = training(make(block)) if above else make(training(block))
            async with manager() as value:
                seen.append((value, payers()))

        asyncio.run(main())
        assert seen == [PAID, (5, ["unattributed"]), PAID]
        assert opened.kinds == ["training"]

    def test_other_awaitable_objects_are_returned_as_they_are_and_named_once(self, opened, caplog):
        class Request:
            def __await__(self):
                yield from asyncio.sleep(0).__await__()
                return "answer"

            async def __aenter__(self):
                return self

            async def __aexit__(self, *error): ...

        request = Request()
        fetch = training(lambda: request)
        with caplog.at_level(logging.WARNING, "carbon_otel"):
            assert fetch() is request and fetch() is request
        (warning,) = [r.getMessage() for r in caplog.records]
        assert "Request" in warning and "async with carbon_otel.stage(...)" in warning

    def test_the_future_of_a_pool_ends_its_stage(self, opened):
        evaluated, go_on, seen = threading.Event(), threading.Event(), []

        def train():
            with carbon_otel.stage("evaluation"):
                seen.append(payers())
            evaluated.set()
            go_on.wait(60)

        with ThreadPoolExecutor(1) as pool:
            future = training(pool.submit)(train)
            assert type(future) is Future and current.get() is None
            assert evaluated.wait(60) and payers() == PAID
            go_on.set()
            pool.submit(int).result(60)  # the callbacks of the first future have run
            assert payers() == ["unattributed"]
        assert seen == [["evaluation"]] and opened.kinds == ["training", "evaluation"]

    def test_futures_that_are_done_cancelled_failed_or_dropped(self, opened):
        done, cancelled, failed, dropped = Future(), Future(), Future(), Future()
        done.set_result(1)
        for future in (done, cancelled, failed, dropped):
            assert training(lambda future=future: future)() is future
        cancelled.cancel()
        failed.set_exception(KeyError("x"))
        del future, dropped
        gc.collect()
        assert payers() == ["unattributed"] and opened.kinds == ["training"] * 4

    def test_a_future_of_the_users_class_is_not_asked(self, opened):
        class Mine(Future):
            def __getattr__(self, name):
                raise AssertionError(name)

            add_done_callback = None

        future = Mine()
        assert training(lambda: future)() is future and payers() == PAID
        future.set_result(1)
        assert payers() == ["unattributed"]

    @pytest.mark.parametrize(
        ("make", "expected"),
        [
            (lambda: map(work, range(3)), [PAID] * 3),
            (lambda: filter(lambda _: payers() == PAID, range(3)), [0, 1, 2]),
            (lambda: zip(map(work, range(2)), "ab", strict=True), [(PAID, "a"), (PAID, "b")]),
            (lambda: enumerate(map(work, range(2))), [(0, PAID), (1, PAID)]),
            (lambda: itertools.chain(map(work, range(2)), [1]), [PAID, PAID, 1]),
            (lambda: itertools.islice(map(work, range(9)), 2), [PAID] * 2),
            (lambda: itertools.starmap(work, [(1, 2), (3, 4)]), [PAID] * 2),
        ],
        ids=["map", "filter", "zip", "enumerate", "chain", "islice", "starmap"],
    )
    def test_lazy_iterators_pay_while_they_are_iterated(self, opened, make, expected):
        lazy = training(make)()
        assert isinstance(lazy, type(make())) and iter(lazy) is lazy and current.get() is None
        found = []
        for item in lazy:
            assert payers() == ["unattributed"]
            found.append(item)
        assert found == expected and next(lazy, "over") == "over"
        assert opened.kinds == ["training"]

    def test_a_lazy_iterator_goes_on_after_an_error(self, opened):
        lazy = training(lambda: map(int, ["1", "x", "2"]))()
        assert next(lazy) == 1
        with pytest.raises(ValueError, match="'x'"):
            next(lazy)
        assert list(lazy) == [2]
        (error,) = opened.errors
        assert isinstance(error, ValueError)

    def test_a_lazy_iterator_that_is_dropped_ends_its_stage(self, opened):
        for started in (False, True):
            lazy = training(lambda: map(work, range(3)))()
            if started:
                next(lazy)
            del lazy
            gc.collect()
        assert opened.kinds == ["training"] * 2

    @pytest.mark.skipif(sys.version_info >= (3, 14), reason="iterators of Python 3.14 cannot be pickled")
    def test_a_lazy_iterator_is_copied_and_pickled_as_without(self, opened):
        lazy = training(lambda: map(abs, [-1, -2, -3]))()
        assert next(lazy) == 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # from Python 3.12 on
            saved = pickle.dumps(lazy)
        assert b"carbon_otel" not in saved and list(pickle.loads(saved)) == [2, 3] == list(lazy)

    def test_work_that_ends_unnoticed_is_named_once(self, opened, caplog):
        thread = threading.Thread(target=work)
        pool = multiprocessing.pool.ThreadPool(1)
        with pool, caplog.at_level(logging.WARNING, "carbon_otel"):
            for result in (
                thread,
                thread,
                threading.Timer(9, work),
                pool.apply_async(int),
                pool.imap(int, "12"),
            ):
                assert training(lambda result=result: result)() is result
            process = training(lambda: subprocess.Popen([sys.executable, "-c", ""]))()
            process.wait(60)
        said = [r.getMessage() for r in caplog.records]
        assert [text.split(":")[0].rpartition(" ")[2] for text in said] == NAMED
        assert all("the stage has the energy of the call only" in text for text in said)

    @pytest.mark.parametrize("value", [None, 1, "x", [1], (), {}, object(), type])
    def test_every_other_result_is_the_same_object(self, opened, value):
        assert training(lambda: value)() is value

    def test_no_code_of_the_result_runs(self, opened):
        class Lazy:
            def __getattribute__(self, name):
                raise AssertionError(name)

            __bool__ = __len__ = __iter__ = __eq__ = __hash__ = None

        lazy = Lazy()
        assert training(lambda: lazy)() is lazy


class TestFastAPI:
    def test_endpoints(self, opened):
        fastapi = pytest.importorskip("fastapi", reason="comes with mlflow")
        from fastapi.responses import StreamingResponse
        from fastapi.testclient import TestClient

        app = fastapi.FastAPI()

        class Predict:
            async def __call__(self, rows: int) -> list[str]:
                return [str(rows), *await work_later()]

        def session():
            yield "session"

        @app.get("/plain")
        @training
        def plain(rows: int, of: str = fastapi.Depends(training(session))) -> list[str]:
            return [str(rows), of, *payers()]

        @app.get("/later")
        @training
        async def later(rows: int) -> list[str]:
            return [str(rows), *await work_later()]

        app.get("/object")(training(Predict()))

        @app.get("/stream")
        @training
        def stream():
            return StreamingResponse(training(lambda: (f"{payers()}\n" for _ in range(2)))())

        client = TestClient(app)
        assert client.get("/plain?rows=3").json() == ["3", "session", "training"]
        assert client.get("/later?rows=3").json() == ["3", "training"]
        assert client.get("/object?rows=3").json() == ["3", "training"]
        assert client.get("/stream").text == "['training']\n" * 2
        assert client.get("/plain").status_code == 422


class TestCopies:
    def test_a_copied_or_pickled_stage_is_a_new_one_with_the_same_words(self, opened):
        with carbon_otel.stage("training", "fit", attributes={"depth": 3}) as s:
            s.units(samples=5)
            twins = [copy.copy(s), copy.deepcopy(s), pickle.loads(pickle.dumps(s))]
        for twin in twins:
            assert twin.footprint.method == "missing"
            with twin:
                info = current.get().info
            assert (info.kind, info.name, info.attributes) == ("training", "fit", {"depth": 3})
            assert twin.footprint.units == {"samples": 5}
        assert s.footprint.method == "measured.counter"
        assert pickle.loads(pickle.dumps(s.footprint)) == s.footprint

    def test_a_decorated_function_can_be_pickled_by_value(self, opened):
        cloudpickle = pytest.importorskip("cloudpickle", reason="comes with mlflow")
        for function in (work, steps, work_later, steps_later):
            source = {"__name__": "__main__"}
            exec("def make(training, f):\n  def g(): return f()\n  return training(g)", source)
            measured = source["make"](training, function)
            measured.__module__ = "__main__"
            copied = pickle.loads(cloudpickle.dumps(measured))
            result = copied()
            if function is work:
                assert result == PAID
            elif function is steps:
                assert list(result) == [PAID] * 2
            else:
                assert asyncio.run(result if function is work_later else listed(result)) in (PAID, [PAID] * 2)
