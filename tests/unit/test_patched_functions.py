"""No patched function touches an object of the user outside the guard."""

from __future__ import annotations

from pathlib import Path

import pytest

import carbon_otel
from tests.unit.patched_functions import Lint

ROOT = Path(carbon_otel.__file__).parents[1]
FILES = sorted(
    path for room in ("instrumentation", "mlflow") for path in (ROOT / "carbon_otel" / room).rglob("*.py")
)


def test_no_object_of_the_user_is_touched_outside_the_guard():
    lint = Lint(ROOT)
    found = [violation for path in FILES for violation in lint.violations(path)]
    assert not found, "\n".join(found)
    assert lint.functions >= 10


PLANTED = {
    "an attribute": "if self.ready is None: pass",
    "a method": "self.describe()",
    "an attribute as an argument of the guard": "contain('task', None, print, self.store)",
    "an attribute that is set": "self.marked = 1",
    "hasattr": "hasattr(data, 'shape')",
    "getattr": "getattr(data, 'shape', None)",
    "isinstance, which reads __class__": "isinstance(data, list)",
    "a length": "n = len(data)",
    "a truth value": "if data: pass",
    "a truth value in an expression": "n = 1 if data else 2",
    "a truth value before `or`": "n = data or 1",
    "not": "n = not data",
    "bool": "n = bool(data)",
    "a comparison": "n = data == 3",
    "a membership": "n = data in (1, 2)",
    "an operator": "n = data + 1",
    "an iteration": "for each in data: pass",
    "an iteration in a comprehension": "n = [each for each in data]",
    "an unpacked argument": "print(*data)",
    "an element": "n = data[0]",
    "a string": "n = f'{data}'",
    "str": "n = str(data)",
    "another name for it": "other = data\n        len(other)",
    "one of the positional arguments": "len(args[0])",
    "a keyword argument": "n = kwargs.get('name') or 1",
    "each of the arguments": "for each in args: each.touch()",
    "the result": "result = original(self, data)\n        if result: pass",
    "an attribute of the result": "original(self, data).run_id",
    "a context manager": "with data: pass",
    "a call": "data()",
    "a function of ours that does it": "helper(data)",
    "a class of ours that does it": "Helper(data)",
    "a local function that does it": "def local(value): return value.name\n        local(data)",
    "a function of another module of ours": "elsewhere(data)",
    "a function that is not known": "json.dumps(data)",
}
ALLOWED = {
    "identity": "if data is None or type(data) is list: pass",
    "the arguments, which are ours": "n = len(args) if args else kwargs.get('name')",
    "the guard": "contain('task', None, helper, data)",
    "a guarded block": "with guarded('task'):\n            len(data)",
    "a guard of the older kind": "try:\n            len(data)\n        except Exception as fault:\n"
    "            log_fault('task', fault)",
    "to keep it": "kept = functools.partial(helper, data)",
    "to bind it": "bound = original.__get__(data)",
    "a function of ours that keeps it": "keeper(data)",
    "to step through what the original returns": "answers = original(self, data)\n        next(answers)",
}
MODULE = """
import functools, json
from carbon_otel.guard import contain, guarded, log_fault
from carbon_otel.elsewhere import elsewhere

def helper(value):
    return len(value)

def keeper(value):
    return functools.partial(helper, value)

class Helper:
    def __init__(self, value):
        self.n = len(value)

def connect(original):
    @functools.wraps(original)
    def patched(self, data, *args, **kwargs):
        {}
        return original(self, data, *args, **kwargs)
    return patched
"""
OTHER_WAYS = """
def connect(module):
    original = module.fit
    {decorator}
    def patched(own, data):
        own.count += 1
        {planted}
        return original(data)
    {use}
"""


def planted(folder: Path, source: str) -> list[str]:
    package = folder / "carbon_otel"
    package.mkdir()
    (package / "elsewhere.py").write_text("def elsewhere(value):\n    return value.name\n")
    (package / "planted.py").write_text(source)
    return Lint(folder).violations(package / "planted.py")


@pytest.mark.parametrize("what", PLANTED)
def test_the_lint_finds(tmp_path, what):
    assert planted(tmp_path, MODULE.format(PLANTED[what]))


@pytest.mark.parametrize("what", ALLOWED)
def test_the_lint_allows(tmp_path, what):
    assert not planted(tmp_path, MODULE.format(ALLOWED[what]))


@pytest.mark.parametrize(
    "use",
    [
        "put(module.fit, Around(patched, module))",
        "replace(module, 'fit', functools.partial(patched, module))",
        "replace(module, 'fit', property(patched))",
    ],
)
def test_the_lint_knows_the_ways_to_patch(tmp_path, use):
    source = OTHER_WAYS.format(decorator="", planted="len(data)", use=use)
    assert any("data" in violation for violation in planted(tmp_path, source))
