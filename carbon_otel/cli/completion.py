"""What a shell offers after `--zone`, `--region`, `--clouds`, `--gpu` and `--stage`. Typer keeps what fits."""

from __future__ import annotations

from carbon_otel.carbon import countries
from carbon_otel.carbon.regions import regions
from carbon_otel.forecast.hardware import catalogue
from carbon_otel.stages.arguments import LIFECYCLE


def zones() -> list[tuple[str, str]]:
    """The codes of countries, each with the name of its country."""
    return [(zone, countries.newest(zone).name) for zone in countries.table()]


def clouds(incomplete: str) -> list[str]:
    """The providers, after a comma too: `gcp,aws`."""
    before, comma, _ = incomplete.rpartition(",")
    providers = dict.fromkeys(region.provider for region in regions().values())
    return [f"{before}{comma}{name}" for name in providers if name not in before.split(",")]


def cloud_regions() -> list[tuple[str, str]]:
    """The regions of all clouds, each with its place."""
    return [(name, each.place) for name, each in regions().items()]


def accelerators() -> list[str]:
    """The names of the catalogue."""
    return [each.name for each in catalogue()]


def kinds() -> list[str]:
    """The kinds of stages that reports know."""
    return list(LIFECYCLE)
