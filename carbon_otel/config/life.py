"""The settings of what stands beside the emissions."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Final

from carbon_otel.carbon.embodied import LIFETIME_YEARS
from carbon_otel.config.place import PlaceSettings
from carbon_otel.config.setting import declared, to_boolean, to_number, to_text

_MOST_G_PER_KWH: Final = 3000.0


@dataclass(frozen=True, slots=True)
class LifeSettings(PlaceSettings):
    """Those of the place, and of the rest of the life cycle."""

    embodied_kg: float | None = declared(
        None,
        default="from a table, by the GPUs, the hardware threads and the memory",
        sentence="Kilograms of CO2 equivalent of making the whole host with its GPUs.",
        parse=to_number(0),
        write="kilograms of at least 0, such as 1300, from the maker's product carbon footprint",
    )
    lifetime_years: float = declared(
        LIFETIME_YEARS,
        default="4",
        sentence="Years in use over which the embodied carbon of the hardware is spread.",
        parse=to_number(sys.float_info.min, 100),
        write="years above 0, such as 4",
    )
    market_intensity: float | None = declared(
        None,
        default="none",
        sentence="Grams of CO2 equivalent per kilowatt-hour of your contract, your supplier or the residual mix: "
        "market-based emissions are then shown beside the others, never instead.",
        parse=to_number(0, _MOST_G_PER_KWH),
        write="grams per kilowatt-hour from 0 to 3000, such as 94",
    )
    market_source: str = declared(
        "given",
        default="`given`",
        sentence="Where `market_intensity` comes from, such as `supplier's disclosure 2025`.",
        parse=to_text(200),
        write="a text of 1 to 200 characters",
    )
    water: bool = declared(
        False,
        default="false",
        sentence="Show the litres of water that the electricity and the site consume.",
        parse=to_boolean,
        write="true or false",
    )
