"""What CONTRIBUTING.md says of the house is what the code is: rooms, invariants, threads and locks."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, ROOT, table
from tests.unit.test_architecture import BASE, CORE, ROOMS

PAGE = PAGES["CONTRIBUTING.md"]
PACKAGE = ROOT / "carbon_otel"


def rooms_table() -> str:
    """The table of rooms and arrows as it is written between the markers."""
    lines = ["| room | may import |", "|---|---|"]
    for room, known in ROOMS.items():
        names = known.split()
        words = []
        for word, group in (("*core*", CORE.split()), ("*base*", BASE.split())):
            if set(group) <= set(names):
                words.append(word)
                names = [name for name in names if name not in group]
        cells = [*words, *(f"`{name}`" for name in names)]
        lines.append(f"| `{room}` | {', '.join(cells)} |")
    base, core = (
        ", ".join(f"`{name}`" for name in group.split()) for group in (BASE, CORE.removeprefix(BASE))
    )
    return "\n".join([*lines, "", f"*base*: {base}", "", f"*core*: *base*, {core}"])


def test_rooms_and_arrows():
    found = re.search(r"<!-- rooms -->\n(.*?)\n<!-- /rooms -->", PAGE.text, re.DOTALL)
    assert found and found[1] == rooms_table(), f"write between the markers:\n{rooms_table()}"


def names_of_tests(file: Path) -> set[str]:
    """Test functions and classes of tests, by name."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):  # TestAnyOrder = AnyOrder.TestCase
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return {name for name in names if name.lower().startswith("test")}


def test_each_invariant_has_tests_that_exist():
    rows = table(PAGE.section("What must always be true"))
    assert [row[0] for row in rows] == [str(number) for number in range(1, 9)]
    for number, _, cell in rows:
        named = re.findall(r"`([^`]+)::(\w+)`", cell)
        assert named, number
        for file, test in named:
            assert test in names_of_tests(ROOT / file), f"{file}::{test}"


def files_with(*calls: str) -> Iterator[tuple[str, ast.Module]]:
    for file in sorted(PACKAGE.rglob("*.py")):
        text = file.read_text()
        if any(call in text for call in calls):
            yield file.relative_to(ROOT).as_posix(), ast.parse(text)


def locks() -> set[tuple[str, str]]:
    """The locks that the package makes: file, and name of the variable or attribute."""
    found = set()
    for file, tree in files_with("threading"):
        for node in ast.walk(tree):
            if not isinstance(node, ast.Assign):
                continue
            values = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value]
            targets = node.targets[0].elts if isinstance(node.targets[0], ast.Tuple) else node.targets
            for target, value in zip(targets, values, strict=False):
                called = value.func if isinstance(value, ast.Call) else None
                name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
                if name in ("Lock", "RLock", "Condition", "Semaphore", "BoundedSemaphore"):
                    found.add(
                        (file, target.attr if isinstance(target, ast.Attribute) else ast.unparse(target))
                    )
    return found


def test_every_lock_is_in_the_table():
    rows = [(row[0].strip("`"), row[1].strip("`")) for row in table(PAGE.section("Locks"))]
    assert set(rows) == locks()


def test_no_lock_is_made_in_a_way_that_the_table_misses():
    made = sum(
        len(re.findall(r"\b(?:Lock|RLock|Condition|Semaphore)\(\)", (ROOT / file).read_text()))
        for file, _ in files_with("threading")
    )
    assigned = sum(
        sum(
            len(re.findall(r"\b(?:Lock|RLock|Condition|Semaphore)\(\)", ast.unparse(node.value)))
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign)
        )
        for _, tree in files_with("threading")
    )
    assert made == assigned


@pytest.mark.parametrize("file", sorted({file for file, _ in locks()}))
def test_each_module_with_a_lock_renews_it_in_a_forked_child(file):
    text = (ROOT / file).read_text()
    assert (
        text.count("renew_after_fork(")
        >= len(re.findall(r"def (?:_renew|_abandon|_after_fork_in_child)\(", text))
        > 0
    )


def test_locked_files_are_named():
    section = PAGE.section("Locks")
    for file, _ in files_with("fcntl.flock("):
        assert f"`{file}`" in section


def threads() -> set[tuple[str, str]]:
    """The threads that the package starts: their name, and the file with it."""
    found = set()
    for file, tree in files_with("Thread(", "Worker("):
        for node in ast.walk(tree):
            text = ""
            if isinstance(node, ast.JoinedStr):
                parts = node.values
                text = "".join(str(p.value) if isinstance(p, ast.Constant) else "{}" for p in parts)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                text = node.value
            if re.fullmatch(r"carbon_otel[ -][a-z]+( [a-z{}]+)*", text) and not text.endswith(" "):
                found.add((text, file))
    return found


def test_every_thread_is_in_the_table():
    rows = {(row[0].strip("`"), row[1].strip("`")) for row in table(PAGE.section("Threads"))}
    assert rows - {("the application's", "the application")} == threads()


def test_each_name_of_the_table_of_calls_exists():
    calls = PAGE.section("Threads").partition("| what | may be called |")[2]
    rows = re.findall(r"^\| (.*?) \|", calls, re.MULTILINE)
    assert rows
    source = "\n".join(file.read_text() for file in PACKAGE.rglob("*.py"))
    for name in re.findall(r"`([A-Za-z_.]+)`", " ".join(rows)):
        for part in name.split("."):
            assert re.search(rf"^ *(async )?(def|class) {part}\b", source, re.MULTILINE), name


def test_pre_commit_runs_the_tools_of_the_gate():
    yaml = pytest.importorskip("yaml")
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    assert {hook["entry"].split()[0] for hook in hooks} == {"ruff", "mypy"}
    assert all(hook["language"] == "system" for hook in hooks)
