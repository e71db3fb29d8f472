"""Stages outside of runs, added up while others end at any point of the code."""

from __future__ import annotations

import threading
import time

import pytest

from carbon_otel.background import Worker
from carbon_otel.mlflow.standalone.stages import StandaloneStages
from carbon_otel.records import StageInfo


def info(number: int, kind: str = "training") -> StageInfo:
    return StageInfo(number, kind, kind, {}, None, None, False, time.time_ns())


class Uploads:
    def begin(self) -> None: ...


@pytest.fixture
def delivery():
    worker = Worker("test delivery")
    yield worker
    worker.close()


def test_a_stage_that_a_collection_ends_while_another_one_is_added(delivery):
    """Both count, and the thread does not wait for itself."""
    reentrant = [True]

    def wall_ns() -> int:
        if reentrant:
            reentrant.clear()
            sink.energy_attributed(info(2, "evaluation"), [3.0], 0.3)
        return time.time_ns()

    sink = StandaloneStages(Uploads(), delivery, 1, None, None, process="p", wall_ns=wall_ns)
    add = threading.Thread(target=sink.energy_attributed, args=(info(1), [2.0], 0.2), daemon=True)
    add.start()
    add.join(20)
    assert not add.is_alive()
    assert sink._window.joules == [5.0]
    assert {kind: cost.energy_j for kind, cost in sink._window.costs.items()} == {
        "training": 2.0,
        "evaluation": 3.0,
    }
