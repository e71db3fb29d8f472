"""Runs the Python blocks of a page in one namespace, and compares what each prints with its lines `# -> …`.

A block of `ipython` is a cell of a notebook, which must not fail.

python -m tests.docs.run_page README.md
"""

from __future__ import annotations

import contextlib
import io
import sys
from typing import Any, Final

import carbon_otel
from tests.docs import prelude
from tests.docs.pages import PAGES, Block

MARK: Final = "# -> "


def expected(block: Block) -> list[str]:
    return [line.removeprefix(MARK) for line in block.code.splitlines() if line.startswith(MARK)]


def run_cell(code: str, namespace: dict[str, Any]) -> None:
    from IPython.core.interactiveshell import InteractiveShell

    result = InteractiveShell.instance(user_ns=namespace).run_cell(code)
    result.raise_error()


def run(page: str) -> None:
    blocks = [block for block in PAGES[page].blocks() if block.language in ("python", "ipython")]
    namespace: dict[str, Any] = {**vars(prelude), "__name__": "page"}
    if not any("carbon_otel.instrument(" in block.code for block in blocks):
        carbon_otel.instrument(zone="FR")
    for block in blocks:
        prelude.settle()
        if block.language == "ipython":
            run_cell(block.code, namespace)
            continue
        out = io.StringIO()
        # Blank lines in front, so that a traceback has the line of the page.
        code = compile("\n" * (block.line - 1) + block.code, page, "exec")
        with contextlib.redirect_stdout(out):
            exec(code, namespace)
        printed = out.getvalue().splitlines()
        if printed != expected(block):
            sys.exit(f"{page}:{block.line} prints\n" + "\n".join(MARK + line for line in printed))


if __name__ == "__main__":
    run(sys.argv[1])
