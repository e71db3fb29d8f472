"""Notes which calls of the tables a test makes, and which units are counted of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

from carbon_otel.instrumentation import BUILT_IN, sklearn, torch_loops
from carbon_otel.instrumentation.calls import Call, Calls
from carbon_otel.instrumentation.in_place import Around

# The module and the function of a call, and the units that were counted.
Seen = dict[tuple[str, str], set[str]]


# What enters the calls of loops, which no table does.
_OF_TORCH = {
    "_begin": "DataLoader.__iter__",
    "_next": "_BaseDataLoaderIter.__next__",
    "_before_step": "Optimizer.step",
}


@contextmanager
def noted() -> Iterator[Seen]:
    """Note the calls of libraries that are instrumented within the block."""
    seen: Seen = {}
    modules = {
        id(call): table.module for table in BUILT_IN if isinstance(table, Calls) for call in table.calls
    }
    around, enter_method = Call.around, sklearn._enter_method

    def of(call: Call, parameters: tuple[str, ...]) -> Around:
        key = modules.get(id(call), ""), call.function

        def units(arguments: Mapping[str, Any], result: Any) -> Mapping[str, float]:
            counted = call.units(arguments, result)
            seen.setdefault(key, set()).update(counted)
            return counted

        inner = around(dataclasses.replace(call, units=call.units and units), parameters)
        return Around(enter, key, inner)

    def enter(key: tuple[str, str], inner: Around, /, *args: Any, **kwargs: Any) -> Any:
        seen.setdefault(key, set())
        return inner(*args, **kwargs)

    def method(base: type, name: str, *args: Any, **kwargs: Any) -> Any:
        seen.setdefault(("sklearn.base", name), {"samples"})
        return enter_method(base, name, *args, **kwargs)

    def of_torch(function: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            seen.setdefault(("torch.utils.data.dataloader", function), set())
            return original(*args)

        return call

    with ExitStack() as patches:
        patches.enter_context(mock.patch.object(Call, "around", of))
        patches.enter_context(mock.patch.object(sklearn, "_enter_method", method))
        for name, function in _OF_TORCH.items():
            patched = of_torch(function, getattr(torch_loops, name))
            patches.enter_context(mock.patch.object(torch_loops, name, patched))
        yield seen
