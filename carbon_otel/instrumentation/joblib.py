"""joblib: tasks of a `Parallel` in threads belong to the stage in which the `Parallel` was called.

joblib takes later tasks from the caller's iterator, and starts them, in threads that tell it of the end of earlier
ones. There, and in the threads that run the tasks, the stage of the call is made the current one.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any
from weakref import WeakKeyDictionary

from carbon_otel.guard import contain
from carbon_otel.instrumentation.base import Undo
from carbon_otel.instrumentation.in_place import Around, Changed
from carbon_otel.stages.handing_on import Place, Within, here
from carbon_otel.stages.open_stage import current


class JoblibIntegration:
    """Hands the stage of a call of `Parallel` on."""

    module = "joblib.parallel"

    def connect(self, module: ModuleType) -> Undo:
        of_calls: _Places = WeakKeyDictionary()
        of_batches: _Places = WeakKeyDictionary()
        changed = Changed()
        for owner, method, around in (
            (module.Parallel, "__call__", Around(_remember, of_calls)),
            (module.Parallel, "dispatch_one_batch", Around(_within, of_calls)),
            (module.BatchedCalls, "__init__", Around(_remember, of_batches)),
            (module.BatchedCalls, "__call__", Around(_within, of_batches)),
        ):
            changed.put(vars(owner)[method], around)
        return changed.undo


_Places = WeakKeyDictionary[Any, Place]


def _remember(places: _Places, owner: Any, /, *_: Any, **__: Any) -> None:
    contain("handing a stage on to joblib", None, _remember_place, places, owner)


def _remember_place(places: _Places, owner: Any) -> None:
    place = here()
    if place is not None:
        places[owner] = place
    else:
        places.pop(owner, None)


def _within(places: _Places, owner: Any, /, *_: Any, **__: Any) -> Within | None:
    place = contain("taking a stage from joblib", None, places.get, owner)
    return None if place is None or place.stage is current.get() else Within(place)
