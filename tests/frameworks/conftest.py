"""A measurement over a fed powercap tree, and the stages that have ended in it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import carbon_otel
from tests.fakes.drawing import Drawing
from tests.fakes.powercap import server
from tests.frameworks.calls_seen import Seen, noted
from tests.frameworks.calls_table import rows

# Keras takes TensorFlow, if nobody says what to take.
os.environ.setdefault("KERAS_BACKEND", "torch")

UNITS = "carbon_otel.units."


class Ended(NamedTuple):
    """A stage that has ended. `parent` is the name of the stage around it."""

    kind: str
    name: str
    units: Mapping[str, float]
    parent: str | None
    span: ReadableSpan

    @property
    def joules(self) -> float:
        """With those of the stages in it."""
        return float(self.span.attributes["carbon_otel.energy.total_j"])

    @property
    def own_joules(self) -> float:
        return float(self.span.attributes["carbon_otel.energy.exclusive_j"])


class Stages:
    """The stages that have ended since the last call.

    `begun_j` is what `drawing` had drawn just before and just after the measurement began.
    """

    def __init__(self, drawing: Drawing) -> None:
        self.drawing = drawing
        self._exporter = InMemorySpanExporter()
        self._provider = TracerProvider(shutdown_on_exit=False)
        self._provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    def begin(self) -> None:
        """Begin to measure."""
        before = self.drawing.joules
        carbon_otel.instrument(zone="FR", powercap_root=self.drawing.root, tracer_provider=self._provider)
        self.begun_j = before, self.drawing.joules

    def ended(self) -> list[Ended]:
        finished = self._exporter.get_finished_spans()
        self._exporter.clear()
        # A busy machine may take long enough for spans that tell of an open stage.
        spans = [span for span in finished if not span.name.endswith(" (progress)")]
        names = {span.context.span_id: span.name for span in spans}
        return [
            Ended(
                span.attributes["carbon_otel.stage.kind"],
                span.name,
                {
                    key.removeprefix(UNITS): amount
                    for key, amount in span.attributes.items()
                    if key.startswith(UNITS)
                },
                names.get(span.parent.span_id) if span.parent else None,
                span,
            )
            for span in spans
        ]

    def __call__(self) -> list[tuple[str, str, dict[str, float]]]:
        return [(each.kind, each.name, dict(each.units)) for each in self.ended()]


@pytest.fixture
def stages(tmp_path: Path) -> Iterator[Stages]:
    with Drawing(server(tmp_path / "sys"), zones=1, watts=50) as drawing:
        made = Stages(drawing)
        made.begin()
        yield made
        carbon_otel.uninstrument()


@pytest.fixture(scope="module", autouse=True)
def calls(request: pytest.FixtureRequest) -> Iterator[Seen]:
    """The calls that the tests of a file make: at the end, all for which `calls.csv` names it.

    Nothing is compared if only some of the tests run, or where a library is not installed.
    """
    with noted() as seen:
        yield seen
    if request.config.getoption("keyword") or any("::" in argument for argument in request.config.args):
        return
    file = request.path.name
    ran = {item.originalname for item in request.session.items if item.path == request.path}
    for row in rows():
        made = (row.module, row.function) in seen
        backend = row.module.partition("keras.src.backend.")[2].partition(".")[0]
        if backend not in ("", os.environ["KERAS_BACKEND"]):
            continue  # another test may have imported it
        if row.file == file and row.test in ran and row.module in sys.modules:
            assert made, f"{row.test} does not make {row.module}.{row.function}"
