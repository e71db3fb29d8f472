"""Everything that the commands print. No other module of the command line writes to a stream.

Texts for people have no secrets and no escapes. JSON, CSV and HTML have functions of their own.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import math
import sys
import traceback
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Final, NoReturn

import typer
from rich.console import Console
from rich.console import Group as Group
from rich.console import RenderableType as RenderableType
from rich.text import Text

from carbon_otel import guard
from carbon_otel.text import cell, hider, one_line, printable, shown


def prepare() -> None:
    """Set up the process of a command: its streams accept every text, and what libraries log has no secrets."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.excepthook = _print_crash
    logging.setLogRecordFactory(_record_without_secrets)


def say(*lines: str, err: bool = False) -> None:
    """Print lines for people."""
    for line in lines:
        typer.echo(shown(line), err=err)


def refuse(*lines: str, code: int = 2) -> NoReturn:
    """Print the reason why a command cannot do its task to stderr, and exit with that code."""
    say(*lines, err=True)
    raise typer.Exit(code)


def write_json(value: object) -> None:
    """Print JSON, with None in place of NaN and infinity, which JSON does not support."""
    typer.echo(json.dumps(_plain(value, hider()), indent=2))


def write_csv(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Print a table as CSV."""
    hide, text = hider(), io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: cell(hide(v)) if isinstance(v, str) else v for key, v in row.items()})
    typer.echo(text.getvalue(), nl=False)


def write_page(html: str) -> None:
    """Print a page that was made of a `Screen` or of a template."""
    typer.echo(html)


_WIDER_THAN_ANY: Final = 10_000


class Screen(Console):
    """A console that shows every text literally and as one line: no markup, no escapes, no secrets."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **settings)
        self._hide = hider()

    def render_str(self, text: str, **settings: Any) -> Text:
        return super().render_str(one_line(self._hide(text)), **settings)


def on_terminal(*, err: bool = False) -> bool:
    """Whether stdout, or stderr, is a terminal that understands escapes."""
    screen = Screen(stderr=err)
    return screen.is_terminal and not screen.is_dumb_terminal


def natural_width(shown: RenderableType) -> int:
    """The characters of a line in which nothing has to be wrapped or cut."""
    wide = Screen(width=_WIDER_THAN_ANY)
    return wide.measure(shown).maximum


def lines_of(shown: RenderableType, width: int) -> list[str]:
    """Text for a terminal of this width as lines, with its colours."""
    # With a height, because a width alone does not count everywhere.
    screen = Screen(file=io.StringIO(), width=width, height=1, force_terminal=True)
    with screen.capture() as captured:
        screen.print(shown)
    return captured.get().splitlines()


def _plain(value: Any, hide: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return hide(value)
    if isinstance(value, dict):
        return {hide(str(key)): _plain(item, hide) for key, item in value.items()}
    return [_plain(item, hide) for item in value] if isinstance(value, (list, tuple)) else value


def _print_crash(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    text = "".join(traceback.format_exception(kind, error, trace))
    typer.echo("\n".join(map(one_line, printable(text).split("\n"))), err=True, nl=False)


_make_record = logging.getLogRecordFactory()


def _record_without_secrets(*args: Any, **kwargs: Any) -> logging.LogRecord:
    record = _make_record(*args, **kwargs)
    guard.clean(record)
    return record
