"""Which installed libraries are seen, in which versions, by which calls. Nothing of them is imported.

The version is that of the distribution which brings the module (`xgboost-cpu` brings `xgboost`). Whether a call
exists in that version is read from the source of its module.
"""

from __future__ import annotations

import ast
import importlib.machinery
import importlib.metadata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from carbon_otel.instrumentation.base import Integration
from carbon_otel.instrumentation.calls import Call, Calls


@runtime_checkable
class SeesCalls(Protocol):
    """An integration whose calls become stages, or share the energy of a stage."""

    @property
    def module(self) -> str: ...

    @property
    def calls(self) -> Sequence[object]: ...


@dataclass(frozen=True)
class Known:
    """A call that becomes a stage, or shares the energy of a stage. `call` is what people know it by.

    `weight` is `stage`, `share`, or `stage*` for a call that is a stage, but a share while it comes often.
    """

    library: str
    module: str
    function: str
    call: str
    kind: str
    weight: str


@dataclass(frozen=True)
class Seen:
    """A call of an installed library. It is `present` if the installed version has such a function."""

    library: str
    version: str
    call: str
    kind: str
    weight: str
    present: bool


def known(integrations: Iterable[Integration]) -> Iterator[Known]:
    """The calls of all libraries, whether installed or not."""
    for integration in integrations:
        if isinstance(integration, SeesCalls):
            for call in integration.calls:
                if isinstance(call, Call):  # else a hook, which is no call of the user
                    yield Known(
                        library=integration.module.partition(".")[0],
                        module=integration.module,
                        function=call.function,
                        call=(call.name or call.function).removesuffix(".__init__"),
                        kind=call.kind,
                        weight=_weight(call),
                    )


def _weight(call: Call) -> str:
    if call.often:
        return "share"
    return "stage*" if call.may_share else "stage"


def inventory(integrations: Iterable[Integration]) -> list[Seen]:
    """The calls of the libraries that are installed, in the order of the integrations."""
    distributions = importlib.metadata.packages_distributions()
    found: list[Seen] = []
    for integration in integrations:
        if not isinstance(integration, SeesCalls):
            continue
        library = integration.module.partition(".")[0]
        if library not in distributions:
            continue
        # Only tables name functions of their own module; methods of estimators are those of any class.
        functions = _functions(integration.module) if isinstance(integration, Calls) else None
        for call in known([integration]):
            present = functions is None or call.function in functions
            version = importlib.metadata.version(distributions[library][0])
            found.append(Seen(library, version, call.call, call.kind, call.weight, present))
    return found


def _functions(module: str) -> frozenset[str] | None:
    """The functions and methods that the source of a module defines; None if it has no source to be read."""
    root, _, rest = module.partition(".")
    spec = importlib.machinery.PathFinder.find_spec(root)
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent.joinpath(*rest.split(".")) if rest else Path(spec.origin)
    for source in (path.with_suffix(".py"), path / "__init__.py"):
        if source.is_file():
            return frozenset(_names(ast.parse(source.read_bytes())))
    return None


def _names(tree: ast.Module) -> Iterable[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            for each in ast.walk(node):
                if isinstance(each, (ast.FunctionDef, ast.AsyncFunctionDef)):
                    yield f"{node.name}.{each.name}"
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node.name


def by_library(calls: Iterable[Seen]) -> Mapping[str, list[Seen]]:
    """The calls of each library."""
    libraries: dict[str, list[Seen]] = {}
    for call in calls:
        libraries.setdefault(call.library, []).append(call)
    return libraries
