"""Loaded at the start of the interpreter of a program under `carbon-otel run`; starts to measure the program.

Only the program itself is measured, and it is charged for its children: the variables that load this file are
removed from its environment before it begins. With `--children` they stay, and the processes share the energy
of the devices like all measured processes of a host.
"""

import os
import sys
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec

_HERE = os.path.dirname(__file__)  # noqa: PTH120 - as in PYTHONPATH; pathlib would slow the start


def _measure() -> None:
    kind = os.environ.pop("CARBON_OTEL_RUN_STAGE", "")
    folder = os.environ.get("CARBON_OTEL_RUN_JOURNALS", "")
    if not os.environ.get("CARBON_OTEL_RUN_CHILDREN"):
        paths = [path for path in os.environ.pop("PYTHONPATH", "").split(os.pathsep) if path != _HERE]
        if paths:
            os.environ["PYTHONPATH"] = os.pathsep.join(paths)
        for variable in ("CARBON_OTEL_RUN_JOURNALS", "CARBON_OTEL_RUN_CHILDREN"):
            os.environ.pop(variable, None)
    if folder and not ("CARBON_OTEL_JOURNAL" in os.environ and _is_first(folder)):
        os.environ["CARBON_OTEL_JOURNAL"] = f"{folder}{os.sep}{os.getpid()}.json"

    import atexit

    import carbon_otel

    try:
        carbon_otel.instrument(announce=False)  # `carbon-otel run` prints a table
    finally:
        os.environ.pop("CARBON_OTEL_JOURNAL", None)
    if kind:
        program = carbon_otel.stage(kind)
        program.__enter__()
        # Registered after the end of the session, so it runs before that.
        atexit.register(program.__exit__, None, None, None)


def _is_helper() -> bool:
    """Whether this is the tracker of `multiprocessing`, which does no work of the program and outlives it."""
    return any("multiprocessing.resource_tracker import main" in argument for argument in sys.orig_argv)


def _is_first(folder: str) -> bool:
    """A journal holds one process: the user's journal is for the first process that begins."""
    try:
        os.close(os.open(f"{folder}{os.sep}first", os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        return False
    return True


def _chain() -> None:
    """Run the `sitecustomize` that this file hides, if there is one."""
    spec = PathFinder.find_spec("sitecustomize", sys.path)
    if spec is not None and spec.loader is not None:
        module = module_from_spec(spec)
        sys.modules["sitecustomize"] = module
        spec.loader.exec_module(module)


sys.path[:] = [path for path in sys.path if path != _HERE]
# An interpreter without carbon_otel, such as a launcher, leaves the measuring to the interpreters that it starts.
if find_spec("carbon_otel") is not None and not _is_helper():
    try:
        _measure()
    except Exception:  # the program runs in any case
        import logging

        logging.getLogger("carbon_otel").warning("the program is not measured", exc_info=True)
_chain()
