"""The command line: `carbon-otel demo`, `run`, `forecast`, `compare`, `report`, `where`, `collector`, ..."""

from __future__ import annotations

import typer

from carbon_otel.cli import collector, journal, mlflow
from carbon_otel.cli.advise import advise
from carbon_otel.cli.compare import compare
from carbon_otel.cli.demo import demo
from carbon_otel.cli.doctor import doctor
from carbon_otel.cli.forecast import forecast
from carbon_otel.cli.intensity import reprice, when
from carbon_otel.cli.output import prepare
from carbon_otel.cli.report import report
from carbon_otel.cli.run import run
from carbon_otel.cli.where import where

app = typer.Typer(
    name="carbon-otel",
    help="The energy and carbon meter for ML pipelines.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.callback()(prepare)
app.add_typer(collector.app, name="collector")
app.add_typer(journal.app, name="journal")
app.add_typer(mlflow.app, name="mlflow")
app.command()(demo)
app.command()(forecast)
app.command()(compare)
app.command()(report)
app.command()(where)
app.command()(advise)
app.command()(reprice)
app.command()(when)
app.command()(doctor)
# Options after the name of the program belong to the program.
app.command(context_settings={"allow_interspersed_args": False})(run)
