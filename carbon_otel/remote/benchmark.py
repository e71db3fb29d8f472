"""Joules per token of open models on the servers of a benchmark, as an estimate for a model on servers of others.

    energy = output tokens * joules of the GPUs per output token * node
    low    = output tokens * 5th percentile
    high   = (output tokens * 95th percentile + input tokens * median) * node

The joules per token are those of models of the same size, by `data/token_energy.csv`. The size is read from the
model's name (`llama-3.1-70b`); a name without one, such as that of a model whose size is not published, gets the
band over all sizes. The figures include the short prompts of the benchmark. A longer prompt is in the upper bound
alone: reading a token takes less than writing one, which is read again for each further token.

`node` is what the server of an accelerator takes in all: 58 % of the energy of a service went to the accelerators,
25 % to host processors and memory, 10 % to idle reserve (Google 2025, arXiv 2508.15734). Its overhead of the data
centre, 8 %, is in the emissions alone: energy is that of the IT equipment. The emissions are those of the average
grid of the world, with its band, because the place is not known.
"""

from __future__ import annotations

import csv
import functools
import re
from dataclasses import dataclass
from importlib.resources import files
from typing import Final

from carbon_otel.carbon.grid import intensity
from carbon_otel.records import RemoteFigures, RemoteRequest
from carbon_otel.units import J_PER_KWH

NODE: Final = (58 + 25 + 10) / 58
_PUE: Final = (58 + 25 + 10 + 8) / (58 + 25 + 10)
UNKNOWN: Final = "unknown"
# Billions of parameters; all of them where a name has the active ones, too: `qwen3-235b-a22b`, `mixtral-8x7b`.
_SIZE: Final = re.compile(r"(?<![a-z0-9.])(?:(\d+)x)?(\d+(?:\.\d+)?)b(?![a-z0-9])")
# The number of experts, in names that have the active parameters alone: `llama-4-scout-17b-16e`.
_EXPERTS: Final = re.compile(r"-\d+e(?![a-z0-9])")


@dataclass(frozen=True, slots=True)
class TokenEnergy:
    """Joules of the GPUs per output token of the models of one size, with the provenance of its row.

    Attributes:
        size: name of the size.
        above_b: billions of parameters, exclusive.
        up_to_b: billions of parameters, inclusive.
        median_j: median over models, GPUs and numbers of requests at once.
        p5_j: 5th percentile.
        p95_j: 95th percentile.
        rows: the number of measured rows.
        models: the number of models in them.
        year: the year of the data.
        source: what it is derived from.
        licence: licence of the source.
    """

    size: str
    above_b: float
    up_to_b: float
    median_j: float
    p5_j: float
    p95_j: float
    rows: int
    models: int
    year: int
    source: str
    licence: str


@functools.cache
def table() -> tuple[TokenEnergy, ...]:
    """The rows by size, the smallest first, then that of all sizes."""
    text = (files("carbon_otel.remote") / "data" / "token_energy.csv").read_text("utf-8")
    return tuple(
        TokenEnergy(
            row["size"],
            float(row["above_b"]),
            float(row["up_to_b"]),
            float(row["j_per_output_token"]),
            float(row["p5_j"]),
            float(row["p95_j"]),
            int(row["rows"]),
            int(row["models"]),
            int(row["year"]),
            row["source"],
            row["licence"],
        )
        for row in csv.DictReader(text.splitlines())
    )


@functools.lru_cache(maxsize=1000)
def size_of(model: str) -> TokenEnergy:
    """The row of a model, by its name."""
    name = model.lower()
    sizes = [float(each or 1) * float(size) for each, size in _SIZE.findall(name)]
    parameters = 0.0 if _EXPERTS.search(name) else max(sizes, default=0.0)
    return next(row for row in table() if row.above_b < parameters <= row.up_to_b or row.size == UNKNOWN)


def estimate(request: RemoteRequest) -> RemoteFigures:
    """The figures of a request; every model has some, with a band of two orders of magnitude at worst."""
    row = size_of(request.model)
    energy_j = request.output_tokens * row.median_j * NODE
    low_j = request.output_tokens * row.p5_j
    high_j = (request.output_tokens * row.p95_j + request.input_tokens * row.median_j) * NODE
    grid = intensity(None)
    g_per_j = grid.g_per_kwh / J_PER_KWH
    return RemoteFigures(
        energy_j,
        low_j,
        high_j,
        energy_j * g_per_j * _PUE,
        low_j * g_per_j * grid.band.low,
        high_j * g_per_j * _PUE * grid.band.high,
        f"{row.source}; {row.size} model; {grid.source} {grid.year}, {grid.zone}",
    )
