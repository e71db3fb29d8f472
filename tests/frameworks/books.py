"""Each joule is in one stage: what holds for the stages of any pipeline, on any machine."""

from __future__ import annotations

import time

import pytest

import carbon_otel
from tests.fakes.drawing import Drawing
from tests.frameworks.conftest import Ended, Stages


def check(stages: Stages) -> list[Ended]:
    """Check the books after a pipeline, and return its stages, which are all of the measurement.

    A stage has its own joules and those of the stages in it, whether we have opened them or the user; a kind has
    the own joules of its stages; and with what belongs to no stage they are what the device has drawn.
    """
    ended = stages.ended()
    inside = {each.span.context.span_id: 0.0 for each in ended}
    kinds = {each.kind: 0.0 for each in ended}
    outermost = 0.0
    for each in ended:
        kinds[each.kind] += each.own_joules
        if each.span.parent is None:
            outermost += each.joules
        else:
            inside[each.span.parent.span_id] += each.joules
    for each in ended:
        assert each.own_joules >= 0
        joules = each.own_joules + inside[each.span.context.span_id]
        assert joules == pytest.approx(each.joules), each

    # The drawing goes on before and after the readings of the measurement.
    least = stages.drawing.joules - stages.begun_j[1]
    time.sleep(0.005)  # a counter that has just been read is not read again
    carbon_otel.flush()
    process = carbon_otel.footprint()
    most = written_after(stages.drawing) - stages.begun_j[0]
    assert 0.99 * least <= process.energy_j <= 1.01 * most + 1, (least, process, most)
    for kind, joules in kinds.items():
        assert process.stages[kind].energy_j == pytest.approx(joules)
    nobody = process.stages["unattributed"].energy_j
    assert outermost + nobody == pytest.approx(process.energy_j)
    return ended


def written_after(drawing: Drawing) -> float:
    """What the device had drawn at a time after this call began: the counter lags behind until it is written."""
    before = drawing.joules
    while drawing.joules == before:
        time.sleep(0.001)
    return drawing.joules
