"""The interface of an integration, and functions to patch a library and to undo that."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, Protocol, runtime_checkable

Undo = Callable[[], None]


class Integration(Protocol):
    """Connects one library: its calls become stages, or pass the trace of a stage on.

    Other packages add integrations through the entry point group `carbon_otel_instrumentation`. The name of the
    entry point is the module to wait for, and its value an object with this interface, loaded when that module is
    imported:

        [project.entry-points.carbon_otel_instrumentation]
        "torch.utils.data" = "my_package:integration"
    """

    @property
    def module(self) -> str:
        """Full name of the module whose import connects the integration."""

    def connect(self, module: ModuleType, /) -> Undo:
        """Patch the imported module; the result undoes that. Called once in a process and its forked children.

        An exception is logged, and the library works without the integration.
        """


@runtime_checkable
class Attaches(Protocol):
    """An integration that needs the session, for example to add a sink."""

    def attach(self, session: Any, /) -> None:
        """Called for each session (`carbon_otel.session.session.Session`), before `connect` or after it.

        A session that begins in a forked child gets the integrations that were connected in the parent. A second
        call with the same session must change nothing.
        """


def replace(owner: Any, name: str, value: Any) -> Undo:
    """Set an attribute in the owner's own namespace.

    The undo restores the attribute, unless something else has replaced it since.
    """
    own = vars(owner)
    before, existed = own.get(name), name in own

    def undo() -> None:
        if vars(owner).get(name) is value:
            if existed:
                setattr(owner, name, before)
            else:
                delattr(owner, name)

    setattr(owner, name, value)
    return undo


def undo_all(undos: Sequence[Undo]) -> Undo:
    """One undo for several patches, the last patch first. `undos` may grow later."""

    def undo() -> None:
        for each in reversed(undos):
            each()

    return undo
