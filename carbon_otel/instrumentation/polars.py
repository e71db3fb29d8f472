"""Polars: what reads, writes and computes shares the energy of the stage around it, as data processing.

A lazy frame works when it is collected. The methods of a data frame collect, too, by one private function.
`collect_async` and `collect(background=True)` return before the work is done: it stays with the stage around them.
Units are rows: of the result, and of what is written.
"""

from __future__ import annotations

from typing import Final

from carbon_otel.instrumentation.calls import Call, Calls
from carbon_otel.instrumentation.sizes import rows_of_result, rows_of_self


def _read(name: str) -> Call:
    return Call(name, "data_processing", f"polars.{name}", rows_of_result, often=True)


def _write(name: str) -> Call:
    return Call(f"DataFrame.{name}", "data_processing", units=rows_of_self, often=True)


def _lazy(name: str, shown: str) -> Call:
    return Call(f"LazyFrame.{name}", "data_processing", shown, rows_of_result, often=True)


POLARS: Final = (
    Calls("polars.io.csv.functions", _read("read_csv")),
    Calls("polars.io.parquet.functions", _read("read_parquet")),
    Calls("polars.io.ipc.functions", _read("read_ipc")),
    Calls("polars.io.json.read", _read("read_json")),
    Calls("polars.io.ndjson", _read("read_ndjson")),
    Calls("polars.io.database.functions", _read("read_database")),
    Calls("polars.io.spreadsheet.functions", _read("read_excel")),
    Calls("polars.functions.lazy", _read("collect_all")),
    Calls(
        "polars.lazyframe.frame",
        _lazy("collect", "LazyFrame.collect"),
        _lazy("_collect_eager", "polars.DataFrame"),
        *(_lazy(f"sink_{form}", f"LazyFrame.sink_{form}") for form in ("csv", "ipc", "ndjson", "parquet")),
    ),
    Calls(
        "polars.dataframe.frame",
        *(_write(f"write_{form}") for form in ("csv", "database", "ipc", "json", "ndjson", "parquet")),
    ),
)
