"""The pages of the repository, and the parts of them that tests look at."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_SPAN = re.compile(r"`([^`\n]+)`")


@dataclass(frozen=True)
class Block:
    """A fenced block; `line` is the line of its first line of code in the page."""

    page: str
    line: int
    language: str
    code: str

    @property
    def first_line(self) -> str:
        return self.code.partition("\n")[0]


@dataclass(frozen=True)
class Page:
    """A Markdown file; `name` is its path from the root of the repository."""

    name: str
    text: str

    @property
    def folder(self) -> Path:
        return (ROOT / self.name).parent

    def blocks(self, language: str = "") -> Iterator[Block]:
        for found in _FENCE.finditer(self.text):
            if not language or found[1] == language:
                yield Block(self.name, self.text.count("\n", 0, found.start(2)) + 1, found[1], found[2])

    @property
    def prose(self) -> str:
        """The text without its fenced blocks."""
        return _FENCE.sub("", self.text)

    def spans(self) -> list[str]:
        """The pieces of code within the prose."""
        return _SPAN.findall(self.prose)

    def section(self, title: str) -> str:
        """The text below a heading of any level, up to the next heading."""
        found = re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^#|\Z)", self.text, re.DOTALL | re.MULTILINE)
        assert found, f"{self.name} has no section {title!r}"
        return found[1]


def table(section: str) -> list[list[str]]:
    """The cells of the first table of a section, without its heading."""
    found = re.search(r"(?:^\|.*\n)+", section, re.MULTILINE)
    lines = found[0].splitlines() if found else []
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def _pages() -> dict[str, Page]:
    files = {ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"}
    for folder in ("carbon_otel", "collector", "examples", "tests"):
        for name in ("README.md", "EMBODIED.md"):
            files |= set((ROOT / folder).rglob(name))
    names = {file: file.relative_to(ROOT).as_posix() for file in files}
    return {names[file]: Page(names[file], file.read_text("utf-8")) for file in sorted(files)}


PAGES = _pages()
