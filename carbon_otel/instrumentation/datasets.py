"""datasets: what makes or changes a data set; one stage for all splits of a dict of data sets.

====================================================  =================  ====
`load_dataset`                                        `data_processing`  rows
`map`, `filter`, `sort`, `train_test_split`           `data_processing`  rows
`save_to_disk`                                        `data_processing`  rows
====================================================  =================  ====

Rows are those that go in; of `load_dataset` those that come out. A stream, `IterableDataset`, works when it is
read.

The processes of `num_proc` open no stages of their own for calls of libraries: the stage of the call has their
energy. A stage that your function opens is measured there, as in any process.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from carbon_otel.instrumentation.calls import Call, Calls, Hook
from carbon_otel.instrumentation.in_place import unseen
from carbon_otel.stages.automatic import helping


def _rows(data: Any) -> dict[str, float]:
    """The rows of a data set, or of the splits in a dict."""
    splits = list(data.values()) if isinstance(data, dict) else [data]
    return {"rows": sum(each.num_rows for each in splits)}


def _given(arguments: Mapping[str, Any], result: Any) -> dict[str, float]:
    return _rows(arguments["self"])


def _loaded(arguments: Mapping[str, Any], result: Any) -> dict[str, float]:
    return {} if arguments["streaming"] else _rows(result)


@contextlib.contextmanager
def _helper(*_: Any, **__: Any) -> Iterator[Callable[[Any], Any]]:
    token = helping.set(True)
    try:
        yield unseen
    finally:
        helping.reset(token)


def _methods(name: str, *methods: str) -> tuple[Call, ...]:
    return tuple(Call(f"{name}.{method}", "data_processing", units=_given) for method in methods)


DATASETS: Final = (
    Calls(
        "datasets.arrow_dataset",
        *_methods("Dataset", "map", "filter", "sort", "train_test_split", "save_to_disk"),
    ),
    Calls("datasets.dataset_dict", *_methods("DatasetDict", "map", "filter", "sort", "save_to_disk")),
    Calls("datasets.load", Call("load_dataset", "data_processing", "load_dataset", _loaded)),
    Calls("datasets.utils.py_utils", Hook("_write_generator_to_queue", _helper)),
)
