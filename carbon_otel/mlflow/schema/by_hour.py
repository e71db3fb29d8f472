"""The emissions of a run by the hours of its grid: metrics and tags beside those by the yearly mean."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from carbon_otel.carbon.intensity import Intensity
from carbon_otel.intensity.pricing import Priced
from carbon_otel.mlflow.schema import checked
from carbon_otel.text import storable

EMISSIONS_G = "carbon/by_hour/emissions_g"
PROVIDER = "carbon.by_hour.provider"
RETRIEVED_AT = "carbon.by_hour.retrieved_at"
_TIME = "%Y-%m-%dT%H:%MZ"


def metrics(priced: Priced, low_g: float, high_g: float) -> dict[str, float]:
    """The metrics of a run; `low_g` and `high_g` are the band, with that of the energy."""
    return {
        EMISSIONS_G: priced.emissions_g,
        "carbon/by_hour/emissions_low_g": low_g,
        "carbon/by_hour/emissions_high_g": high_g,
        "carbon/by_hour/priced_share": priced.share,
    }


def tags(priced: Priced, provider: str) -> dict[str, str]:
    """The provenance of the metrics. Raises ValueError for a figure without intensities."""
    if not priced.values:
        raise ValueError("no intensity was used")
    first, last = priced.values[0], priced.values[-1]
    qualities = Counter(value.quality for value in priced.values)
    values = {
        PROVIDER: provider,
        "carbon.by_hour.zone": first.zone,
        "carbon.by_hour.signal": str(first.signal),
        "carbon.by_hour.intervals": f"{len(priced.values)} from {first.start:{_TIME}} to {last.end:{_TIME}}",
        "carbon.by_hour.quality": ", ".join(f"{count} {name}" for name, count in sorted(qualities.items())),
        "carbon.by_hour.source": first.source,
        "carbon.by_hour.licence": first.licence,
        RETRIEVED_AT: _retrieved(priced.values),
    }
    return {name: storable(value)[: checked.LONGEST_TAG] for name, value in values.items() if value}


def is_written(
    figures: Mapping[str, float],
    provenance: Mapping[str, str],
    written: Mapping[str, float],
    written_tags: Mapping[str, str],
) -> bool:
    """Whether a run has these metrics and tags already; when its values were retrieved makes no difference."""
    return all(written.get(name) == value for name, value in figures.items()) and all(
        written_tags.get(name) == value for name, value in provenance.items() if name != RETRIEVED_AT
    )


def _retrieved(values: tuple[Intensity, ...]) -> str:
    times = [value.retrieved_at for value in values if value.retrieved_at is not None]
    return f"{max(times):{_TIME}}" if times else ""
