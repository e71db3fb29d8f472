"""Patches of imported modules, and of modules that are imported later."""

from __future__ import annotations

import copy
import importlib
import importlib.resources
import importlib.util
import inspect
import logging
import pickle
import sys
import threading
import time
import zipfile
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import SimpleNamespace

import pytest

from carbon_otel.guard import forget
from carbon_otel.instrumentation.base import replace
from carbon_otel.instrumentation.import_hook import ImportHook


@pytest.fixture
def hook():
    made = ImportHook()
    yield made
    made.remove()


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package `later_imported` with a submodule, on the path and not yet imported."""
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


def test_an_imported_module_is_patched_at_once(hook, package):
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


def test_an_undo_leaves_a_later_replacement_alone(hook, package):
    module = importlib.import_module(package)
    hook.when_imported(package, doubled)
    module.value = "other"
    hook.remove()
    assert module.value == "other"


def test_patches_are_undone_in_reverse_order(hook, package):
    module = importlib.import_module(package)
    hook.when_imported(package, doubled)
    hook.when_imported(package, doubled)
    assert module.value == 4
    hook.remove()
    assert module.value == 1


def test_an_inherited_attribute_is_set_on_the_class_and_removed_again():
    class Base:
        answer = 1

    class Derived(Base):
        pass

    undo = replace(Derived, "answer", 2)
    assert Derived.answer == 2
    undo()
    assert "answer" not in vars(Derived) and Derived.answer == 1


PACKAGE = {
    "__init__.py": "from later_imported import part, value_of\nvalue = 1\n",
    "value_of.py": "value = 3\n",
    "part.py": "from later_imported import value_of\nvalue = value_of.value + 1\n\nclass Part:\n    pass\n",
    "data.txt": "some data",
}


@pytest.fixture(params=["folder", "zip"])
def nested(request, tmp_path, monkeypatch):
    """A package whose modules import each other, in a folder or in a zip (with one loader for all modules)."""
    if request.param == "zip":
        place = tmp_path / "packages.zip"
        with zipfile.ZipFile(place, "w") as archive:
            for name, text in PACKAGE.items():
                archive.writestr(f"later_imported/{name}", text)
    else:
        place = tmp_path
        (tmp_path / "later_imported").mkdir()
        for name, text in PACKAGE.items():
            (tmp_path / "later_imported" / name).write_text(text)
    monkeypatch.syspath_prepend(str(place))
    yield "later_imported"
    for name in [n for n in sys.modules if n.startswith("later_imported")]:
        del sys.modules[name]


@pytest.mark.parametrize(
    "waited", [["part"], ["part", "value_of"], ["", "part", "value_of"]], ids=lambda names: "+".join(names)
)
def test_a_module_that_imports_others_of_its_folder(hook, nested, waited):
    names = [f"{nested}.{name}".rstrip(".") for name in waited]
    for name in names:
        hook.when_imported(name, doubled)
    importlib.import_module(f"{nested}.part")
    patched = {name for name in sys.modules if name.startswith(nested) and sys.modules[name].value % 2 == 0}
    values = {name: sys.modules[name].value for name in names}
    expected = {nested: 2, f"{nested}.part": 14 if len(waited) > 1 else 8, f"{nested}.value_of": 6}
    assert values == {name: expected[name] for name in names} and patched == set(names)


def test_a_patched_module_looks_as_if_imported_without_the_hook(hook, nested):
    plain = importlib.import_module(f"{nested}.value_of")
    del sys.modules[nested], sys.modules[f"{nested}.part"]
    hook.when_imported(nested, doubled)
    hook.when_imported(f"{nested}.part", doubled)
    part = importlib.import_module(f"{nested}.part")
    assert type(part.__loader__) is type(part.__spec__.loader) is type(plain.__loader__)
    assert inspect.getsource(part) == PACKAGE["part.py"]
    assert pickle.loads(pickle.dumps(part.Part)) is part.Part
    assert (importlib.resources.files(nested) / "data.txt").read_text() == "some data"
    assert importlib.reload(part).value == 4
    assert importlib.reload(part).__loader__ is part.__spec__.loader


def test_a_spec_without_an_import_offers_everything_of_its_loader(hook, nested):
    plain = importlib.import_module(f"{nested}.part").__loader__
    name = f"{nested}.value_of"
    del sys.modules[name]
    hook.when_imported(name, doubled)
    loader = importlib.util.find_spec(name).loader
    assert loader.get_source(name) == PACKAGE["value_of.py"]
    assert loader.get_code(name).co_names == ("value",)
    assert not loader.is_package(name)
    data = str(Path(sys.modules[nested].__file__).with_name("data.txt"))
    assert loader.get_data(data) == plain.get_data(data) == b"some data"
    with pytest.raises(AttributeError):
        copy.copy(loader).no_such_method  # noqa: B018 - raises


def test_a_module_that_fails_is_patched_when_it_is_imported_again(hook, nested):
    part = importlib.import_module(f"{nested}.part")
    del sys.modules[part.__name__]
    value = vars(sys.modules[f"{nested}.value_of"]).pop("value")
    hook.when_imported(part.__name__, doubled)
    with pytest.raises(AttributeError):
        importlib.import_module(part.__name__)
    sys.modules[f"{nested}.value_of"].value = value
    assert importlib.import_module(part.__name__).value == 8


def test_a_namespace_package_is_imported_as_before(hook, tmp_path, monkeypatch):
    (tmp_path / "later_imported").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    hook.when_imported("later_imported", doubled)
    module = importlib.import_module("later_imported")
    del sys.modules["later_imported"]
    assert list(module.__path__) == [str(tmp_path / "later_imported")]


def test_a_finder_that_calls_all_finders(hook, package):
    """Like wrapt's finder: it calls `importlib.util.find_spec`, which calls every finder, this hook included."""

    class Asks:
        asking = False

        def find_spec(self, name, path=None, target=None):
            if Asks.asking or name != package:
                return None
            Asks.asking = True
            try:
                return importlib.util.find_spec(name)
            finally:
                Asks.asking = False

    hook.when_imported(package, doubled)
    asks = Asks()
    sys.meta_path.append(asks)
    sys.meta_path.insert(0, asks)
    try:
        assert importlib.import_module(package).value == 2
    finally:
        sys.meta_path.remove(asks)
        sys.meta_path.remove(asks)


def test_an_old_style_loader_is_not_changed(hook, monkeypatch):
    spec = ModuleSpec("later_imported", SimpleNamespace(load_module=lambda name: None))
    monkeypatch.setattr(sys, "meta_path", [SimpleNamespace(find_spec=lambda *_: spec), *sys.meta_path])
    hook.when_imported("later_imported", doubled)
    found = hook.find_spec("later_imported")
    assert found is spec and not hasattr(found.loader, "exec_module")


def test_a_module_whose_import_is_in_progress_in_another_thread(hook, tmp_path, monkeypatch):
    (tmp_path / "later_imported.py").write_text(
        "import threading\nrunning, goes_on = threading.Event(), threading.Event()\n"
        "running.set()\ngoes_on.wait(60)\nvalue = 1\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    importing = threading.Thread(target=lambda: importlib.import_module("later_imported"))
    importing.start()
    while not hasattr(sys.modules.get("later_imported"), "goes_on"):
        time.sleep(0.001)
    module = sys.modules["later_imported"]
    hook.when_imported("later_imported", doubled)
    catching_up = threading.Thread(target=hook.catch_up, args=("later_imported",))
    catching_up.start()
    module.goes_on.set()
    importing.join(60)
    catching_up.join(60)
    assert module.value == 2
    hook.remove()
    assert module.value == 1
    del sys.modules["later_imported"]


def test_a_hook_removed_by_another_thread_keeps_no_patch(hook, package):
    module = importlib.import_module(package)
    hook.remove()
    hook.when_imported(package, doubled)
    hook.when_imported("no_such_module_anywhere", doubled)
    assert module.value == 1
    assert hook not in sys.meta_path
