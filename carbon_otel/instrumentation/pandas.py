"""pandas: what reads, writes, joins, groups or sorts shares the energy of the stage around it.

Its kind is data processing. A call that lasts is a stage of its own. Element-wise operations and selections are
not seen: they are too many. Units are rows: of the result, and of what is written.
"""

from __future__ import annotations

from typing import Final

from carbon_otel.instrumentation.calls import Call, Calls
from carbon_otel.instrumentation.sizes import rows_of_result, rows_of_self


def _reads(module: str, *functions: str) -> Calls:
    return Calls(
        module, *(Call(f, "data_processing", f"pandas.{f}", rows_of_result, often=True) for f in functions)
    )


def _methods(module: str, owner: str, shown: str, *methods: str) -> Calls:
    """Methods of a class, which people know by another name."""
    return Calls(
        module,
        *(
            Call(
                f"{owner}.{method}",
                "data_processing",
                f"{shown}.{method}",
                rows_of_self if method.startswith("to_") else rows_of_result,
                often=True,
            )
            for method in methods
        ),
    )


PANDAS: Final = (
    _reads("pandas.io.parsers.readers", "read_csv", "read_table"),
    _reads("pandas.io.parquet", "read_parquet"),
    _reads("pandas.io.json._json", "read_json"),
    _reads("pandas.io.excel._base", "read_excel"),
    _reads("pandas.io.pickle", "read_pickle"),
    _reads("pandas.io.feather_format", "read_feather"),
    _reads("pandas.io.orc", "read_orc"),
    _reads("pandas.io.pytables", "read_hdf"),
    _reads("pandas.io.sql", "read_sql", "read_sql_query", "read_sql_table"),
    _reads("pandas.core.reshape.merge", "merge", "merge_asof", "merge_ordered"),
    _reads("pandas.core.reshape.concat", "concat"),
    _reads("pandas.core.reshape.pivot", "pivot_table", "pivot", "crosstab"),
    _reads("pandas.core.reshape.encoding", "get_dummies"),
    _methods(
        "pandas.core.frame", "DataFrame", "DataFrame",
        "apply", "drop_duplicates", "explode", "join", "melt", "merge", "pivot_table", "sort_values", "to_parquet",
    ),
    _methods(
        "pandas.core.generic", "NDFrame", "DataFrame",
        "to_csv", "to_excel", "to_hdf", "to_json", "to_pickle", "to_sql",
    ),
    _methods("pandas.core.series", "Series", "Series", "apply", "map", "sort_values"),
    _methods(
        "pandas.core.groupby.groupby", "GroupBy", "GroupBy",
        "apply", "count", "cumsum", "describe", "first", "last", "max", "mean", "median", "min", "quantile",
        "rank", "size", "std", "sum", "var",
    ),
    _methods(
        "pandas.core.groupby.generic", "DataFrameGroupBy", "GroupBy", "aggregate", "filter", "transform",
    ),
    _methods(
        "pandas.core.groupby.generic", "SeriesGroupBy", "GroupBy", "aggregate", "apply", "nunique", "transform",
    ),
)  # fmt: skip
