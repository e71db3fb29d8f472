"""Tables as one HTML page without external scripts, fonts or images."""

from __future__ import annotations

import io
from collections.abc import Callable
from html import escape
from typing import Final

from rich.terminal_theme import DEFAULT_TERMINAL_THEME

from carbon_otel.cli.output import Screen
from carbon_otel.text import shown

_WIDTH: Final = 130
# A template of rich, in which braces are doubled.
_PAGE: Final = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body {{{{ margin: 2rem auto; max-width: max-content; padding: 0 1rem; color: #1b1f24; background: #fff }}}}
pre {{{{ font: 13px/1.35 ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; overflow-x: auto }}}}
</style>
<h1>{title}</h1>
<pre>{{code}}</pre>
</html>
"""


def page_of(title: str, draw: Callable[[Screen], None]) -> str:
    """The page with what `draw` prints on a screen."""
    console = Screen(
        record=True,
        file=io.StringIO(),
        width=_WIDTH,
        color_system="truecolor",
        legacy_windows=False,
    )
    draw(console)
    heading = escape(shown(title)).replace("{", "{{").replace("}", "}}")
    return console.export_html(
        theme=DEFAULT_TERMINAL_THEME, code_format=_PAGE.format(title=heading), inline_styles=True
    )
