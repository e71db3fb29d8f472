"""Each call of the tables of pandas and Polars, once: it is seen, and its rows are counted.

Where a library needs another one that is not installed, the call raises, and is seen all the same.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from typing import Any

import pytest

import carbon_otel
from carbon_otel.instrumentation.pandas import PANDAS
from carbon_otel.instrumentation.polars import POLARS
from tests.fakes.powercap import server
from tests.frameworks.calls_seen import Seen

pd = pytest.importorskip("pandas")
pl = pytest.importorskip("polars")

ROWS = 4
TABLES = [(table.module, call) for table in (*PANDAS, *POLARS) for call in table.calls]


def frame() -> Any:
    return pd.DataFrame({"key": [1, 1, 2, 2], "value": [1.0, 2.0, 3.0, 4.0]})


def polar() -> Any:
    return pl.DataFrame({"key": [1, 1, 2, 2], "value": [1.0, 2.0, 3.0, 4.0]})


def database(folder) -> sqlite3.Connection:
    connection = sqlite3.connect(folder / "data.db")
    frame().to_sql("data", connection, index=False, if_exists="replace")
    return connection


def groups() -> Any:
    return frame().groupby("key")


def written(folder, form: str) -> str:
    """A file in this form."""
    getattr(frame(), f"to_{form}")(folder / "data")
    return str(folder / "data")


PANDAS_CALLS = {
    "read_csv": lambda folder: pd.read_csv(written(folder, "csv")),
    "read_table": lambda folder: pd.read_table(written(folder, "csv"), sep=","),
    "read_parquet": lambda folder: pd.read_parquet(written(folder, "parquet")),
    "read_json": lambda folder: pd.read_json(written(folder, "json")),
    "read_excel": lambda folder: pd.read_excel(folder / "data.xlsx"),
    "read_pickle": lambda folder: pd.read_pickle(written(folder, "pickle")),
    "read_feather": lambda folder: pd.read_feather(written(folder, "feather")),
    "read_orc": lambda folder: pd.read_orc(written(folder, "orc")),
    "read_hdf": lambda folder: pd.read_hdf(folder / "data.h5", "data"),
    "read_sql": lambda folder: pd.read_sql("select * from data", database(folder)),
    "read_sql_query": lambda folder: pd.read_sql_query("select * from data", database(folder)),
    "read_sql_table": lambda folder: (
        database(folder).close(),
        pd.read_sql_table("data", f"sqlite:///{folder / 'data.db'}"),
    ),
    "merge": lambda _: pd.merge(frame(), frame(), on="key"),
    "merge_asof": lambda _: pd.merge_asof(frame(), frame(), on="value"),
    "merge_ordered": lambda _: pd.merge_ordered(frame(), frame(), on="value"),
    "concat": lambda _: pd.concat([frame(), frame()]),
    "pivot_table": lambda _: pd.pivot_table(frame(), index="key", values="value"),
    "pivot": lambda _: pd.pivot(frame(), index="value", columns="key"),
    "crosstab": lambda _: pd.crosstab(frame()["key"], frame()["value"]),
    "get_dummies": lambda _: pd.get_dummies(frame(), columns=["key"]),
    "DataFrame.apply": lambda _: frame().apply(lambda column: column * 2),
    "DataFrame.drop_duplicates": lambda _: frame().drop_duplicates("key"),
    "DataFrame.explode": lambda _: frame().explode("key"),
    "DataFrame.join": lambda _: frame().join(frame(), rsuffix="_right"),
    "DataFrame.melt": lambda _: frame().melt("key", value_name="melted"),
    "DataFrame.merge": lambda _: frame().merge(frame(), on="key"),
    "DataFrame.pivot_table": lambda _: frame().pivot_table(index="key", values="value"),
    "DataFrame.sort_values": lambda _: frame().sort_values("value"),
    "DataFrame.to_parquet": lambda folder: written(folder, "parquet"),
    "NDFrame.to_csv": lambda folder: written(folder, "csv"),
    "NDFrame.to_excel": lambda folder: frame().to_excel(folder / "data.xlsx"),
    "NDFrame.to_hdf": lambda folder: frame().to_hdf(folder / "data.h5", key="data"),
    "NDFrame.to_json": lambda folder: written(folder, "json"),
    "NDFrame.to_pickle": lambda folder: written(folder, "pickle"),
    "NDFrame.to_sql": database,
    "Series.apply": lambda _: frame()["value"].apply(float),
    "Series.map": lambda _: frame()["value"].map(float),
    "Series.sort_values": lambda _: frame()["value"].sort_values(),
    "GroupBy.apply": lambda _: groups().apply(lambda group: group.sum()),
    "GroupBy.quantile": lambda _: groups().quantile(0.5),
    "DataFrameGroupBy.aggregate": lambda _: groups().agg("sum"),
    "DataFrameGroupBy.filter": lambda _: groups().filter(lambda group: True),
    "DataFrameGroupBy.transform": lambda _: groups().transform("sum"),
    "SeriesGroupBy.aggregate": lambda _: groups()["value"].agg("sum"),
    "SeriesGroupBy.apply": lambda _: groups()["value"].apply(sum),
    "SeriesGroupBy.nunique": lambda _: groups()["value"].nunique(),
    "SeriesGroupBy.transform": lambda _: groups()["value"].transform("sum"),
    **{
        f"GroupBy.{name}": lambda _, name=name: getattr(groups(), name)()
        for name in (
            "count", "cumsum", "describe", "first", "last", "max", "mean", "median", "min", "rank", "size", "std",
            "sum", "var",
        )
    },
}  # fmt: skip


def wrote(folder, form: str) -> str:
    """The same by Polars."""
    getattr(polar(), f"write_{form}")(folder / "data")
    return str(folder / "data")


POLARS_CALLS = {
    "read_csv": lambda folder: pl.read_csv(wrote(folder, "csv")),
    "read_parquet": lambda folder: pl.read_parquet(wrote(folder, "parquet")),
    "read_ipc": lambda folder: pl.read_ipc(wrote(folder, "ipc")),
    "read_json": lambda folder: pl.read_json(wrote(folder, "json")),
    "read_ndjson": lambda folder: pl.read_ndjson(wrote(folder, "ndjson")),
    "read_database": lambda folder: pl.read_database("select * from data", database(folder)),
    "read_excel": lambda folder: pl.read_excel(folder / "data.xlsx"),
    "collect_all": lambda _: pl.collect_all([polar().lazy(), polar().lazy()]),
    "LazyFrame.collect": lambda _: polar().lazy().collect(),
    "LazyFrame._collect_eager": lambda _: polar().sort("value"),
    "LazyFrame.sink_csv": lambda folder: polar().lazy().sink_csv(folder / "data"),
    "LazyFrame.sink_ipc": lambda folder: polar().lazy().sink_ipc(folder / "data"),
    "LazyFrame.sink_ndjson": lambda folder: polar().lazy().sink_ndjson(folder / "data"),
    "LazyFrame.sink_parquet": lambda folder: polar().lazy().sink_parquet(folder / "data"),
    "DataFrame.write_database": lambda folder: polar().write_database(
        "data", f"sqlite:///{folder / 'data.db'}"
    ),
    **{
        f"DataFrame.write_{form}": lambda folder, form=form: wrote(folder, form)
        for form in ("csv", "ipc", "json", "ndjson", "parquet")
    },
}


@pytest.fixture(autouse=True)
def measured(calls: Seen, tmp_path) -> Iterator[None]:
    carbon_otel.instrument(zone="FR", powercap_root=server(tmp_path / "sys").root)
    yield
    carbon_otel.uninstrument()


@pytest.mark.parametrize(("module", "call"), [pytest.param(*each, id=each[1].function) for each in TABLES])
def test_the_call_is_seen(module, call, calls, tmp_path):
    calls.pop((module, call.function), None)
    make = (PANDAS_CALLS if module.startswith("pandas") else POLARS_CALLS)[call.function]
    missing = False
    with carbon_otel.stage("etl"):
        try:
            make(tmp_path)
        except (ImportError, FileNotFoundError):
            missing = True
    assert (module, call.function) in calls
    # What is inside of another call of pandas counts for that, and what a sink writes nobody knows.
    assert missing or not call.often or calls[module, call.function] <= {"rows"}


def test_rows_are_counted(calls, tmp_path):
    with carbon_otel.stage("etl"), contextlib.closing(database(tmp_path)) as connection:
        assert len(pd.read_sql("select * from data", connection)) == ROWS
        polar().write_csv(tmp_path / "data")
        assert pl.read_csv(tmp_path / "data").height == ROWS
    for key in ("pandas.io.sql", "read_sql"), ("polars.io.csv.functions", "read_csv"):
        assert calls[key] == {"rows"}
