"""`carbon-otel collector check`: whether the OTLP endpoint accepts telemetry."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from carbon_otel.cli import otlp_probe
from carbon_otel.cli.output import say, write_json

app = typer.Typer(help="The OpenTelemetry collector that receives the telemetry.", no_args_is_help=True)


@app.callback()
def collector() -> None:
    """The OpenTelemetry collector that receives the telemetry."""


@app.command()
def check(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Send an empty export of traces and metrics to OTEL_EXPORTER_OTLP_ENDPOINT and print the result."""
    answers = otlp_probe.check()
    if as_json:
        write_json([asdict(answer) for answer in answers])
    for answer in () if as_json else answers:
        where = f" {answer.endpoint} ({answer.protocol})" if answer.endpoint else ""
        if answer.ok:
            say(f"{answer.signal:<8} taken:{where}")
        else:
            by = f" from {answer.by}" if answer.by else ""
            say(f"{answer.signal:<8} NOT taken{by}:{where}", f"  {answer.problem}", f"  {answer.advice}")
    if not answers:
        say("both signals are turned off: OTEL_TRACES_EXPORTER and OTEL_METRICS_EXPORTER are none")
    if not answers or not all(answer.ok for answer in answers if not answer.by):
        raise typer.Exit(1)
