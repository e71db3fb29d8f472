"""Near the recursion limit: what would succeed without us succeeds, if need be without a stage."""

from __future__ import annotations

import inspect
import logging
import sys

import pytest

from carbon_otel import guard
from carbon_otel.stages import api
from tests.unit.test_interrupted_stage import Bench

# The frames that a stage's edge takes are fewer.
ENOUGH = 80


class Plain:
    """A manager and decorator that does nothing, and takes the frames that any such object takes."""

    def __init__(self, kind):
        self.kind = kind

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None

    async def __aenter__(self):
        return self

    async def __aexit__(self, *error):
        return None

    def __call__(self, function):
        if inspect.iscoroutinefunction(function):

            async def around(*args):
                with Plain(self.kind):
                    return await function(*args)

        elif inspect.isgeneratorfunction(function):

            def around(*args):
                with Plain(self.kind):
                    yield from function(*args)

        else:

            def around(*args):
                with Plain(self.kind):
                    return function(*args)

        return around


def block(stage):
    def work():
        with stage("outer"):
            with stage("inner"):
                found = leaf()
            return found + 1

    return work


def nested_object(stage):
    def work():
        one = stage("outer")
        with one, one:
            return leaf()

    return work


def decorated(stage):
    return stage("decorated")(leaf)


def generator(stage):
    made = stage("generator")(numbers)
    return lambda: list(made())


def asynchronous(stage):
    async def within():
        async with stage("async"):
            return 7

    return lambda: driven(within())


def coroutine(stage):
    made = stage("coroutine")(answer)
    return lambda: driven(made())


def leaf():
    return 7


def numbers():
    yield 1
    yield 2


async def answer():
    return 7


def driven(coroutine):
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value


def at_limit(frames, work):
    """The work's result with so many frames left, or the RecursionError."""
    before, limit = sys.getrecursionlimit(), frames
    while limit < before:
        try:
            sys.setrecursionlimit(limit)
        except RecursionError:  # it is deeper here
            limit += 1
        else:
            break
    sys.setrecursionlimit(limit + frames)
    try:
        return work()
    except RecursionError as error:
        return error
    finally:
        sys.setrecursionlimit(before)


@pytest.fixture
def bench(monkeypatch):
    one = Bench()
    monkeypatch.setattr(api, "recorder", lambda: one)
    guard.forget()
    return one


@pytest.mark.parametrize("make", [block, nested_object, decorated, generator, asynchronous, coroutine])
def test_a_stage_near_the_limit_lets_the_program_go_on(make, bench, caplog):
    caplog.set_level(logging.WARNING, "carbon_otel")
    plain, measured = make(Plain), make(api.Stage)
    least = next(n for n in range(1, ENOUGH) if not isinstance(at_limit(n, plain), RecursionError))
    expected = measured()
    for frames in range(least, ENOUGH):
        assert at_limit(frames, measured) == expected, f"with {frames} frames, {least} are enough"
        bench.engine.tick()
        bench.check()
    said = [record.getMessage() for record in caplog.records]
    assert said and len(said) == len(set(said)) and all("recursion limit" in each for each in said)


def test_a_fault_of_the_users_own_recursion_reaches_the_user(bench):
    def endless():
        with api.Stage("endless"):
            return endless()

    with pytest.raises(RecursionError):
        endless()
    bench.engine.tick()
    bench.engine.tick(checkpoint=True)
    for _ in range(1000):  # a tick ends some of the stages
        bench.engine.tick()
    bench.check()
