"""`carbon-otel reprice` and `carbon-otel when`: measured runs, and the hours of their grid."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich import box
from rich.table import Table

from carbon_otel import config
from carbon_otel.cli.mlflow_store import client_of, refuse_store
from carbon_otel.cli.output import Screen, refuse, say, write_json
from carbon_otel.clock import wall
from carbon_otel.intensity.online import Online
from carbon_otel.intensity.provider import Provider, find
from carbon_otel.intensity.providers.csv_file import CsvFile
from carbon_otel.intensity.service import Unavailable, WrongShape
from carbon_otel.intensity.timing import STEP, BestStart, saved_g
from carbon_otel.lifecycle import by_hour
from carbon_otel.lifecycle.by_hour import Repriced
from carbon_otel.lifecycle.ledger import NotFound
from carbon_otel.mlflow.schema import names
from carbon_otel.quantities import emissions, watt_hours

if TYPE_CHECKING:
    from mlflow.entities import Run

_T = TypeVar("_T")
_Provider = Annotated[
    str | None,
    typer.Option(
        help="uk, energy-charts, energidataservice, rte, electricitymaps, watttime, entsoe, eia, or a CSV file; "
        "by default CARBON_OTEL_INTENSITY."
    ),
]
_Zone = Annotated[str | None, typer.Option(help="Zone of the provider, instead of the run's, such as DK1.")]
_Uri = Annotated[str | None, typer.Option(help="MLflow store, instead of MLflow's default.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_MOST_ROWS = 12


def reprice(
    run_ids: Annotated[list[str], typer.Argument(metavar="RUN_ID...", help="MLflow run ids.")],
    provider: _Provider = None,
    zone: _Zone = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the figures, and write nothing to the runs.")
    ] = False,
    tracking_uri: _Uri = None,
    as_json: _Json = False,
) -> None:
    """Price runs by the hours of their grid, and write the figure beside the yearly one."""
    source = _found(provider)
    client, uri = client_of(tracking_uri)
    rows = []
    for run_id in run_ids:
        run = _run(client, uri, run_id)
        repriced = _tried(partial(by_hour.reprice, run, source, zone))
        written = False
        if not dry_run:
            try:
                written = by_hour.save(client, run, repriced)
            except Exception as error:  # noqa: BLE001 - every kind of store raises its own
                refuse_store(uri, error)
        rows.append(_row(repriced, written=written))
        if not as_json:
            _say_repriced(repriced, written=written, dry_run=dry_run)
    if as_json:
        write_json(rows)


def when(
    run_id: Annotated[
        str, typer.Argument(metavar="RUN_ID", help="MLflow run id of a run like the next one.")
    ],
    provider: _Provider = None,
    hours: Annotated[float, typer.Option(min=0.25, max=96, help="The latest start, in hours from now.")] = 24,
    zone: _Zone = None,
    tracking_uri: _Uri = None,
    as_json: _Json = False,
) -> None:
    """Find the best start for a run like this one in the next hours, by a forecast of the grid."""
    source = _found(provider)
    client, uri = client_of(tracking_uri)
    run = _run(client, uri, run_id)
    now = datetime.fromtimestamp(wall(), timezone.utc)
    entry, best = _tried(partial(by_hour.when, run, source, now, hours, zone))
    grams = saved_g(best, entry.energy_wh, names.pue(entry.tags))
    if as_json:
        write_json(_best(best, source.name, entry.energy_wh, grams))
    else:
        _show(best, entry.name, entry.energy_wh, grams)
        last, asked = best.starts[-1].at, now + timedelta(hours=hours)
        if asked - last > STEP:
            say(f"the forecast ends before: no start after {last:%Y-%m-%d %H:%M} UTC is compared")


def check(provider: str, zone: str | None, *, as_json: bool) -> None:
    """`carbon-otel doctor --intensity`: ask a provider once, and print what it says of its shape."""
    source = _found(provider)
    report: dict[str, Any] = {"provider": provider, "signal": str(source.signal)}
    if isinstance(source, CsvFile):
        try:
            report["found"] = source.check(zone)
        except ValueError as error:
            refuse(str(error))
    if isinstance(source, Online):
        zone = zone or _EXAMPLES.get(provider)
        if zone is None:
            refuse(f"name a zone of {provider}: --zone DE")
        report |= {"address": source.service.base, "zone": zone}
        try:
            report["found"] = source.check(zone)
        except WrongShape as error:
            report["differs"] = str(error)
        except (Unavailable, ValueError) as error:
            report["no answer"] = str(error)
    failed = not report.keys().isdisjoint(("differs", "no answer"))
    if as_json:
        write_json(report)
    else:
        for name, value in report.items():
            for line in value if isinstance(value, list) else [value]:
                say(f"{name:<9} {line}")
        if not failed and isinstance(source, Online):
            say("the answers have the shape that this version was written for")
    if failed:
        raise typer.Exit(1)


_EXAMPLES = {
    "uk": "GB",
    "energy-charts": "DE",
    "energidataservice": "DK1",
    "rte": "FR",
    "entsoe": "FR",
    "eia": "CISO",
}


def _found(provider: str | None) -> Provider:
    try:
        settings = config.resolve({})
        name = provider or settings.intensity
        if name is None:
            refuse("name a provider: --provider uk, or set CARBON_OTEL_INTENSITY")
        return find(name, settings.state_dir / "intensity")
    except ValueError as error:
        refuse(str(error))


def _run(client: Any, uri: str, run_id: str) -> Run:
    try:
        run: Run = client.get_run(run_id)
    except Exception as error:  # noqa: BLE001 - every kind of store raises its own
        refuse_store(uri, error)
    return run


def _tried(call: Callable[[], _T]) -> _T:
    try:
        return call()
    except (NotFound, ValueError) as error:
        refuse(str(error))
    except Unavailable as error:
        refuse(str(error), "the yearly figure of the run stays as it is", code=1)


def _row(repriced: Repriced, *, written: bool) -> dict[str, Any]:
    return {
        "run_id": repriced.run_id,
        "name": repriced.name,
        **repriced.metrics(),
        **repriced.tags(),
        "yearly_g": repriced.yearly_g,
        "comparable": repriced.comparable,
        "lower_bound": repriced.lower_bound,
        "written": written,
    }


def _say_repriced(repriced: Repriced, *, written: bool, dry_run: bool) -> None:
    priced = repriced.priced
    say(
        f"{repriced.name}: by the hour "
        f"{emissions(priced.emissions_g, repriced.low_g, repriced.high_g, of='CO2e')}, "
        f"{emissions(repriced.yearly_g)} as logged, for {watt_hours(priced.priced_wh)}"
    )
    tags = repriced.tags()
    say(f"  {repriced.provider}, {tags['carbon.by_hour.intervals']}: {tags['carbon.by_hour.quality']}")
    if priced.share < 1 - 1e-9:
        say(f"  {1 - priced.share:.1%} of the energy has no value and is in neither figure")
    if not repriced.comparable:
        logged = f"those of the logged figure {repriced.logged_signal}"
        say(f"  the two are different quantities: these intensities are {priced.values[0].signal}; {logged}")
    if repriced.lower_bound:
        say(f"  lower bound: {repriced.name} {repriced.lower_bound}")
    if not written and not dry_run:
        say("  the run has this figure already")


def _best(best: BestStart, provider: str, energy_wh: float, grams: float) -> dict[str, Any]:
    return {
        "provider": provider,
        "source": best.source,
        "signal": str(best.signal),
        "energy_wh": energy_wh,
        "now_g_per_kwh": best.now.g_per_kwh,
        "best_start": best.best.at.isoformat(),
        "best_end": best.best.end.isoformat(),
        "best_g_per_kwh": best.best.g_per_kwh,
        "saving": best.saving,
        "saving_low": best.saving_low,
        "saving_high": best.saving_high,
        "saved_g": grams,
        "worth_waiting": best.is_worth_waiting,
        "verdict": best.verdict,
        "starts": [{"at": start.at.isoformat(), "g_per_kwh": start.g_per_kwh} for start in best.starts],
    }


def _show(best: BestStart, name: str, energy_wh: float, grams: float) -> None:
    console = Screen()
    table = Table("start, UTC", "end", "g/kWh", "against now", box=box.SIMPLE_HEAD)
    every = max(1, -(-len(best.starts) // _MOST_ROWS))
    for number, start in enumerate(best.starts):
        if number % every and start is not best.best:
            continue
        change = start.g_per_kwh / best.now.g_per_kwh - 1 if best.now.g_per_kwh > 0 else 0.0
        table.add_row(
            f"{start.at:%Y-%m-%d %H:%M}",
            f"{start.end:%m-%d %H:%M}",
            f"{start.g_per_kwh:.0f}",
            f"{change:+.0%}{'  best' if start is best.best else ''}",
        )
    console.print(table)
    console.print(f"{name}, {watt_hours(energy_wh)}: {best.verdict}", soft_wrap=True)
    if best.is_worth_waiting:
        what = "avoided, which is no footprint" if best.signal.kind == "marginal" else "less CO2e"
        console.print(f"That is {emissions(grams)} {what}.", soft_wrap=True)
    console.print(f"Forecast: {best.source} ({best.signal})", soft_wrap=True)
