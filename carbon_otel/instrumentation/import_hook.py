"""Patch a library when it is imported, or at once if it has been; and undo that.

The import hook is our own because the libraries that offer one cost more to import than all of carbon_otel.
"""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from carbon_otel.guard import contain

Undo = Callable[[], None]
Patch = Callable[[ModuleType], Undo]


class ImportHook:
    """Applies patches to modules as they are imported. One instance sits on `sys.meta_path` per session."""

    def __init__(self) -> None:
        self._patches: dict[str, list[Patch]] = {}
        self._undos: list[Undo] = []
        self._searching = threading.local()
        # Called with each measurement that takes this hook over, in a forked child.
        self.attachers: list[Callable[[Any], object]] = []

    def when_imported(self, name: str, patch: Patch) -> None:
        """Call `patch(module)` once the module has been executed; now, if it is there already."""
        module = sys.modules.get(name)
        if module is not None and not getattr(module.__spec__, "_initializing", False):
            self._apply(patch, module)
            return
        self._patches.setdefault(name, []).append(patch)
        if self not in sys.meta_path:
            sys.meta_path.insert(0, self)

    def remove(self) -> None:
        """Undo every patch, the last first, and stop watching imports."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        self._patches.clear()
        while self._undos:
            contain("removing a patch", self._undos.pop(), None)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in self._patches or getattr(self._searching, "name", None) == name:
            return None
        self._searching.name = name
        try:
            spec = _spec_beside(self, name, path, target)
        finally:
            self._searching.name = None
        if spec is not None and spec.loader is not None:
            _after_exec(spec.loader, functools.partial(self._imported, name))
        return spec

    def _imported(self, name: str, module: ModuleType) -> None:
        for patch in self._patches.pop(name, []):
            self._apply(patch, module)

    def _apply(self, patch: Patch, module: ModuleType) -> None:
        undo = contain(f"instrumenting {module.__name__}", patch, None, module)
        if undo is not None:
            self._undos.append(undo)


def _spec_beside(
    hook: ImportHook, name: str, path: Sequence[str] | None, target: ModuleType | None
) -> ModuleSpec | None:
    for finder in sys.meta_path:
        if finder is not hook and hasattr(finder, "find_spec"):
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                return spec
    return None


def _after_exec(loader: Any, then: Callable[[ModuleType], None]) -> None:
    original = loader.exec_module

    @functools.wraps(original)
    def exec_module(module: ModuleType) -> None:
        original(module)
        del loader.exec_module
        then(module)

    loader.exec_module = exec_module


def replace(owner: Any, name: str, value: Any) -> Undo:
    """Set an attribute in the owner's own namespace; the undo puts back what was there, if it is still ours."""
    own = vars(owner)
    before, had = own.get(name), name in own

    def undo() -> None:
        if vars(owner).get(name) is value:
            if had:
                setattr(owner, name, before)
            else:
                delattr(owner, name)

    setattr(owner, name, value)
    return undo
