"""`%%carbon` measures a cell as a stage, and `%carbon` shows the sums so far.

    %load_ext carbon_otel

    %%carbon training forest --units samples=len(X)
    model.fit(X, y)

The first line of such a cell becomes a call that opens the stage, and the rest stays as it is: so `await`, other
magics, tracebacks and the last value work as in any cell. The stage ends with the cell, whatever ends that.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final

from IPython.core.error import UsageError
from IPython.core.inputtransformer2 import cell_magic
from IPython.core.magic import no_var_expand
from IPython.display import display

from carbon_otel import runtime
from carbon_otel.notebook.between_cells import BetweenCells
from carbon_otel.notebook.line import Request, evaluated, parse
from carbon_otel.notebook.totals import Totals
from carbon_otel.stages.api import Stage

_NAME: Final = "carbon"
_BEGIN: Final = "--begin "
_BEGUN: Final = (
    "carbon_otel measures this session from here on. Call carbon_otel.instrument(zone=...) to name your grid."
)
_OFF: Final = "carbon_otel is switched off by CARBON_OTEL_DISABLED, so nothing is measured."


class _Cell:
    """A cell that runs, and the stages that it has begun."""

    def __init__(self) -> None:
        self.stages: list[tuple[Stage, Request]] = []


class _Here(threading.local):
    """The cells that run in this thread, the innermost last. Subshells of a kernel have threads of their own."""

    def __init__(self) -> None:
        self.cells: list[_Cell] = []


class Extension:
    """The magics in one shell. `instrument` begins a measurement where there is none."""

    def __init__(self, shell: Any, instrument: Callable[[], None]) -> None:
        self._shell = shell
        self._instrument = instrument
        self._here = _Here()
        self._busy: set[int] = set()  # threads in which a cell runs
        self._between = BetweenCells()

    def load(self) -> None:
        """Add the magics to the shell."""
        shell = self._shell
        shell.register_magic_function(self.carbon, "line_cell", _NAME)
        # Before IPython looks for cell magics.
        shell.input_transformer_manager.line_transforms.insert(0, transformed)
        shell.events.register("pre_run_cell", self._cell_begins)
        shell.events.register("post_run_cell", self._cell_ends)

    def unload(self) -> None:
        """Remove them, and end the stages that they have begun."""
        shell = self._shell
        shell.events.unregister("pre_run_cell", self._cell_begins)
        shell.events.unregister("post_run_cell", self._cell_ends)
        shell.input_transformer_manager.line_transforms.remove(transformed)
        for magics in shell.magics_manager.magics.values():
            magics.pop(_NAME, None)
        while self._here.cells:
            self._end(self._here.cells.pop(), None)

    @no_var_expand  # type: ignore[untyped-decorator]
    def carbon(self, line: str, cell: str | None = None) -> Totals | None:
        """Measure this cell as a stage, or show the sums so far.

            %%carbon KIND [NAME] [--units samples=N]
            %carbon

        KIND is data_processing, training, evaluation, inference or a name of yours. NAME is the name of the span.
        `--units samples=len(X)` gives energy and emissions per sample; it is evaluated at the end of the cell.
        If nothing is measured yet, `%%carbon` calls carbon_otel.instrument().
        """
        if cell is not None:
            self._shell.run_cell(f"%%{_NAME} {line}\n{cell}")
            return None
        if line.startswith(_BEGIN):
            self._begin(line.removeprefix(_BEGIN))
            return None
        if line.strip():
            raise UsageError(f"%carbon takes no argument; %%carbon {line.strip()} measures a cell")
        return Totals(self._between.footprint())

    def _begin(self, line: str) -> None:
        try:
            request = parse(line, self._shell.var_expand)
        except ValueError as error:
            raise UsageError(f"%%carbon: {error}") from None
        if runtime.begun() is None:
            self._instrument()
            print(_OFF if runtime.begun() is None else _BEGUN)  # noqa: T201 - the output of the cell
        cells = self._here.cells
        if cells:  # a silent cell shows nothing, and is no cell of a user
            cells[-1].stages.append((Stage(request.kind, request.name).__enter__(), request))

    def _cell_begins(self, info: Any) -> None:
        cells = self._here.cells
        if not cells:
            self._busy.add(threading.get_ident())
            if len(self._busy) == 1:
                self._between.end()
        cells.append(_Cell())

    def _cell_ends(self, result: Any) -> None:
        # For an empty cell, IPython tells the end alone.
        is_empty = result is not None and not (result.info.raw_cell or "").strip()
        cells = self._here.cells
        if is_empty:
            return
        if cells:
            # A kernel that interrupts `await` has no result.
            error = KeyboardInterrupt() if result is None else result.error_in_exec
            self._end(cells.pop(), error)
        if not cells:
            self._busy.discard(threading.get_ident())
            if not self._busy:
                self._between.begin()

    def _end(self, cell: _Cell, error: BaseException | None) -> None:
        while cell.stages:
            stage, request = cell.stages.pop()
            stage.__exit__(None if error is None else type(error), error, None)
            if error is None:
                self._count(stage, request)
            display(stage)

    def _count(self, stage: Stage, request: Request) -> None:
        """Set the units, whose expressions are the user's: whatever they raise is shown, and the stage stays."""
        try:
            stage.units(**evaluated(request.units, self._shell.user_ns))
        except Exception as error:  # noqa: BLE001 - as said
            print(f"%%carbon: --units: {type(error).__name__}: {error}")  # noqa: T201 - the output of the cell


def transformed(lines: list[str]) -> list[str]:
    """The lines of a cell; one that begins with `%%carbon` has a call in place of its first line."""
    words = lines[0].split(maxsplit=1) if lines else []
    if not words or words[0] != f"%%{_NAME}":
        return lines
    line = words[1].strip() if len(words) > 1 else ""
    rest = transformed(lines[1:])
    call = f"get_ipython().run_line_magic({_NAME!r}, {_BEGIN + line!r})\n"
    return [call, *(cell_magic(rest) if rest else [])]


_extensions: dict[int, Extension] = {}


def load(shell: Any, instrument: Callable[[], None]) -> None:
    """Add the magics to a shell."""
    extension = _extensions[id(shell)] = Extension(shell, instrument)
    extension.load()


def unload(shell: Any) -> None:
    """Remove the magics from a shell that has them."""
    extension = _extensions.pop(id(shell), None)
    if extension is not None:
        extension.unload()
