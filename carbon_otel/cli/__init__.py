"""The command line: `carbon-otel demo`, `run`, `forecast`, `compare`, `prove`, `report`, `where`, ..."""

from __future__ import annotations

from typing import Annotated

import typer

from carbon_otel import __version__
from carbon_otel.cli import collector, journal, mlflow
from carbon_otel.cli.advise import advise
from carbon_otel.cli.compare import compare
from carbon_otel.cli.demo import demo
from carbon_otel.cli.doctor import doctor
from carbon_otel.cli.forecast import forecast
from carbon_otel.cli.intensity import reprice, when
from carbon_otel.cli.output import prepare, say
from carbon_otel.cli.prove import prove
from carbon_otel.cli.report import report
from carbon_otel.cli.run import run
from carbon_otel.cli.top import top
from carbon_otel.cli.where import where
from carbon_otel.cli.zones import zones

app = typer.Typer(
    name="carbon-otel",
    help="The energy and carbon meter for ML pipelines.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _say_version(wanted: bool) -> None:
    if wanted:
        say(f"carbon-otel {__version__}")
        raise typer.Exit


@app.callback()
def _begin(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_say_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    prepare()


app.add_typer(collector.app, name="collector")
app.add_typer(journal.app, name="journal")
app.add_typer(mlflow.app, name="mlflow")
app.command()(demo)
app.command()(forecast)
app.command()(compare)
app.command()(prove)
app.command()(report)
app.command()(where)
app.command()(zones)
app.command()(advise)
app.command()(reprice)
app.command()(when)
app.command()(doctor)
app.command()(top)
# Options after the name of the program belong to the program.
app.command(context_settings={"allow_interspersed_args": False})(run)
