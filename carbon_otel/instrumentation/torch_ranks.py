"""PyTorch, distributed: which rank a process is, the word of rank 0, and which rank the others wait for.

Nothing is added to what the ranks do together: no collective, and nothing that waits for a rank. The word goes
through the key-value store by which the process group was made. The times are those that
`DistributedDataParallel` takes for its own log, of the first ten steps and of each hundredth.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from types import ModuleType
from typing import Any, Final

from carbon_otel.guard import contain
from carbon_otel.instrumentation.base import Undo
from carbon_otel.instrumentation.in_place import After, Around, Changed, Entered
from carbon_otel.ranks import Rank, group
from carbon_otel.units import S_PER_NS

_KEY: Final = "carbon_otel/work"
# By their ids: a class of the user may define `==` and a hash.
_Models = weakref.WeakValueDictionary[int, Any]


class ProcessGroupIntegration:
    """The process group of a process says its rank, and has the store with the word of rank 0."""

    module = "torch.distributed.distributed_c10d"

    def connect(self, module: ModuleType) -> Undo:
        changed = Changed()
        changed.put(vars(module)["init_process_group"], Around(_make, module))
        changed.put(vars(module)["destroy_process_group"], Around(_leave, module))
        contain("looking for a process group", None, _look, module)
        return changed.undo


class DistributedModelIntegration:
    """The models whose gradients the ranks exchange."""

    module = "torch.nn.parallel.distributed"

    def connect(self, module: ModuleType) -> Undo:
        models: _Models = weakref.WeakValueDictionary()
        before = group.ask_step_wait_s
        changed = Changed()
        changed.put(vars(module.DistributedDataParallel)["__init__"], Around(_build, models))

        def undo() -> None:
            group.learn_step_wait()  # for the last time
            changed.undo()
            group.ask_step_wait_s = before

        group.ask_step_wait_s = lambda: contain("reading the times of a model", None, _longest_wait_s, models)
        return undo


class _Store:
    """The store of the process group, which is looked for each time: a rank that reads does not keep it alive."""

    def __init__(self, find: Callable[[], Any]) -> None:
        self._find = find
        self._own: Any = None

    def write(self, word: str) -> None:
        if self._own is None:
            self._own = _another(self._find())
        self._own.set(_KEY, word)

    def read(self) -> str | None:
        store = self._find()
        # `get` alone would wait for the key.
        return str(store.get(_KEY), "utf-8") if store.check([_KEY]) else None


def _another(store: Any) -> Any:
    """A connection to the store of its own, as long as the board is used.

    While the application waits for a key, as until its ranks have come together, other calls of the same
    connection wait too. An old PyTorch, or a store written in Python, has no other connection.
    """
    try:
        return store.clone()
    except (AttributeError, RuntimeError):
        return store


def _look(module: Any) -> None:
    if module.is_initialized() and module.get_world_size() > 1:
        known, rank = group.look(), module.get_rank()
        local = known.local_rank if known is not None else None
        find = vars(module)["_get_default_store"]
        group.made(Rank(rank, module.get_world_size(), local), _Store(find) if find() is not None else None)


def _make(module: Any, /, *_: Any, **__: Any) -> Entered | None:
    return After("looking for a process group", _look, module)


def _leave(module: Any, /, *arguments: Any, **_: Any) -> None:
    contain("leaving a process group", None, _left, module, arguments)


def _left(module: Any, arguments: tuple[Any, ...]) -> None:
    # Without an argument all groups go; else it is one group, often a part of the ranks.
    if not arguments or arguments[0] is None or arguments[0] is module.GroupMember.WORLD:
        group.leave()


def _build(models: _Models, model: Any, /, *_: Any, **__: Any) -> Entered | None:
    return After("noting a distributed model", functools.partial(_note, models), model)


def _note(models: _Models, model: Any) -> None:
    models[id(model)] = model


def _longest_wait_s(models: _Models) -> float | None:
    """The mean seconds of a step in which the gradients are exchanged and nothing else is done.

    The slowest rank comes last, and waits least.
    """
    waits = []
    for model in models.values():
        times = model._get_ddp_logging_data()  # noqa: SLF001 - there is no other
        if "avg_backward_comm_time" in times:
            overlap_ns = times.get("avg_backward_compute_comm_overlap_time", 0)
            waits.append(max(0, times["avg_backward_comm_time"] - overlap_ns) * S_PER_NS)
    return max(waits, default=None)


RANKS: Final = ProcessGroupIntegration(), DistributedModelIntegration()
