"""Every call of the tables: the function is there, and stays the same to whoever looks at it."""

from __future__ import annotations

import importlib
import inspect
import pickle
from unittest import mock

import pytest

from carbon_otel.instrumentation import BUILT_IN
from carbon_otel.instrumentation.calls import Call, Calls, Hook, attribute
from carbon_otel.instrumentation.in_place import innermost, is_changed

TABLES = [each for each in BUILT_IN if isinstance(each, Calls)]
# Libraries that the gate does not install.
APART = ("llama_cpp", "vllm")
ALL = [
    pytest.param(
        table,
        call,
        id=f"{table.module}.{call.function}",
        marks=[pytest.mark.apart] if table.module.startswith(APART) else [],
    )
    for table in TABLES
    for call in table.calls
]
# Modules that need more than their own library.
NEEDS = {"keras.src.backend.jax.trainer": "jax"}


@pytest.mark.parametrize(("table", "call"), ALL)
def test_a_call_looks_the_same_with_us_and_is_the_same_without(table: Calls, call: Call | Hook):
    # A framework that another one can run on may not be installed.
    pytest.importorskip(NEEDS.get(table.module, table.module.partition(".")[0]))
    module = importlib.import_module(table.module)
    function = innermost(attribute(module, call.function))
    assert function is not None, "the library has no such Python function"
    before = function.__code__, dict(vars(function))
    # As text, because a default may be NaN.
    signature = str(inspect.signature(function))
    source = inspect.getsource(function)
    undo = Calls(table.module, call).connect(module)
    try:
        assert is_changed(function)
        assert innermost(attribute(module, call.function)) is function
        assert str(inspect.signature(function)) == signature and inspect.getsource(function) == source
        assert inspect.iscoroutinefunction(function) is inspect.iscoroutinefunction(function.__wrapped__)
        mock.create_autospec(function)
        if "." not in call.function:
            public = vars(module)[call.function]
            assert pickle.loads(pickle.dumps(public)) is public
    finally:
        undo()
    assert (function.__code__, dict(vars(function))) == before
