"""MLCarbon (LLMCarbon): its file `database.csv`, and the figures that its tutorial prints.

The formulas are those of its code, not of its paper (arXiv 2309.14393); the two differ. It is no forecast:
efficiency and watts of a row were measured in the run that it "predicts". `carbon_otel.forecast` has figures of
its own.

Every cell is checked. MLCarbon itself takes a type `moe` for dense, which multiplies Switch by 200, and prints
`nan`.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from carbon_otel.units import HOURS_PER_DAY, KILO, S_PER_DAY

_NAME: Final = "name"
_TYPE: Final = "type"
_DEVICE: Final = "computing device"
_BASE: Final = "base model param. # (B)"
_TEXTS: Final = (_NAME, _TYPE, _DEVICE)
# The columns of numbers, as MLCarbon spells them, and the fields of `Row`.
_NUMBERS: Final = {
    "parameter # (B)": "params_b",
    _BASE: "base_params_b",
    "token # (B)": "tokens_b",
    "CO2eq/KWh": "kg_per_kwh",
    "PUE": "pue",
    "device TPD (W)": "tdp_w",
    "avg. system power (W)": "system_w",
    "peak TFLOPs/s": "peak_tflops",
    "achieved TFLOPs/s": "achieved_tflops",
    "hardware efficiency": "efficiency",
    "device #": "devices",
    "total zettaFLOPs": "zettaflops",
    "training days": "actual_days",
    "actual tCO2eq": "actual_t",
    "energy MWh": "actual_mwh",
}
COLUMNS: Final = (_NAME, _TYPE, *_NUMBERS, _DEVICE)
DENSE: Final = "dense"
MOE: Final = "MoE"

# Lifetime of all hardware in its embodied check.
_LIFETIME_DAYS: Final = 5 * 365
# Embodied table: (unit in cm2 or GB, kg CO2e per unit, number in the XLM run), of its data/hardware.csv.
_HARDWARE: Final = {
    "CPU": (1.47, 1.0, 64),
    "DRAM": (256.0, 0.4, 64),
    "SSD": (32768.0, 0.018, 64),
    "V100": (8.15, 1.2, 512),
    "others": (111.6, 1.2, 64),
}
XLM_DAYS: Final = 20.4
XLM_ACTUAL_T: Final = 0.66


class BadRow(ValueError):
    """The file, or a row of it, cannot be computed; the message has file, line, name, column and what to write."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row of `database.csv`: parameters and tokens in billions, power in W, throughput in TFLOP/s."""

    name: str
    type: str
    device: str
    params_b: float
    base_params_b: float
    tokens_b: float
    kg_per_kwh: float
    pue: float
    tdp_w: float
    system_w: float
    peak_tflops: float
    achieved_tflops: float
    efficiency: float
    devices: float
    zettaflops: float
    actual_days: float
    actual_t: float
    actual_mwh: float


class Prediction(NamedTuple):
    """What MLCarbon computes for a row; `delta` is predicted / actual - 1.

    `inference_t` is its `inference_co2eq`: as many tokens as the training had, at the efficiency of the training.
    """

    name: str
    type: str
    days: float
    energy_mwh: float
    predicted_t: float
    actual_t: float
    delta: float
    inference_t: float


def read(path: str | Path) -> list[Row]:
    """The rows of a `database.csv`. Raises BadRow, and OSError."""
    with Path(path).open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file)
        try:
            header = [cell.strip() for cell in next(reader, [])]
            _check_header(header, path)
            # `line_num` is the last line of a row that spans several.
            rows = [_row(header, cells, f"{path}, line {reader.line_num}") for cells in reader if any(cells)]
        except (csv.Error, UnicodeDecodeError) as error:
            raise BadRow(f"{path}: not a CSV file in UTF-8: {error}") from error
    if not rows:
        raise BadRow(f"{path}: no rows; write one for each model")
    return rows


def predict(row: Row) -> Prediction:
    """Days, energy and emissions of a row, by the formulas of MLCarbon's `model.py`.

    FLOPs = 6 x parameters x tokens, with the base parameters of an MoE; days = FLOPs / (devices x peak x
    efficiency); MWh = system power x devices x hours x PUE; t = MWh x kg/kWh. Inference takes 2 FLOPs instead of
    6.
    """
    params = (row.base_params_b if row.type == MOE else row.params_b) * 1e9
    flops = 6 * params * row.tokens_b * 1e9
    days = flops / row.devices / (row.peak_tflops * row.efficiency) / 1e12 / S_PER_DAY
    energy_mwh = row.system_w * row.devices * days * HOURS_PER_DAY * row.pue / 1e6
    predicted_t = energy_mwh * row.kg_per_kwh
    delta = predicted_t / row.actual_t - 1
    return Prediction(
        row.name, row.type, days, energy_mwh, predicted_t, row.actual_t, delta, predicted_t * 2 / 6
    )


def embodied_t(
    days: float = XLM_DAYS, hardware: Mapping[str, tuple[float, float, float]] = _HARDWARE
) -> float:
    """Embodied tonnes of hardware in that many days, by MLCarbon's `embodied.py`.

    Sum of unit x kg per unit x number x days / lifetime. The defaults are its check with XLM, whose published
    value is `XLM_ACTUAL_T`. It has the dies only: the vendor states 164 kg for an H100, this table 14.7 kg.
    """
    kg = sum(unit * per_unit * number for unit, per_unit, number in hardware.values())
    return kg * days / _LIFETIME_DAYS / KILO


class Throughput(NamedTuple):
    """TFLOP/s of one GPU, number of GPUs, tensor and pipeline parallelism, batch size."""

    tflops: float
    gpus: float
    tensor: int
    pipeline: int
    batch: float


def throughput(params_b: float, node_size: int = 8, memory_gb: float = 80) -> Throughput:
    """MLCarbon's regression of throughput and GPUs on model size, `predict_num_throughput`.

    It was fitted on ten runs with A100-80GB (Narayanan et al. 2021, table 1). Any other memory size is taken for a
    V100. The tutorial does not call it, and below 40 B its number of GPUs is of no use: 807 for a run that had 32.
    """
    params = params_b * 1e9
    fits = 0.03 * memory_gb  # billions of parameters that one GPU holds
    if params_b < node_size * fits:
        tensor, pipeline = math.ceil(params_b / fits), 1
    else:
        tensor, pipeline = node_size, math.ceil(params_b / (node_size * fits))
    group = tensor * pipeline
    gpus: float = round(_curve(_GPUS, params) / group) * group
    if memory_gb != 80:
        gpus = round(gpus * 2.5)
    if memory_gb == 40:
        gpus *= 2
    batch = 512.0 if pipeline == 1 else round(_curve(_BATCH, pipeline) / 8) * 8.0
    # Within a node only tensor parallelism is used.
    tflops = _curve(_TENSOR if pipeline == 1 else _PIPELINE, params)
    if memory_gb != 80:
        tflops = (tflops * (1 - 7.76 / 33.46) / 312) * 125
    return Throughput(tflops, gpus, tensor, pipeline, max(batch, gpus))


# Coefficients of a x^2 + b x + c, of its model.py; x is the number of parameters, or of pipeline stages.
_TENSOR: Final = (-8.82079068e-20, 1.68591116e-09, 1.33954735e02)
_PIPELINE: Final = (-5.60233749e-23, 8.45435587e-11, 1.34546129e02)
_GPUS: Final = (-2.12910565e-21, 4.39684339e-09, 7.99173057e02)
_BATCH: Final = (-4.29439186e-01, 5.21376002e01, 1.43737095e03)


def _curve(coefficients: tuple[float, float, float], x: float) -> float:
    a, b, c = coefficients
    return a * x * x + b * x + c


def _check_header(header: list[str], path: str | Path) -> None:
    missing = [column for column in COLUMNS if column not in header]
    unknown = [column or "(no name)" for column in header if column not in COLUMNS]
    twice = sorted({column for column in header if header.count(column) > 1})
    for problem, columns in (("lacks", missing), ("has unknown", unknown), ("has twice", twice)):
        if columns:
            raise BadRow(
                f"{path}, line 1: {problem} {_listed(columns)}; its columns are {_listed(COLUMNS)}, as in MLCarbon"
            )


def _row(header: list[str], cells: list[str], place: str) -> Row:
    values = dict(zip(header, map(str.strip, cells), strict=False))
    name = values.get(_NAME, "")
    place = f"{place}, {name or 'a row without a name'}"
    if len(cells) != len(header):
        raise BadRow(
            f"{place}: {len(cells)} cells for {len(header)} columns; write a text that has commas in quotes"
        )
    for column in _TEXTS:
        if not values[column]:
            raise BadRow(f"{place}: no {column}")
    kind = values[_TYPE]
    if kind not in (DENSE, MOE):
        raise BadRow(f"{place}: unknown type {kind!r}; write {DENSE} or {MOE}, exactly")
    numbers = {
        field: _number(values[column], column, place)
        for column, field in _NUMBERS.items()
        if not (column == _BASE and kind == DENSE and not values[column])
    }
    numbers.setdefault("base_params_b", numbers["params_b"])
    row = Row(name, kind, values[_DEVICE], **numbers)
    if row.base_params_b > row.params_b:
        raise BadRow(f"{place}: {_BASE} is larger than the parameters of the whole model")
    if row.efficiency > 1:
        raise BadRow(
            f"{place}: hardware efficiency {row.efficiency:g}; write a share of the peak, such as 0.4"
        )
    if row.pue < 1:
        raise BadRow(f"{place}: PUE {row.pue:g}; it is 1 or more")
    return row


def _number(text: str, column: str, place: str) -> float:
    if not text:
        raise BadRow(f"{place}: no {column}")
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < 0 or (value == 0 and column != "CO2eq/KWh"):
        raise BadRow(f"{place}: {column} is {text!r}; write a number above 0")
    return value


def _listed(columns: Iterable[str]) -> str:
    return ", ".join(map(repr, columns))
