"""The stage of a generator, a coroutine or another stream: it is paused while nobody steps through that."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from types import TracebackType
from typing import Any

from carbon_otel.guard import contain, undone
from carbon_otel.stages.open_stage import NOBODY, OpenStage, current, leave


class Entered:
    """A stage that was entered, and the stage that was current before."""

    __slots__ = ("before", "opened")

    def __init__(self) -> None:
        self.before: OpenStage | None = None
        self.opened: OpenStage | None = None

    def leave(self) -> None:
        """Make the former stage current again.

        Not in another context than the stage was entered in (asyncio callbacks, pytest fixtures).
        """
        if self.opened is not None:
            leave(self.opened, self.before)


class SuspendableStage(contextlib.AbstractContextManager["SuspendableStage"]):
    """The stage of a generator: open from its first step to its end, charged and current only while it runs."""

    def __init__(self, begin: Callable[[Entered], None]) -> None:
        self._begin = begin
        self.entered = Entered()
        self._error: BaseException | None = None

    def __enter__(self) -> SuspendableStage:
        try:
            contain("resuming a stage", None, self._resume)
            return self
        except RecursionError:
            undone["resuming a stage"] = True
            return self
        except BaseException:
            self.suspend()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is not None and not isinstance(error, (StopIteration, StopAsyncIteration)):
                self._error = error
            contain("suspending a stage", None, self.suspend)
        except RecursionError:
            undone["suspending a stage"] = True
        except BaseException:
            self.suspend()
            raise

    def pay(self) -> None:
        """Charge the stage from now on, without making it current."""
        opened = self.entered.opened
        if opened is not None and opened.engine.alive:
            contain("resuming a stage", None, opened.engine.resume, opened)

    def close(self, generator: Generator[Any, Any, Any]) -> None:
        """Close the generator; the stage pays for it, but is not made current.

        A collection may close an abandoned generator while the program sets a context variable. Before Python
        3.12, setting another one at that moment crashes the interpreter.
        """
        self.pay()
        try:
            generator.close()
        except BaseException as error:
            self._error = error
            raise

    def end(self) -> None:
        try:
            self._close()
        except RecursionError:
            undone["the end of a stage"] = True
            if self.entered.opened is not None:
                self.entered.opened.owner = NOBODY
        except BaseException:  # it may have come before the engine knew of the end
            self._close()
            raise

    def _close(self) -> None:
        opened = self.entered.opened
        if opened is not None and opened.engine.alive:
            contain("closing a stage", None, opened.engine.close, opened, self._error)

    def _resume(self) -> None:
        entered = self.entered
        opened = entered.opened
        if opened is None:
            self._begin(entered)
        elif opened.engine.alive:
            opened.engine.resume(opened)
            entered.before = current.get()
            current.set(opened)
            opened.engine.sinks.stage_entered(opened.info)

    def suspend(self) -> None:
        opened = self.entered.opened
        if opened is not None:
            opened.engine.sinks.stage_left(opened.info)
            if opened.engine.alive:
                opened.engine.pause(opened)
            self.entered.leave()
