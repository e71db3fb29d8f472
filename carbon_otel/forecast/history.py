"""What the user's finished runs teach the next forecast: measured / predicted of the same subject and hardware.

A run is compared with what was predicted for it without its predecessors, so errors do not feed themselves. The
median of the logarithms corrects the next forecast, shrunk towards none as if one run without an error had been
seen; their spread replaces the interval as they grow in number. A run never judges a forecast that it has taught:
it has ended before.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from carbon_otel.forecast.records import Assumption, Forecast, Interval, Phase, influences, remainder
from carbon_otel.mlflow.compat import found_by
from carbon_otel.mlflow.schema import contributions, names
from carbon_otel.mlflow.schema.checked import Unreadable

_MOST_RUNS: Final = 50
_Z90: Final = 1.2816
# Two runs of the same program differ by so much, whatever their number says. Our choice.
_LEAST_SD: Final = 0.03
# A ratio beyond these is no error of a forecast: another program used the name.
_LEAST, _MOST = 1e-3, 1e3


@dataclass(frozen=True, slots=True)
class History:
    """Logarithms of measured / predicted of finished runs, the newest first."""

    hardware: str
    log_ratios: tuple[float, ...]

    @property
    def runs(self) -> int:
        return len(self.log_ratios)


def read(client: Any, experiments: Sequence[str], subject: str, hardware: str) -> History:
    """The finished runs with a forecast of this subject on this hardware. Raises the errors of the store."""
    wanted = (
        f"attributes.status = 'FINISHED' and tags.`{names.FORECAST_SUBJECT}` = {_quoted(subject)} "
        f"and tags.`carbon.hardware` = {_quoted(hardware)}"
    )
    found = found_by(
        client.search_runs,
        list(experiments),
        wanted,
        max_results=_MOST_RUNS,
        order_by=["attributes.start_time DESC"],
    )
    ratios = []
    for run in found:
        try:
            figures, _ = contributions.figures_and_tags(run.data.metrics, run.data.tags)
        except Unreadable:  # a report names the run
            continue
        raw = figures.get(names.FORECAST_RAW_WH, 0.0)
        measured = figures.get(names.FORECAST_MEASURED_WH, 0.0)
        if raw > 0 and measured > 0 and _LEAST < measured / raw < _MOST:
            ratios.append(math.log(measured / raw))
        if len(ratios) == _MOST_RUNS:
            break
    return History(hardware, tuple(ratios))


def taught(forecast: Forecast, history: History) -> Forecast:
    """The forecast, corrected by the user's own runs; as it is without any."""
    n = history.runs
    if not n or forecast.it_energy_kwh.p50 <= 0:
        return forecast
    middle = statistics.median(history.log_ratios)
    log_factor = middle * n / (n + 1)
    prior_sd = math.log(max(forecast.it_energy_kwh.width, 1.0)) / (2 * _Z90)
    squares = math.fsum((ratio - middle) ** 2 for ratio in history.log_ratios)
    # A new run deviates by the spread of the old ones, and by the error of their median.
    variance = (min(prior_sd, 1.0) ** 2 + squares) / (n + 1)
    sd = math.hypot(math.sqrt(max(variance, _LEAST_SD**2) * (1 + 1 / n)), abs(middle - log_factor) / 2)
    spread, factor = math.exp(_Z90 * sd), math.exp(log_factor)
    ratio = Interval(factor / spread, factor, factor * spread)
    grid = remainder(forecast.emissions_kg, forecast.energy_kwh)
    emissions = (ratio * grid).times(forecast.emissions_kg.p50)
    water = forecast.water_l
    if water is not None:
        water = (ratio * remainder(water, forecast.it_energy_kwh)).times(water.p50)
    text = f"{n} of your runs on this hardware" if n > 1 else "1 of your runs on this hardware"
    return replace(
        forecast,
        it_energy_kwh=ratio.times(forecast.it_energy_kwh.p50),
        energy_kwh=ratio.times(forecast.energy_kwh.p50),
        emissions_kg=emissions,
        water_l=water,
        phases=_phases(forecast, ratio, emissions),
        influences=influences({"measured / predicted": ratio, "grid": grid}),
        assumptions=(
            *forecast.assumptions,
            Assumption(
                "measured / predicted", ratio.p50, ratio.p10, ratio.p90, "", f"{text} ({history.hardware})"
            ),
        ),
        notes=(*forecast.notes, f"Based on {text}."),
    )


def _phases(forecast: Forecast, ratio: Interval, emissions: Interval) -> tuple[Phase, ...]:
    """The first is the forecast itself; the others are multiples of it, or of its duration."""
    if not forecast.phases:
        return ()
    first, *others = forecast.phases
    return (
        replace(first, energy_kwh=ratio.times(forecast.energy_kwh.p50), emissions_kg=emissions),
        *(
            replace(
                phase,
                energy_kwh=phase.energy_kwh.times(ratio.p50),
                emissions_kg=phase.emissions_kg.times(ratio.p50),
            )
            for phase in others
        ),
    )


def _quoted(text: str) -> str:
    # MLflow's filters have two kinds of quotes, and no escape for either.
    return f'"{text}"' if "'" in text and '"' not in text else "'" + text.replace("'", "") + "'"
