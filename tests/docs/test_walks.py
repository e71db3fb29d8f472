"""A reading crosses each room once on its way to a span and to a metric, as CONTRIBUTING.md shows it."""

from __future__ import annotations

import ast
import itertools
import time
from collections.abc import Sequence
from typing import NamedTuple

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider

import carbon_otel
from carbon_otel.runtime import active
from tests.docs.pages import PAGES, ROOT, table
from tests.docs.walks import Event, recorded
from tests.fakes.powercap import Tree
from tests.integration.processes import wait_for
from tests.unit.test_architecture import room_of

MEASURING = ("sensors", "meter", "stages")
DELIVERY = ("carbon_otel delivery", "carbon_otel upload")


class Step(NamedTuple):
    """A row of the walk: the reading is in a function's result ("return"), or in its argument ("call")."""

    room: str
    event: Event


def steps(title: str) -> list[Step]:
    kinds = {"gives": "return", "takes": "call"}
    return [
        Step(
            room,
            Event(
                kinds[text.split()[0]],  # type: ignore[arg-type]
                file.strip("`").removeprefix("carbon_otel/"),
                function.strip("`").rpartition(".")[2],
            ),
        )
        for room, file, function, text in table(PAGES["CONTRIBUTING.md"].section(title))
    ]


def walked(events: Sequence[Event], expected: Sequence[Step]) -> list[Event]:
    """The events that are steps of the walk; one that repeats at once, for each device or figure, counts once."""
    wanted = {step.event for step in expected}
    return [event for event, _ in itertools.groupby(event for event in events if event in wanted)]


def measured_after_the_record(events: Sequence[Event]) -> list[Event]:
    """Calls of functions that measure after the stage's record was made, until the last step."""
    made = max(i for i, event in enumerate(events) if event.kind == "return" and event.function == "_record")
    return [e for e in events[made:] if e.kind == "call" and e.file.partition("/")[0] in MEASURING]


@pytest.fixture
def package(tmp_path):
    """The only zone of a host."""
    tree = Tree(tmp_path)
    zone = tree.zone("intel-rapl:0", "package-0")
    zone.root = tree.root
    return zone


def test_to_a_span_attribute(package):
    carbon_otel.instrument(
        zone="FR",
        powercap_root=package.root,
        interval_s=30,  # no tick but at the edges
        tracer_provider=TracerProvider(shutdown_on_exit=False),
        meter_provider=MeterProvider(shutdown_on_exit=False),
    )
    expected = steps("To a span attribute")
    opened = carbon_otel.stage("training").__enter__()
    time.sleep(0.01)  # a reading younger than 2 ms is used again
    package.add(0.1)
    with recorded() as events:
        opened.__exit__(None, None, None)
    last = events.index(expected[-1].event)
    assert walked(events[:last], expected) + [expected[-1].event] == [step.event for step in expected]
    assert not measured_after_the_record(events[:last])


def test_to_an_mlflow_metric(package, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    expected = steps("To an MLflow metric")
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")
    try:
        with recorded(*DELIVERY) as events:
            carbon_otel.instrument(zone="FR", powercap_root=package.root, interval_s=30)
            session = active()
            assert session is not None
            with mlflow.start_run():
                # The first batch says that the run is measured.
                wait_for(lambda: expected[-1].event in events)
                time.sleep(0.01)
                package.add(0.1)
                events.clear()
                session.engine.tick(checkpoint=True)
                wait_for(lambda: expected[-1].event in events)
                taken = list(events)
    finally:
        carbon_otel.uninstrument()
        mlflow.set_tracking_uri(None)
    last = taken.index(expected[-1].event)
    assert walked(taken[:last], expected) + [expected[-1].event] == [step.event for step in expected]
    assert not measured_after_the_record(taken[:last])


@pytest.mark.parametrize("title", ["To a span attribute", "To an MLflow metric"])
def test_each_room_is_crossed_once_and_each_function_is_there(title):
    rooms = [room for room, _ in itertools.groupby(step.room for step in steps(title))]
    assert len(set(rooms)) == len(rooms)
    for room, file, function, _ in table(PAGES["CONTRIBUTING.md"].section(title)):
        path = ROOT / file.strip("`")
        module = ".".join(path.relative_to(ROOT / "carbon_otel").with_suffix("").parts)
        assert room_of(module) == room
        names = [name.strip("`") for name in function.split(".")]
        body = ast.parse(path.read_text()).body
        for name in names:
            (node,) = [n for n in body if isinstance(n, ast.FunctionDef | ast.ClassDef) and n.name == name]
            body = node.body
