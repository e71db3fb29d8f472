"""Stages that end in another context than they began in: streams that a server or a collection closes."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import threading

import pytest
from opentelemetry import trace
from opentelemetry.context import Context, attach

import carbon_otel
from carbon_otel import runtime
from carbon_otel.stages.open_stage import current
from tests.fakes.powercap import server
from tests.unit.test_otel_sink import Application, program


@pytest.fixture
def application(tmp_path, caplog):
    application = Application(server(tmp_path))
    application.instrument()
    application.tracer = application.tracer_provider.get_tracer("app")
    with caplog.at_level(logging.DEBUG):
        yield application
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING] == []
    assert not runtime.active().engine._open
    assert current.get() is None
    assert not trace.get_current_span().get_span_context().is_valid


def stream(application, joules: float = 5):
    with carbon_otel.stage("inference"):
        application.draw(joules)
        yield 1
        yield 2


def energy(application, name: str = "inference") -> float:
    return application.spans()[name].attributes["carbon_otel.energy.total_j"]


def test_a_stream_that_is_closed_in_another_context(application):
    generator = stream(application)
    contextvars.copy_context().run(next, generator)
    with application.tracer.start_as_current_span("closing") as span, carbon_otel.stage("evaluation") as s:
        here = trace.get_current_span()
        generator.close()
        assert current.get() is s._last and trace.get_current_span() is here
    assert not span.is_recording()
    assert energy(application) > 1  # of 5 J, as the edges extrapolate


def test_every_step_of_a_stream_in_a_context_of_its_own(application):
    """A server runs each step of a plain generator in a thread, with a copy of its context."""
    generator = stream(application)
    context = contextvars.copy_context()
    while context.copy().run(next, generator, None) is not None:
        pass
    assert energy(application) > 1  # of 5 J, as the edges extrapolate


def test_a_stream_that_another_thread_collects(application):
    generators = [stream(application)]
    threads = [threading.Thread(target=next, args=generators), threading.Thread(target=generators.clear)]
    for thread in threads:
        thread.start()
        thread.join()
    gc.collect()
    assert energy(application) > 1  # of 5 J, as the edges extrapolate


def test_a_stream_that_is_closed_within_a_stage_of_the_same_context(application):
    """The stage within which it is closed stays current, and no ended stage becomes current after it."""
    generator = stream(application)
    next(generator)
    outer = carbon_otel.stage("training")
    with outer:
        generator.close()
        assert current.get() is outer._last
        with carbon_otel.stage("evaluation") as inner:
            pass
        assert inner._last.parent is outer._last
    spans = application.spans()
    assert spans["evaluation"].parent.span_id == spans["training"].context.span_id


def test_streams_that_are_closed_in_the_order_of_their_start(application):
    with (
        application.tracer.start_as_current_span("request") as request,
        carbon_otel.stage("training") as outer,
    ):
        generators = [stream(application) for _ in range(3)]
        for generator in generators:
            next(generator)
        for generator in generators:
            generator.close()
        assert current.get() is outer._last
    assert trace.get_current_span() is not request
    assert len(application.exporter.get_finished_spans()) == 5


def test_a_stage_that_ends_in_a_copy_of_its_context(application):
    """A callback has a copy of the context in which it was made, with the stage in it."""
    seen = []
    s = carbon_otel.stage("training")
    s.__enter__()

    def end():
        s.__exit__(None, None, None)
        seen.append((current.get(), trace.get_current_span().get_span_context().is_valid))

    contextvars.copy_context().run(end)
    assert seen == [(None, False)]
    # The context in which the stage began cannot be changed from the other one, so it still has the ended stage.
    # The next stage there is no child of the ended one.
    with carbon_otel.stage("evaluation") as later:
        pass
    assert later._last.parent is None and application.spans()["evaluation"].parent is None
    current.set(None)
    attach(Context())


def test_an_abandoned_async_stream_that_the_loop_closes(application):
    async def tokens():
        with carbon_otel.stage("inference"):
            application.draw(5)
            yield 1
            yield 2

    async def main():
        async for _ in tokens():
            break
        await asyncio.sleep(0)
        gc.collect()
        await asyncio.sleep(0)

    asyncio.run(main())
    assert energy(application) > 1  # of 5 J, as the edges extrapolate


def test_an_async_stage_that_is_cancelled(application):
    async def work():
        async with carbon_otel.stage("training"):
            await asyncio.sleep(60)

    async def main():
        task = asyncio.create_task(work())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])

    asyncio.run(main())
    assert "training" in application.spans()


def plain(work):
    with carbon_otel.stage("inference"):
        yield work()
        yield "y"


async def later(work):
    with carbon_otel.stage("inference"):
        yield work()
        await asyncio.sleep(0)
        yield "y"


@carbon_otel.stage("inference")
def plain_decorated(work):
    yield work()
    yield "y"


@carbon_otel.stage("inference")
async def later_decorated(work):
    yield work()
    yield "y"


@pytest.mark.parametrize("stream", [plain, later, plain_decorated, later_decorated])
@pytest.mark.parametrize("disconnects", [True, False])
def test_streaming_responses(application, stream, disconnects):
    responses = pytest.importorskip("starlette.responses", reason="comes with mlflow")

    def work():
        application.draw(5)
        return "x"

    async def receive():
        await asyncio.sleep(60)

    async def send(message):
        if disconnects and message["type"] == "http.response.body":
            raise OSError("the client has gone")

    async def request():
        response = responses.StreamingResponse(stream(work))
        await response({"type": "http", "asgi": {"spec_version": "2.4"}}, receive, send)

    async def main():
        for _ in range(3):
            (ended,) = await asyncio.gather(request(), return_exceptions=True)
            assert type(ended).__name__ == ("ClientDisconnect" if disconnects else "NoneType")
            gc.collect()
            await asyncio.sleep(0)

    asyncio.run(main())
    gc.collect()
    assert len(application.exporter.get_finished_spans()) == 3
    assert energy(application) > 1  # of 5 J, as the edges extrapolate


@pytest.mark.parametrize("separate", ["true", "false"])
def test_streams_within_traces_of_mlflow(separate):
    """With MLflow's own providers and with those of the application."""
    pytest.importorskip("mlflow")
    out = program(
        """
import contextvars, logging, sys
logging.basicConfig(stream=sys.stdout, level=logging.WARNING, format="%(name)s %(message)s")
import mlflow, carbon_otel
mlflow.set_tracking_uri("sqlite:///traces.db")
carbon_otel.instrument(zone="FR")
def stream():
    with carbon_otel.stage("inference"):
        yield 1
        yield 2
def active():
    return mlflow.get_current_active_span().name
with mlflow.start_span("request"):
    elsewhere, here = stream(), stream()
    contextvars.copy_context().run(next, elsewhere)
    with mlflow.start_span("closing"):
        elsewhere.close()
        print(active())
    print(active())
    with carbon_otel.stage("evaluation"):
        print(active())
        next(here)
        print(active())
        here.close()
        print(active())
    next(here := stream())
    with mlflow.start_span("closing"):
        here.close()
        print(active())
""",
        MLFLOW_USE_DEFAULT_TRACER_PROVIDER=separate,
    )
    assert [line for line in out.splitlines() if "alembic" not in line] == [
        "closing",
        "request",
        "evaluation",
        "inference",
        "evaluation",
        "closing",
    ]
