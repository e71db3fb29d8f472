"""Stages before they open: which identity, parent and run they get.

A prepared stage has no account yet. Whoever is interrupted while it opens can therefore end it all the same.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from carbon_otel.records import UNATTRIBUTED, AttributeValue, StageInfo
from carbon_otel.stages.open_stage import OpenStage, Split, current

if TYPE_CHECKING:
    from carbon_otel.stages.engine import Engine

_ids: Final = itertools.count()


def root(engine: Engine) -> OpenStage:
    """What pays while no stage does."""
    info = StageInfo(next(_ids), UNATTRIBUTED, UNATTRIBUTED, {}, None, None, False, time.time_ns())
    return OpenStage(engine, info, None, engine.books.root)


def parent_of(engine: Engine, inherited: OpenStage | None) -> OpenStage | None:
    """The parent of a stage opened here: the inherited stage or a run, by the rule of `OpenRuns.here`."""
    return engine.runs.here(_own(engine, inherited))


def prepare(
    engine: Engine,
    parent: OpenStage | None,
    kind: str,
    name: str,
    attributes: Mapping[str, AttributeValue],
    *,
    start_unix_ns: int | None = None,
    recorded: bool = False,
) -> OpenStage:
    """A stage below this parent. A `recorded` stage is in every checkpoint while it is open."""
    above = parent.info if parent is not None else None
    run_id = above.run_id if above is not None else None
    in_record = recorded or (above is not None and above.in_record)
    began = time.time_ns() if start_unix_ns is None else start_unix_ns
    info = StageInfo(next(_ids), kind, name, attributes, above, run_id, in_record, began)
    return OpenStage(engine, info, parent, engine.nobody, recorded=recorded)


def prepare_part(engine: Engine, whole: OpenStage, kind: str, name: str, begun_ns: int) -> OpenStage:
    """A stage for calls in a stage, which gets a part of what that pays. They began at this monotonic time."""
    parent = None if whole is engine.root else whole
    began = time.time_ns() - max(0, engine.meter.clock_ns() - begun_ns)
    part = prepare(engine, parent, kind, name, {}, start_unix_ns=began)
    nothing = (0.0,) * len(engine.devices)
    part.split = Split(0.0, nothing, nothing)
    return part


def prepare_run(
    engine: Engine, run_id: str, name: str, parent_run_id: str | None, joined: bool, kind: str
) -> OpenStage:
    """The stage of a run, below the stage of the parent run or below the stage that starts the run."""
    parent = engine.runs.above(parent_run_id, _own(engine, current.get()))
    above = parent.info if parent is not None else None
    info = StageInfo(next(_ids), kind, name, {}, above, run_id, True, time.time_ns(), joined)
    return OpenStage(engine, info, parent, engine.nobody, recorded=True)


def _own(engine: Engine, inherited: OpenStage | None) -> OpenStage | None:
    """The inherited stage, if it is open and of this measurement."""
    usable = inherited is not None and inherited.engine is engine and inherited.end is None
    return inherited if usable else None
