"""Cloud regions: grid zone, coordinates, PUE, water and carbon-free energy, from tables in the package.

`data/cloud_regions.csv` has the regions of eight providers with their zones; `data/cloud_metrics.csv` what the
providers publish of them; `data/water.csv` the water that electricity consumes. Each row has its source.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from carbon_otel.carbon.grid import REGIONS
from carbon_otel.carbon.tables import has_word, rows

Extent = Literal["region", "zones of the region", "geography", "fleet"]
# A region's own figure is a yearly mean; a fleet's hides how its sites differ.
_PUE_BANDS: Final[Mapping[Extent, tuple[float, float]]] = {
    "region": (0.97, 1.05),
    "zones of the region": (0.97, 1.05),
    "geography": (0.95, 1.10),
    "fleet": (0.95, 1.10),
}


@dataclass(frozen=True, slots=True)
class Published:
    """A figure that a provider publishes of its sites.

    Attributes:
        value: in litres per kilowatt-hour for water, else without a unit.
        low: lowest value of the sites in `extent`; else `value`.
        high: highest value of the sites in `extent`; else `value`.
        extent: the sites of which it is a mean. A figure of the `geography` (America; Europe, Middle East and
            Africa; Asia and Pacific) or of the `fleet` stands in for a region without one.
        year: of the figure.
        source: publication.
        checked: `read` in the original, or `secondhand` in a transcription.
    """

    value: float
    low: float
    high: float
    extent: Extent
    year: int
    source: str
    checked: str

    def __str__(self) -> str:
        return f"{self.source}, {self.year}, of the {self.extent}"

    @property
    def pue_range(self) -> tuple[float, float]:
        """Lowest and highest PUE: of its sites, widened by the season and by what a mean hides."""
        low, high = _PUE_BANDS[self.extent]
        return max(1.0, self.low * low), self.high * high


@dataclass(frozen=True, slots=True)
class CloudRegion:
    """A region of a cloud provider.

    Attributes:
        name: `provider:region`.
        place: the town or area.
        country: ISO 3166 code.
        zone: of the grid: a country's code, or a zone within it.
        em_zone: the zone of Electricity Maps, in which all regions have figures by one method.
        coordinates: degrees north and east, about the town; None if the place is not published.
        confidence: in the assignment of the zones: `high`, `medium` or `low`.
        pue: power usage effectiveness; None if the provider publishes none.
        wue: litres of water of the site per kilowatt-hour of the machines; None if unknown.
        cfe: share of carbon-free energy by the hour, contracts included (market-based); None if unknown.
    """

    name: str
    place: str
    country: str
    zone: str
    em_zone: str
    coordinates: tuple[float, float] | None
    confidence: str
    pue: Published | None
    wue: Published | None
    cfe: Published | None

    @property
    def provider(self) -> str:
        """The part of the name before the colon."""
        return self.name.partition(":")[0]

    @property
    def water_l_per_kwh(self) -> float | None:
        """Published water use of the site in litres per kilowatt-hour; None if unknown."""
        return None if self.wue is None else self.wue.value

    @property
    def water_source(self) -> str:
        """Source of the water use; empty if it is unknown."""
        return "" if self.wue is None else str(self.wue)


def region(name: str) -> CloudRegion:
    """The region of a cloud, such as `gcp:europe-north1`, `aws:eu-north-1`, `azure:swedencentral`.

    Raises:
        ValueError: for a name that the table lacks, with the nearest ones.
    """
    key = name.strip().lower()
    found = regions().get(key)
    if found is None:
        near = _near(key)
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise ValueError(f"unknown region {name!r}: write {REGIONS}{hint}")
    return found


def find(word: str = "") -> list[CloudRegion]:
    """The regions with a word in their name, town or zone that begins so, by name."""
    texts = {each.name: f"{each.name} {each.place} {each.zone} {each.em_zone}" for each in regions().values()}
    return [regions()[name] for name, text in sorted(texts.items()) if has_word(text, word)]


def _near(key: str) -> list[str]:
    """The names that are meant, if any: of a region without its provider, of a town, or with an error in it."""
    import difflib

    provider, _, name = key.rpartition(":")
    words = name.replace("-", " ").replace("_", " ")
    of = [each for each in regions().values() if each.provider == provider] or list(regions().values())
    by_name = {each.name.partition(":")[2]: each.name for each in of}
    exact = [
        each.name for each in of if each.name.endswith(f":{name}") or words in each.place.lower().split(", ")
    ]
    near = [by_name[found] for found in difflib.get_close_matches(name, by_name, n=3, cutoff=0.6)]
    return exact[:3] or near or difflib.get_close_matches(key, regions(), n=3, cutoff=0.6)


@functools.cache
def regions() -> Mapping[str, CloudRegion]:
    """All regions by name."""
    found = {}
    for row in rows("cloud_regions.csv"):
        provider, name = row["provider"], row["region"]
        figures = {
            metric: _published(provider, name, row["geography"], metric) for metric in ("pue", "wue", "cfe")
        }
        found[f"{provider}:{name}"] = CloudRegion(
            name=f"{provider}:{name}",
            place=row["place"],
            country=row["country"],
            zone=row["grid_zone"],
            em_zone=row["em_zone"],
            coordinates=(float(row["lat"]), float(row["lon"])) if row["lat"] else None,
            confidence=row["confidence"],
            **figures,
        )
    return found


def _published(provider: str, region: str, geography: str, metric: str) -> Published | None:
    """The figure of the region, else the mean of its zones, else that of the geography, else that of the fleet."""
    of = _metrics().get((provider, metric), {})
    sites = [
        row for name, row in of.items() if name.startswith(f"{region}-") and name[len(region) + 1 :].isdigit()
    ]
    if sites and region not in of:
        values = [float(row["value"]) for row in sites]
        return _figure(
            sites[0], "zones of the region", round(sum(values) / len(values), 4), min(values), max(values)
        )
    extents: Any = ((region, "region"), (f"*{geography}", "geography"), ("*", "fleet"))
    for name, extent in extents:
        if name in of:
            value = float(of[name]["value"])
            low, high = (float(of[name][end] or value) for end in ("low", "high"))
            return _figure(of[name], extent, value, low, high)
    return None


def _figure(row: Mapping[str, str], extent: Extent, value: float, low: float, high: float) -> Published:
    return Published(value, low, high, extent, int(row["year"]), row["source"], row["checked"])


@functools.cache
def _metrics() -> Mapping[tuple[str, str], Mapping[str, Mapping[str, str]]]:
    found: dict[tuple[str, str], dict[str, dict[str, str]]] = {}
    for row in rows("cloud_metrics.csv"):
        found.setdefault((row["provider"], row["metric"]), {})[row["region"]] = row
    return found
