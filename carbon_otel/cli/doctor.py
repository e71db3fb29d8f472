"""`carbon-otel doctor`: how each component of this host is measured, why it is not better, and the fix."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from carbon_otel import __version__, config, here
from carbon_otel.carbon.intensity import WORLD
from carbon_otel.cli.frameworks import show_frameworks
from carbon_otel.cli.intensity import check
from carbon_otel.cli.output import Screen, refuse, write_json
from carbon_otel.host import cloud
from carbon_otel.host.cgroup import host_threads, reservation
from carbon_otel.sensors.discovery import discover

_ENDPOINTS = tuple(f"OTEL_EXPORTER_OTLP_{signal}ENDPOINT" for signal in ("", "TRACES_", "METRICS_"))


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    frameworks: Annotated[
        bool,
        typer.Option("--frameworks", help="Show which installed libraries become stages, by which calls."),
    ] = False,
    intensity: Annotated[
        str | None,
        typer.Option(
            metavar="PROVIDER", help="Ask this provider of carbon intensities once, and check its answer."
        ),
    ] = None,
    zone: Annotated[str | None, typer.Option(help="Zone for --intensity.")] = None,
) -> None:
    """Show the method of each component on this host, the reason, and how to improve it."""
    if frameworks:
        show_frameworks(as_json=as_json)
        return
    if intensity is not None:
        check(intensity, zone, as_json=as_json)
        return
    try:
        disabled = config.disabled()
        settings = config.resolve({})
    except ValueError as error:
        refuse(str(error))
    discovery = discover(settings.powercap_root, settings.cpu_family)
    discovery.close()
    factor = here.factor(settings)
    grid, machine = factor.intensity, cloud.find()
    report: dict[str, Any] = {
        "version": __version__,
        "hardware": discovery.hardware,
        "components": [asdict(finding) for finding in discovery.findings],
        "attribution": settings.attribution,
        "reserved_share": reservation(host_threads()).share,
        "grid": {
            "zone": grid.zone,
            "name": grid.name,
            "g_per_kwh": grid.g_per_kwh,
            "year": grid.year,
            "signal": grid.signal._asdict(),
            "losses": grid.losses,
            "source": grid.source,
            "licence": grid.licence,
        },
        "pue": factor.pue,
        "pue_source": factor.pue_source,
        "region": factor.region or None,
        "cloud": machine and machine._asdict(),
        "otlp_endpoint": next((os.environ[name] for name in _ENDPOINTS if os.environ.get(name)), None),
        "disabled": disabled,
        "misspelt": dict(config.misspelt()),
    }
    if as_json:
        write_json(report)
    else:
        _show(report)


def _show(report: dict[str, Any]) -> None:
    console = Screen()
    console.print(f"carbon_otel {report['version']} on {report['hardware']}")
    console.line()
    table = Table()
    for column, no_wrap in (("component", True), ("tier", True), ("found", False), ("why not better", False)):
        table.add_column(column, no_wrap=no_wrap, overflow="fold")
    for part in report["components"]:
        table.add_row(part["component"], _tier(part), part["found"], part["reason"])
    console.print(table)
    for label, text in _facts(report).items():
        console.print(f"{label:<10} {text}", soft_wrap=True)
    fixes = list(dict.fromkeys(part["fix"] for part in report["components"] if part["fix"]))
    if report["grid"]["zone"] == WORLD:
        named = report["cloud"]
        if named is None:
            fixes.append("export CARBON_OTEL_ZONE=FR    # your country")
        else:
            region = f"{named['provider']}:{named['region'] or '...'}"
            fixes.append(f"export CARBON_OTEL_REGION={region}    # the region of this machine")
    if fixes:
        console.line()
        console.print("To improve it:")
    for fix in fixes:
        # Whole lines, so that the user can copy them.
        console.print(f"  {fix}", soft_wrap=True)


def _facts(report: dict[str, Any]) -> dict[str, str]:
    grid = report["grid"]
    share = f"{report['reserved_share']:.0%} of the processor"
    by_time = "this process tree's CPU time"
    facts = {
        "grid": f"{grid['name']}, {grid['g_per_kwh']:.1f} g/kWh, {grid['year']} ({grid['source']}), "
        f"PUE {report['pue']:g} ({report['pue_source']})",
        "counts": ", ".join(grid["signal"].values()),
        "cloud": _cloud(report),
        "charged": f"reserved, {share}" if report["attribution"] == "reserved" else f"process, {by_time}",
        "telemetry": report["otlp_endpoint"]
        or "the application's own providers, if it has any; OTEL_EXPORTER_OTLP_ENDPOINT is not set",
    }
    for wrong, meant in report["misspelt"].items():
        facts["no setting"] = f"{wrong}: did you mean {meant}?"
    if report["disabled"]:
        facts["disabled"] = "CARBON_OTEL_DISABLED is set: nothing is measured"
    return facts


def _cloud(report: dict[str, Any]) -> str:
    """What names the cloud of this machine, and the region that is used."""
    named, used = report["cloud"], report["region"]
    if named is None:
        found = "nothing on this machine names one"
    else:
        found = f"{named['provider']} {named['region'] or '(region not named)'}, by {named['named_by']}"
    return f"{found}; region {used or 'not set'}"


def _tier(part: dict[str, Any]) -> Text:
    if part["unmetered"]:
        return Text(part["method"], style="red")
    # Hardware that does not exist is not missing.
    return Text("-") if part["method"] == "missing" else Text(part["method"], style="green")
