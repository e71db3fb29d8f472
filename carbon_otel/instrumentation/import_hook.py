"""Connects integrations when their library is imported, or at once if it is already imported; undoes that.

This hook exists because the libraries that offer one take longer to import than all of carbon_otel.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import sys
import threading
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from carbon_otel.guard import contain, guarded
from carbon_otel.instrumentation.base import Attaches, Integration, Undo

Patch = Callable[[ModuleType], Undo]


class ImportHook:
    """Watches imports from `sys.meta_path`. One instance serves a session and its forked children."""

    def __init__(self) -> None:
        self._patches: dict[str, list[Patch]] = {}
        self._undos: list[Undo] = []
        self._added: list[Integration] = []
        self._connected: list[Integration] = []
        self._session: Any = None
        self._searching = _Searching()
        self._removed = False

    def add(self, integration: Integration) -> None:
        """Connect the integration when its module has been executed; now, if it has been.

        A second call with the same integration changes nothing.
        """
        if integration not in self._added:
            self._added.append(integration)
            self.when_imported(integration.module, functools.partial(self.connect, integration))

    def connect(self, integration: Integration, module: ModuleType) -> Undo:
        """Connect the integration now."""
        # Attach the session first: `connect` may report events for its sinks.
        self._attach(integration)
        undo = integration.connect(module)
        self._connected.append(integration)
        return undo

    def attach(self, session: Any) -> None:
        """Attach the connected integrations to `session`, and each later one when it connects."""
        self._session = session
        for integration in tuple(self._connected):
            self._attach(integration)

    def when_imported(self, name: str, patch: Patch) -> None:
        """Call `patch(module)` when the module has been executed; now, if it has been."""
        module = sys.modules.get(name)
        if module is not None and not getattr(getattr(module, "__spec__", None), "_initializing", False):
            self._apply(patch, module)
            return
        self._patches.setdefault(name, []).append(patch)
        if self not in sys.meta_path:
            sys.meta_path.insert(0, self)
        self._check_removed()

    def catch_up(self, name: str) -> None:
        """Wait for a running import of the module in another thread, and apply its patches."""
        if name in self._patches and name in sys.modules:
            self._imported(name, importlib.import_module(name))

    def remove(self) -> None:
        """Undo every patch, the last one first, and stop watching imports."""
        self._removed = True
        with contextlib.suppress(ValueError):
            sys.meta_path.remove(self)
        self._patches.clear()
        self._connected.clear()
        self._session = None
        while self._undos:
            with guarded("removing a patch"):
                self._undos.pop()()

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in self._patches or name in self._searching.names:
            return None
        self._searching.names.add(name)
        try:
            spec = _spec_beside(self, name, path, target)
        finally:
            self._searching.names.discard(name)
        # A namespace package executes nothing, and an old loader (`load_module`) cannot be wrapped.
        if spec is not None and hasattr(spec.loader, "exec_module"):
            loader: Any = _PatchingLoader(spec.loader, functools.partial(self._imported, name))
            spec.loader = loader
        return spec

    def _attach(self, integration: Integration) -> None:
        if self._session is not None and isinstance(integration, Attaches):
            contain(f"attaching {type(integration).__name__}", None, integration.attach, self._session)

    def _imported(self, name: str, module: ModuleType) -> None:
        for patch in self._patches.pop(name, []):
            self._apply(patch, module)

    def _apply(self, patch: Patch, module: ModuleType) -> None:
        undo = contain(f"instrumenting {module.__name__}", None, patch, module)
        if undo is not None:
            self._undos.append(undo)
            self._check_removed()

    def _check_removed(self) -> None:
        """Remove the hook again if another thread removed it while this one added to it."""
        if self._removed:
            self.remove()


class _Searching(threading.local):
    """The names for which a thread is asking the other finders; some of them ask every finder, this one too."""

    def __init__(self) -> None:
        self.names: set[str] = set()


class _PatchingLoader:
    """Replaces the loader in the spec of a module until the module is executed, and forwards to it.

    A separate loader, because other modules may share the module's loader: a `zipimporter` is shared.
    """

    def __init__(self, loader: Any, executed: Callable[[ModuleType], None]) -> None:
        self._loader = loader
        self._executed = executed

    def exec_module(self, module: ModuleType) -> None:
        # From now on the module looks as without the hook; the loader of another hook is left in place.
        spec: Any = module.__spec__
        if getattr(spec, "loader", None) is self:
            spec.loader = self._loader
        if getattr(module, "__loader__", None) is self:
            module.__loader__ = self._loader
        self._loader.exec_module(module)
        self._executed(module)

    def __getattr__(self, name: str) -> Any:
        if name == "_loader":  # a copy has no attributes yet
            raise AttributeError(name)
        return getattr(self._loader, name)


def _spec_beside(
    hook: ImportHook, name: str, path: Sequence[str] | None, target: ModuleType | None
) -> ModuleSpec | None:
    for finder in list(sys.meta_path):
        if finder is not hook and hasattr(finder, "find_spec"):
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                return spec
    return None
