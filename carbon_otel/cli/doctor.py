"""`carbon-otel doctor`: what each component is measured with here, why not better, and the fix."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from carbon_otel import __version__, config
from carbon_otel.carbon.grid import WORLD, intensity
from carbon_otel.host.cgroup import reservation
from carbon_otel.sensors.discovery import discover

_ENDPOINTS = tuple(f"OTEL_EXPORTER_OTLP_{signal}ENDPOINT" for signal in ("", "TRACES_", "METRICS_"))


def doctor(as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False) -> None:
    """Show which tier each component gets on this host, why, and what would improve it."""
    try:
        disabled = config.disabled()
        settings = config.resolve({})
    except ValueError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None
    found = discover(settings.powercap_root, settings.cpu_family)
    found.close()
    place = intensity(settings.zone)
    report: dict[str, Any] = {
        "version": __version__,
        "hardware": found.hardware,
        "components": [asdict(finding) for finding in found.findings],
        "attribution": settings.attribution,
        "reserved_share": reservation(os.cpu_count() or 1).share,
        "grid": {
            "zone": place.zone,
            "name": place.name,
            "g_per_kwh": place.g_per_kwh,
            "year": place.year,
            "source": place.source,
            "licence": place.licence,
        },
        "pue": settings.pue,
        "otlp_endpoint": next((os.environ[name] for name in _ENDPOINTS if os.environ.get(name)), None),
        "disabled": disabled,
    }
    if as_json:
        typer.echo(json.dumps(report, indent=2))
    else:
        _show(report)


def _show(report: dict[str, Any]) -> None:
    console = Console(highlight=False)
    console.print(f"carbon_otel {report['version']} on {report['hardware']}\n", markup=False)
    table = Table()
    for column, whole in (("component", True), ("tier", True), ("found", False), ("why not better", False)):
        table.add_column(column, no_wrap=whole, overflow="fold")
    for part in report["components"]:
        table.add_row(part["component"], _tier(part), escape(part["found"]), escape(part["reason"]))
    console.print(table)
    for label, text in _facts(report).items():
        console.print(f"{label:<10} {text}", markup=False, soft_wrap=True)
    fixes = list(dict.fromkeys(part["fix"] for part in report["components"] if part["fix"]))
    if report["grid"]["zone"] == WORLD:
        fixes.append("export CARBON_OTEL_ZONE=FR    # your country")
    if fixes:
        console.print("\nTo improve it:")
    for fix in fixes:
        # SoleProcess lines, to be copied.
        console.print(f"  {fix}", markup=False, soft_wrap=True)


def _facts(report: dict[str, Any]) -> dict[str, str]:
    grid = report["grid"]
    share = f"{report['reserved_share']:.0%} of the processor"
    by_time = "this process tree's CPU time"
    facts = {
        "grid": f"{grid['name']}, {grid['g_per_kwh']:.1f} g/kWh, {grid['year']} ({grid['source']}), "
        f"PUE {report['pue']:g}",
        "charged": f"reserved, {share}" if report["attribution"] == "reserved" else f"process, {by_time}",
        "telemetry": report["otlp_endpoint"]
        or "the application's own providers, if it has any; OTEL_EXPORTER_OTLP_ENDPOINT is not set",
    }
    if report["disabled"]:
        facts["disabled"] = "CARBON_OTEL_DISABLED is set: nothing is measured"
    return facts


def _tier(part: dict[str, Any]) -> str:
    if part["unmetered"]:
        return f"[red]{part['method']}[/]"
    # Nothing there is nothing missing.
    return "-" if part["method"] == "missing" else f"[green]{part['method']}[/]"
