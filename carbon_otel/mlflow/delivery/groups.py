"""Batches, metrics and tags in as few calls of a store as possible."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any, Final

from carbon_otel.mlflow.delivery.spool import Waiting

# A server accepts 1000 metrics and tags in one call, among them 100 tags.
METRICS_AT_ONCE: Final = 900
TAGS_AT_ONCE: Final = 90


def pieces(items: list[Any], size: int) -> Iterator[list[Any]]:
    """The items in lists of at most that size."""
    return (items[i : i + size] for i in range(0, len(items), size))


def groups(rows: Iterable[Waiting]) -> Iterator[list[Waiting]]:
    """The batches run by run: successive batches of one segment, as many as fit in one call."""
    by_run: dict[str, list[Waiting]] = {}
    for row in rows:
        by_run.setdefault(row.batch.ordering_key, []).append(row)
    group: list[Waiting] = []
    metrics = 0
    for row in itertools.chain.from_iterable(by_run.values()):
        size = 3 * len(row.batch.values) + len(row.batch.gauges)  # with the rates and the zeros
        if group and (row.batch.segment != group[0].batch.segment or metrics + size > METRICS_AT_ONCE):
            yield group
            group, metrics = [], 0
        group.append(row)
        metrics += size
    if group:
        yield group
