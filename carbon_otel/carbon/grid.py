"""Emission factors: the carbon intensity of a zone, from tables in the package, times the PUE of the site.

No network is used, and no place is guessed from the address, the locale or the time zone of the caller.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Final

from carbon_otel.carbon import countries
from carbon_otel.carbon.intensity import WORLD, Intensity
from carbon_otel.carbon.tables import has_word
from carbon_otel.units import J_PER_KWH

ZONES: Final = (
    "an ISO 3166 code or country name, such as zone='FR', 'FRA' or 'France', or a grid within a country, such as "
    "'US-CAL-CISO' or 'CA-QC'"
)
REGIONS: Final = "provider:region, such as gcp:europe-north1, aws:eu-north-1 or azure:swedencentral"
_NEAR: Final = 3


@dataclass(slots=True)
class EmissionFactor:
    """Factor from joules of IT energy to grams of CO2 equivalent: operational emissions (SCI, ISO/IEC 21031).

    Attributes:
        intensity: carbon intensity of the grid.
        pue: power usage effectiveness of the site, at least 1.
        pue_source: who gave the PUE.
        region: the cloud region, `provider:region`; empty if none was given.
    """

    intensity: Intensity
    pue: float = 1.0
    pue_source: str = ""
    region: str = ""

    def emissions_g(self, joules: float) -> float:
        """Grams of CO2 equivalent: energy times PUE times intensity."""
        return joules / J_PER_KWH * self.pue * self.intensity.g_per_kwh

    def intensity_of(self, joules: float, grams: float) -> Intensity:
        """The intensity behind grams that this factor has made of joules."""
        return self.intensity


def intensity(zone: str | None, year: int | None = None) -> Intensity:
    """Look up the intensity of a zone in a year, by default the newest one; None gives the world average.

    A country's figure is that of the country table; a zone within a country has its own figure with its own
    signal, and never that of the country.

    Args:
        zone: ISO 3166 code of two or three letters, name or alias of a country, or code of a zone within one; in
            any case.
        year: the year of the average.

    Raises:
        ValueError: for a zone or a year that the tables do not have.
    """
    if zone is None:
        return countries.of_zone(WORLD, year)
    code = countries.code(zone)
    if code is not None:
        return countries.of_zone(code, year)
    from carbon_otel.carbon import grid_zones

    found = grid_zones.of_zone(zone.strip().upper(), year)
    if found is None:
        raise ValueError(f"unknown zone {zone!r}: {_hint(zone)}")
    return found


def find(word: str = "", year: int | None = None) -> list[Intensity]:
    """The intensities of all zones with a word in their code, name or alias that begins so.

    The zone that `word` is the code or name of is first, then come countries, then zones within them, by name.
    Zones without a figure of the year are left out.
    """
    from carbon_otel.carbon import grid_zones

    tables = {**grid_zones.electricity_maps(), **grid_zones.official()}
    texts = [(f"{code} {years[max(years)].name}", code) for code, years in tables.items()]
    found = {code for text, code in (*texts, *countries.names().items()) if has_word(text, word)}
    figures = []
    for code in found:
        with contextlib.suppress(ValueError):  # no figure of that year
            figures.append(intensity(code, year))
    meant = countries.code(word) or word.strip().upper()
    return sorted(
        figures, key=lambda each: (each.zone != meant, "-" in each.zone, each.name.casefold(), each.zone)
    )


def country(zone: str) -> tuple[str, str]:
    """The name of the country of a zone and its three-letter code; empty strings if the table has none."""
    code = countries.code(zone) or countries.code(zone.partition("-")[0])
    if code is None:
        return "", ""
    row = countries.newest(code)
    return row.name, row.alpha3


def country_values() -> list[float]:
    """The newest intensities of all countries, in grams per kilowatt-hour."""
    return countries.values()


def _hint(zone: str) -> str:
    """What to write instead of an unknown zone."""
    import difflib

    from carbon_otel.carbon import grid_zones

    tables = {**grid_zones.electricity_maps(), **grid_zones.official()}
    zones = {code: years[max(years)].name for code, years in tables.items()}
    whole, dash, _ = zone.strip().upper().partition("-")
    code = countries.code(whole) if dash else None
    if code is not None:
        inside = [each for each in zones if each.startswith(f"{code}-")]
        near = difflib.get_close_matches(zone.strip().upper(), inside, n=_NEAR, cutoff=0.0)
        name = countries.newest(code).name
        write = f"write zone={code!r} for the whole of {name}"
        return f"{write}, or a zone within it, such as {', '.join(near)}" if near else write
    shown = {name.casefold(): f"{name} ({each})" for each, name in zones.items()}
    shown |= {each.casefold(): each for each in zones}
    shown |= {name: countries.newest(each).name for name, each in countries.names().items()}
    close = difflib.get_close_matches(zone.strip().casefold(), shown, n=_NEAR)
    suggestion = (
        f"; did you mean {', '.join(dict.fromkeys(shown[each] for each in close))}?"
        if close
        else "; `carbon-otel zones` lists all"
    )
    return f"write {ZONES}{suggestion}"
