"""Work that another process has handed to this one, and the variables that name its stage and its run there.

A stage hands its variables on with whatever carries the work: the environment of a program, the data of a spawned
process, a task of a pool. A fork hands on what was present in the parent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from types import MappingProxyType
from typing import Final

# The id of an experiment run and, after a space, the address of its store.
RUN: Final = "CARBON_OTEL_PARENT_RUN"


class Work:
    """Work of another process, by the variables of the stage that handed it over.

    `leave`, once set, ends the part of this process in the run of that stage.
    """

    __slots__ = ("leave", "variables")

    def __init__(self, variables: Mapping[str, str] = MappingProxyType({})) -> None:
        self.variables = variables
        self.leave: Callable[[], None] | None = None


# A worker between two tasks belongs to no stage and no run.
NO_WORK: Final = Work()

# The work that runs here; None if it is that for which the process was started.
present: ContextVar[Work | None] = ContextVar("carbon_otel_work", default=None)
