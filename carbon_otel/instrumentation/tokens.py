"""Tokens in the batches of a training, without the padding.

A `DataLoader` makes its batches on the processor, so their attention masks can be counted there: to count them on
an accelerator would be a wait for it. A batch without a mask is read as a whole.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Final

from carbon_otel.guard import contain
from carbon_otel.instrumentation.in_place import unseen
from carbon_otel.instrumentation.sizes import parts_in

_ROWS_AND_POSITIONS: Final = 2


def tokens_in(batch: Any) -> int | None:
    """The tokens of a batch of token ids; None where only a wait or code of the user could tell."""
    parts = None if type(batch) is list else parts_in(batch)
    if parts is None:
        return None
    mask, ids = parts.get("attention_mask"), parts.get("input_ids")
    return tokens_of_mask(mask) if mask is not None else _size(ids)


def tokens_of_mask(mask: Any) -> int | None:
    """The ones in a mask of rows and positions that is in the memory of the processor."""
    if _size(mask) is None or mask.device.type != "cpu":
        return None
    # Not an operation of PyTorch, which profilers and modes would see.
    return int(sys.modules["numpy"].count_nonzero(mask.numpy()))


def _size(tensor: Any) -> int | None:
    """The elements of a tensor of whole numbers, by rows and positions."""
    torch: Any = sys.modules.get("torch")
    if torch is None or type(tensor) is not torch.Tensor or tensor.dim() != _ROWS_AND_POSITIONS:
        return None
    return None if tensor.is_floating_point() else int(tensor.numel())


class TokenCount:
    """The tokens of the batches that loops read while it is entered; `complete` if each batch has told them."""

    __slots__ = ("_before", "complete", "tokens")

    def __init__(self) -> None:
        self.tokens = 0
        self.complete = True
        self._before: TokenCount | None = None

    def __enter__(self) -> Callable[[Any], Any]:
        self._before = present.get()
        present.set(self)
        return unseen

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        present.set(self._before)

    def add(self, tokens: int | None) -> None:
        if tokens is None:
            self.complete = False
        else:
            self.tokens += tokens


present: ContextVar[TokenCount | None] = ContextVar("carbon_otel_tokens", default=None)


class Pass:
    """One pass over a `DataLoader` whose tokens are counted; it is entered while the loop waits for a batch.

    A batch counts when the next one is there: accelerate reads one ahead, and a training that ends in the midst of
    an epoch has not used that.
    """

    __slots__ = ("_count", "_latest")

    def __init__(self, count: TokenCount) -> None:
        self._count = count
        self._latest: int | None = 0

    def __enter__(self) -> Callable[[Any], Any]:
        return self._seen

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, StopIteration):
            self._count.add(self._latest)
            self._latest = 0

    def _seen(self, batch: Any) -> Any:
        self._count.add(self._latest)
        self._latest = contain("counting tokens", None, tokens_in, batch)
        return batch
