"""Patches of modules that are there, or will be."""

from __future__ import annotations

import importlib
import logging
import sys

import pytest

from carbon_otel.guard import forget
from carbon_otel.instrumentation.import_hook import ImportHook, replace


@pytest.fixture
def hook():
    made = ImportHook()
    yield made
    made.remove()


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package `later_imported` with a submodule, on the path and not imported."""
    folder = tmp_path / "later_imported"
    folder.mkdir()
    (folder / "__init__.py").write_text("value = 1\n")
    (folder / "part.py").write_text("from later_imported import value\nother = value + 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "later_imported"
    for name in [n for n in sys.modules if n.startswith("later_imported")]:
        del sys.modules[name]


def doubled(module):
    return replace(module, "value", module.value * 2)


def test_a_module_imported_later_is_patched_once_it_has_run(hook, package):
    hook.when_imported(package, doubled)
    assert importlib.import_module(package).value == 2
    hook.remove()
    assert sys.modules[package].value == 1
    assert hook not in sys.meta_path


def test_a_module_that_is_there_is_patched_at_once(hook, package):
    module = importlib.import_module(package)
    hook.when_imported(package, doubled)
    assert module.value == 2
    assert hook not in sys.meta_path


def test_a_submodule(hook, package):
    hook.when_imported(f"{package}.part", lambda module: replace(module, "other", 7))
    assert importlib.import_module(f"{package}.part").other == 7


def test_a_patch_that_fails_leaves_the_import_alone(hook, package, caplog):
    forget()
    hook.when_imported(package, lambda module: 1 / 0)
    hook.when_imported(package, doubled)
    with caplog.at_level(logging.WARNING, "carbon_otel"):
        assert importlib.import_module(package).value == 2
    assert "ZeroDivisionError" in caplog.text


def test_a_module_that_does_not_exist_is_still_missing(hook):
    hook.when_imported("no_such_module_anywhere", doubled)
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("no_such_module_anywhere")


def test_undoing_leaves_what_others_have_put_there_since(hook, package):
    module = importlib.import_module(package)
    hook.when_imported(package, doubled)
    module.value = "theirs"
    hook.remove()
    assert module.value == "theirs"


def test_patches_are_undone_in_reverse(hook, package):
    module = importlib.import_module(package)
    hook.when_imported(package, doubled)
    hook.when_imported(package, doubled)
    assert module.value == 4
    hook.remove()
    assert module.value == 1


def test_an_inherited_attribute_is_put_on_the_class_and_taken_off_again():
    class Base:
        answer = 1

    class Derived(Base):
        pass

    undo = replace(Derived, "answer", 2)
    assert Derived.answer == 2
    undo()
    assert "answer" not in vars(Derived) and Derived.answer == 1
