"""PyTorch loops that people write: a pass over a `DataLoader` is a stage, and so are steps without one.

==========================================  ============  ====================================
a pass in which an optimizer steps           `training`    epochs, batches, steps, samples
a pass without, after training               `evaluation`  batches, samples
a pass without, in another process           `inference`   batches, samples
steps of an optimizer outside of a pass      `training`    steps
==========================================  ============  ====================================

Batches with token ids have tokens, too: without the padding, if they have an attention mask.

A pass begins when the loop asks for its iterator, and ends when the iterator is exhausted or dropped: by a
`break`, too, or an exception. A loader with persistent workers keeps its iterator: each tick looks whether the
loop has it as well, and if not, the pass has ended when it was last seen. The time in which the loop waits for a
batch is a share of kind `data_processing`; with workers it is not the energy of loading, which they use meanwhile.

Steps are seen by the official hooks of `torch.optim`. All steps between two batches are one; `steps.py` says what
they are without batches. Loops in a stage, or in the training of a library that is seen itself, are part of that.
Worker processes of a `DataLoader` open none.
"""

from __future__ import annotations

import functools
import sys
import weakref
from collections.abc import Callable
from types import ModuleType, TracebackType
from typing import Any, Final

from carbon_otel import clock
from carbon_otel.guard import contain, log_fault, undone
from carbon_otel.instrumentation.base import Undo, undo_all
from carbon_otel.instrumentation.calls import Call
from carbon_otel.instrumentation.in_place import Around, Changed, Entered
from carbon_otel.instrumentation.sizes import samples_in_batch
from carbon_otel.instrumentation.tokens import Pass, present, tokens_in
from carbon_otel.stages import episodes
from carbon_otel.stages.automatic import helping
from carbon_otel.stages.episodes import Episode
from carbon_otel.stages.shares import Parent
from carbon_otel.stages.short_calls import after_step, before_loop, before_step, loop

# The loops of open iterators, by the id of the iterator: it may define `==` and a hash.
_Loops = dict[int, "_Waiting"]
# The same of loops in the training of a library, which counts its tokens.
_Passes = dict[int, Pass]

# The references to an iterator that a loader keeps: from that, and from where they are counted.
_KEPT: Final = 3

_BEGIN: Final = "beginning a loop"
# What may fail with each step or batch.
_STEP: Final = "looking at a step"
_WAIT: Final = "waiting for a batch"
_COUNT: Final = "counting a batch"


class DataLoaderIntegration:
    """A pass over a `DataLoader` is an episode."""

    module = "torch.utils.data.dataloader"
    calls: Final = (
        Call("DataLoader.__iter__", "training", "for batch in DataLoader, with steps"),
        Call("DataLoader.__iter__", "evaluation", "for batch in DataLoader, after training"),
        Call("DataLoader.__iter__", "inference", "for batch in DataLoader"),
        Call("Optimizer.step", "training", "Optimizer.step outside of a DataLoader"),
        Call("_BaseDataLoaderIter.__next__", "data_processing", "waiting for a batch", often=True),
    )

    def connect(self, module: ModuleType) -> Undo:
        loops: _Loops = {}
        passes: _Passes = {}
        changed = Changed()
        iterator: Any = vars(module)["_BaseDataLoaderIter"]
        changed.put(vars(module.DataLoader)["__iter__"], Around(_begin, loops, passes))
        changed.put(vars(iterator)["__next__"], Around(_next, loops, passes))
        return changed.undo


class WorkerIntegration:
    """A worker of a `DataLoader` opens no stages: it would be a session in each epoch and worker."""

    module = "torch.utils.data._utils.worker"

    def connect(self, module: ModuleType) -> Undo:
        changed = Changed()
        changed.put(vars(module)["_worker_loop"], Around(_silence))
        return changed.undo


class OptimizerIntegration:
    """A step of an optimizer makes a pass a training, and is one without a pass."""

    module = "torch.optim.optimizer"

    def connect(self, module: ModuleType) -> Undo:
        # The official hooks of all optimizers (PyTorch 2.0). The second one is not called if the step raises.
        before = module.register_optimizer_step_pre_hook(_before_step)
        after = module.register_optimizer_step_post_hook(_after_step)
        return undo_all([before.remove, after.remove])


# What comes with each batch does not use `contain`: where the batch has filled the processor's caches, each call
# of a function takes a microsecond.
def _before_step(optimizer: Any, *_: Any) -> None:
    try:
        before_step(id(optimizer))
    except RecursionError:
        undone[_STEP] = True
    except Exception as fault:  # noqa: BLE001 - no internal fault may reach the user's program
        log_fault(_STEP, fault)


def _after_step(optimizer: Any, *_: Any) -> None:
    try:
        after_step(id(optimizer))
    except RecursionError:
        undone[_STEP] = True
    except Exception as fault:  # noqa: BLE001 - as above
        log_fault(_STEP, fault)


def _silence(*_: Any, **__: Any) -> None:
    helping.set(True)


def _begin(loops: _Loops, passes: _Passes, loader: Any, /) -> Entered | None:
    return _Beginning(loops, passes, loader)


class _Beginning:
    """A loop asks a loader for its iterator, which may start workers."""

    __slots__ = ("_begun_ns", "_loader", "_loops", "_parent", "_passes")

    def __init__(self, loops: _Loops, passes: _Passes, loader: Any) -> None:
        self._loops = loops
        self._passes = passes
        self._loader = loader
        self._parent: Parent | None = None
        self._begun_ns = 0

    def __enter__(self) -> Callable[[Any], Any]:
        self._parent = contain(_BEGIN, None, before_loop)
        self._begun_ns = clock.monotonic_ns()
        return self._seen

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def _seen(self, iterator: Any) -> Any:
        contain(_BEGIN, None, self._loop, iterator)
        return iterator

    def _loop(self, iterator: Any) -> None:
        # An iterator of persistent workers begins again without an end.
        before = self._loops.pop(id(iterator), None)
        if before is not None:
            episodes.end(before.episode)
        self._passes.pop(id(iterator), None)
        kept = vars(self._loader).get("_iterator") is iterator
        held = functools.partial(_is_held, weakref.ref(iterator), weakref.ref(self._loader)) if kept else None
        counting = present.get()
        if self._parent is not None:
            episode = loop(self._parent, self._begun_ns, held)
            self._loops[id(iterator)] = _Waiting(self._loops, id(iterator), episode)
            weakref.finalize(iterator, _dropped, self._loops, id(iterator)).atexit = False
        elif counting is not None:
            self._passes[id(iterator)] = Pass(counting)
            weakref.finalize(iterator, self._passes.pop, id(iterator), None).atexit = False


def _is_held(iterator_there: weakref.ref[Any], loader_there: weakref.ref[Any]) -> bool:
    """Whether anything but its loader refers to an iterator."""
    iterator = iterator_there()
    return iterator is not None and (loader_there() is None or sys.getrefcount(iterator) > _KEPT)


def _dropped(loops: _Loops, key: int) -> None:
    """The loop is left, or its iterator has no more."""
    waiting = loops.pop(key, None)
    if waiting is not None:
        contain("ending a loop", None, episodes.gone, waiting.episode)


def _next(loops: _Loops, passes: _Passes, iterator: Any, /) -> Entered | None:
    waiting = loops.get(id(iterator))
    if waiting is None:
        return passes.get(id(iterator))
    try:
        return waiting if waiting.is_due() else None
    except RecursionError:
        undone[_WAIT] = True
    except Exception as fault:  # noqa: BLE001 - as above
        log_fault(_WAIT, fault)
    return None


class _Waiting:
    """A loop waits for its next batch. One for each iterator, because a loop has batches by the thousand."""

    __slots__ = ("_key", "_loops", "_turn", "_waits", "episode")

    def __init__(self, loops: _Loops, key: int, episode: Episode) -> None:
        self._loops = loops
        self._key = key
        self.episode = self._turn = episode
        self._waits = False

    def is_due(self) -> bool:
        """Whether the loop is still one."""
        self._turn = episodes.turn_to(self.episode)
        if self._turn.ended:  # by an exception that the program goes on after, or with its run
            parent = before_loop()
            if parent is None:
                return False
            self.episode = self._turn = loop(parent, clock.monotonic_ns())
        return True

    def __enter__(self) -> Callable[[Any], Any]:
        self._waits = self._turn.begin_wait()
        return self._seen

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._waits:
            self._turn.end_wait()
        if error is not None:
            if isinstance(error, StopIteration):
                _dropped(self._loops, self._key)
            else:
                contain("ending a loop", None, episodes.end, self.episode)

    def _seen(self, batch: Any) -> Any:
        episode = self.episode
        if self._waits and self._turn is episode:
            try:
                episode.batches += 1
                episode.samples += samples_in_batch(batch) or 0
                if type(batch) is not list:  # as most batches are, and none with tokens
                    episode.tokens += tokens_in(batch) or 0
            except RecursionError:
                undone[_COUNT] = True
            except Exception as fault:  # noqa: BLE001 - as above
                log_fault(_COUNT, fault)
        return batch


TORCH: Final = DataLoaderIntegration(), WorkerIntegration(), OptimizerIntegration()
