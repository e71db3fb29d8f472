"""How many samples there are in what a user hands to a library; None where only the user's own code could tell.

Types are compared exactly, and found among the modules that the program has imported: a class of the user, or one
that derives from an array, may do anything when it is asked for its length.
"""

from __future__ import annotations

import sys
from collections import UserDict
from collections.abc import Mapping
from typing import Any, Final

_SPARSE: Final = ("csr", "csc", "coo", "bsr", "lil", "dok", "dia")
# The types whose `shape` begins with the samples: module, and the names of the types in it.
_SHAPED: Final = {
    "numpy": ("ndarray", "matrix"),
    "numpy.ma": ("MaskedArray",),
    "pandas": ("DataFrame", "Series"),
    "polars": ("DataFrame", "Series"),
    "torch": ("Tensor",),
    "scipy.sparse": tuple(f"{form}_{what}" for form in _SPARSE for what in ("matrix", "array")),
    "pyarrow": ("Table",),
}
_COUNTED: Final = (list, tuple)
# Those of them that were found, by id: they are looked for in 2 us, and a loop has each batch counted.
_found: Final[dict[int, type]] = {}
# As `type` reads them, whatever a metaclass says.
_bases: Final = type.__dict__["__mro__"].__get__


def samples_in(data: Any) -> int | None:
    """The number of samples in an array, a data frame, a tensor, a sparse matrix, or a list of samples."""
    kind = type(data)
    if kind is list or kind is tuple:
        return len(data)
    return _first(data) if _found.get(id(kind)) is kind or _is_shaped(kind) else None


def _is_shaped(kind: Any) -> bool:
    module: object = kind.__module__
    root = module.partition(".")[0] if isinstance(module, str) else ""
    for name, types in _SHAPED.items():
        if name.partition(".")[0] == root and name in sys.modules:
            found = vars(sys.modules[name])
            if any(found.get(each) is kind for each in types):
                _found[id(kind)] = kind
                return True
    return False


def _first(data: Any) -> int | None:
    try:
        shape = data.shape
        return int(shape[0]) if len(shape) else None
    except (RuntimeError, TypeError):  # a nested tensor has no shape, and a delayed one no number
        return None


def parts_in(data: Any) -> dict[Any, Any] | None:
    """What a dict holds, also one of a derived class or a `UserDict`, such as a batch of a tokeniser; else None.

    The methods that a derived class may have in the place of those of `dict` are not called.
    """
    kind = type(data)
    if issubclass(kind, dict):
        return dict(zip(dict.keys(data), dict.values(data), strict=True))
    if UserDict in _bases(kind):
        held = object.__getattribute__(data, "__dict__").get("data")
        return held if type(held) is dict else None
    return None


def samples_in_batch(batch: Any) -> int | None:
    """The number of samples in a batch: of its first part, if it is a list, a tuple or a dict of tensors."""
    kind = type(batch)
    if (kind is list or kind is tuple) and batch:
        inner = type(batch[0])
        if _found.get(id(inner)) is inner:  # the quick answer
            return _first(batch[0])
    for sequence in _COUNTED:
        if issubclass(kind, sequence) and sequence.__len__(batch):
            first = samples_in_batch(sequence.__getitem__(batch, 0))
            # A list of anything else has one entry for each sample; a named tuple has its fields.
            return len(batch) if first is None and kind is sequence else first
    parts = parts_in(batch)
    if parts is not None:
        return samples_in_batch(next(iter(parts.values()), None))
    return samples_in(batch)


def samples(data: Any) -> dict[str, float]:
    """The same as functional units of a stage."""
    count = samples_in(data)
    return {} if count is None else {"samples": count}


def rows_of_result(arguments: Mapping[str, Any], result: Any) -> dict[str, float]:
    """The units of a call that makes a data frame, as a `Call` counts them."""
    return _rows(result)


def rows_of_self(arguments: Mapping[str, Any], result: Any) -> dict[str, float]:
    """The units of a method that writes its data frame, as a `Call` counts them."""
    return _rows(arguments["self"])


def _rows(frame: Any) -> dict[str, float]:
    count = samples_in(frame)
    return {} if count is None else {"rows": count}


def samples_in_batches(loader: Any, batches: int) -> int | None:
    """The samples in so many batches of a DataLoader of PyTorch; the last batch of an epoch may be smaller."""
    data: Any = sys.modules.get("torch.utils.data")
    if data is None or type(loader) is not data.DataLoader or loader.batch_size is None:
        return None
    if issubclass(type(loader.dataset), data.IterableDataset):
        return int(batches * loader.batch_size)
    # The loader asks for this length, too, at each epoch.
    rows, in_epoch = len(loader.sampler), len(loader)
    epochs, more = divmod(batches, max(1, in_epoch))
    return int(epochs * min(rows, in_epoch * loader.batch_size) + more * loader.batch_size)
