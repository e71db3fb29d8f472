"""Virtual environments with exactly what some extras install, as links to the distributions of this one."""

from __future__ import annotations

import contextlib
import re
import sys
import sysconfig
import venv
from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from tests.docs.pages import PAGES

OWN = "carbon-otel"
# What the reader of a page has, because the page is about it.
HAS: Mapping[str, frozenset[str]] = {
    "carbon_otel/mlflow/README.md": frozenset({"mlflow"}),
    "carbon_otel/otel/README.md": frozenset({"logfire"}),
}
SCRIPT = """#!{python}
import sys
from {module} import {name}
sys.exit({attribute}())
"""


def named_in(text: str) -> frozenset[str]:
    groups = re.findall(r"(?:carbon-otel|\.)\[([\w,]+)\]", text)
    return frozenset(name for group in groups for name in group.split(","))


def extras_of(page: str) -> frozenset[str]:
    """The extras that its reader has: those that it names, else those of the first page's first command."""
    return (named_in(PAGES[page].text) or named_in(PAGES["README.md"].text)) | HAS.get(page, frozenset())


def _key(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@cache
def installed() -> Mapping[str, metadata.Distribution]:
    # The first of a name is the one that is imported.
    return {_key(each.name): each for each in reversed(list(metadata.distributions()))}


def closure(extras: frozenset[str], more: Iterable[str] = ()) -> set[str]:
    """The distributions of a plain install with these extras and with `more`, and all that they require."""
    found: set[tuple[str, str]] = set()
    left = [(OWN, extra) for extra in ("", *extras)] + [(_key(name), "") for name in more]
    while left:
        name, extra = left.pop()
        if (name, extra) in found or name not in installed():
            continue
        found.add((name, extra))
        for line in installed()[name].requires or ():
            needed = Requirement(line)
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                left += [(_key(needed.name), each) for each in ("", *needed.extras)]
    return {name for name, _ in found}


@cache
def _owners() -> Mapping[str, frozenset[str]]:
    """The distributions that have files below each folder of site-packages."""
    owners: dict[str, set[str]] = defaultdict(set)
    for name, distribution in installed().items():
        for file in distribution.files or ():
            for folder in file.parents:
                owners[folder.as_posix()].add(name)
    return {folder: frozenset(names) for folder, names in owners.items()}


def _links(name: str) -> set[str]:
    """The paths to link for a distribution: the highest folders that are its alone, else files."""
    paths: set[str] = set()
    for file in installed()[name].files or ():
        if file.parts[0] == ".." or (name == OWN and "dist-info" not in file.parts[0]):
            continue  # commands are written anew; our code comes by PYTHONPATH
        alone = [folder for folder in file.parents if _owners()[folder.as_posix()] == {name}]
        paths.add((alone[-1] if alone else file).as_posix())
    return paths


def _install(name: str, folder: Path, python: Path) -> None:
    distribution = installed()[name]
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    for path in _links(name):
        (packages / path).parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):  # mlflow and mlflow-skinny bring the same files
            (packages / path).symlink_to(Path(str(distribution.locate_file(path))))
    for script in distribution.entry_points:
        if script.group == "console_scripts":
            text = SCRIPT.format(
                python=python,
                module=script.module,
                name=script.attr.partition(".")[0],
                attribute=script.attr,
            )
            (python.parent / script.name).write_text(text)
            (python.parent / script.name).chmod(0o755)


def environment(folder: Path, extras: frozenset[str], more: Iterable[str] = ()) -> Path:
    """Make the environment in an empty folder; its Python.

    carbon_otel itself has its metadata and commands there; its code comes by PYTHONPATH.
    """
    venv.create(folder, symlinks=sys.platform != "win32")
    python = folder / "bin" / "python"
    for name in closure(extras, more):
        _install(name, folder, python)
    return python
