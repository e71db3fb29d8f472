"""What an instrumented call of a library costs, beyond its own work, as CPU time of the thread that makes it."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import ModuleType

import pytest

import carbon_otel
from carbon_otel.instrumentation.calls import Call, Calls
from carbon_otel.stages.automatic import around
from tests.fakes.powercap import server

REPEATS = 7
CALLS = 20_000
SOURCE = "def {}(data, option=1):\n    return data\n"


def units(arguments, result) -> dict[str, float]:
    return {"rows": 1}


KINDS = {
    "a call, by itself": None,
    "a call that is a stage": {"kind": "training"},
    "a call that comes often": {"kind": "inference"},
    "a call that comes often, with units": {"kind": "inference", "units": units},
    "a call inside another one": {"inside": True},
    "a call in a stage of yours": {"yours": True},
    "a call in a stage of yours, with units": {"yours": True, "units": units},
    "a short call": {"often": True},
    "a short call with units": {"often": True, "units": units},
}


@pytest.mark.parametrize("what", KINDS)
def test_a_call(what, tmp_path, table):
    options = dict(KINDS[what] or {})
    inside, yours = options.pop("inside", False), options.pop("yours", False)
    kind = options.pop("kind", "inference")
    library = ModuleType("library")
    exec(SOURCE.format("work"), vars(library))
    carbon_otel.instrument(zone="FR", powercap_root=server(tmp_path).root)
    if KINDS[what] is not None:
        undo = Calls("library", Call("work", kind, "work", **options)).connect(library)
    with around("training", "outer") if inside else carbon_otel.stage("inference" if yours else "etl"):
        for _ in range(REPEATS):
            table(what, "carbon_otel", us(library.work, CALLS if kind == "inference" else CALLS // 20), "us")
    if KINDS[what] is not None:
        undo()
    carbon_otel.uninstrument()


def us(work: Callable[[object], object], calls: int) -> float:
    begun = time.thread_time()
    for _ in range(calls):
        work(None)
    return (time.thread_time() - begun) / calls * 1e6
