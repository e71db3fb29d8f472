"""What MLflow's pages show of a run: which figures are metrics, which tags are seen, and in which order.

Figures and tags have one name everywhere in this package, such as `carbon/energy_low_wh`. Pages show few of them:

- under `carbon/`, beside the metrics of the user: energy, emissions and embodied carbon of the run, energy
  and emissions of its stages, joules per unit of work, and SCI of inference;
- under `system/carbon/`, on the page "System metrics": the power of the devices, the energy of the components.
  The overview of a run lists them before all others, so they are few;
- tags: what people read, search or sort by.

All others are in the hidden tags of `contributions`, which have every figure and all provenance.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from carbon_otel.records import GROUPS, RUN, UNATTRIBUTED

PREFIX: Final = "carbon/"
SYSTEM: Final = "system/"
# The page lists tags with this prefix nowhere.
HIDDEN: Final = "mlflow.carbon_otel."

ENERGY_KWH: Final = "carbon.energy_kwh"
EMISSIONS_KG: Final = "carbon.emissions_kg"
# Eight for each run, and those that the user has asked for.
_TAGS: Final = (
    "carbon.status",
    ENERGY_KWH,
    EMISSIONS_KG,
    "carbon.measured_fraction",
    "carbon.method",
    "carbon.zone",
    "carbon.intensity_g_per_kwh",
    "carbon.hardware",
)
_ASKED_FOR: Final = (
    "carbon.lineage",
    "carbon.trace_url",
    "carbon.forecast",
    "carbon.forecast_subject",
    "carbon.job_id",
    "carbon.ranks",
    "carbon.model_id",
    "carbon.source_run_id",
)
_SHOWN_TAGS: Final = frozenset((*_TAGS, *_ASKED_FOR))

_TOTALS: Final = (
    "energy_kwh",
    "emissions_kg",
    "energy_wh",
    "emissions_g",
    "embodied_g",
    "market_g",
    "water_l",
)
# Kinds of stage in the order of a pipeline; others come between them by name.
_KINDS: Final = {"data_processing": 0, "training": 2, "evaluation": 3, "inference": 4}
_OTHER_KIND: Final = 1
# What a run uses between its stages is its own.
_NO_STAGE: Final = (RUN, UNATTRIBUTED, *GROUPS)
_STAGE: Final = re.compile(
    rf"carbon/(?!(?:{'|'.join(_NO_STAGE)})/)([^/]+)/(energy_wh|emissions_g|j_per_1k_.+)"
)
_SCI: Final = re.compile(r"carbon/inference/sci_g_per_1k_.+")
_FORECAST: Final = re.compile(r"carbon/(re)?forecast/(energy_p50_wh|measured_wh|delta|left_s)")
_REMOTE: Final = re.compile(r"carbon/remote_(estimate_wh|estimate_g|calls|calls_unknown)")
_SYSTEM: Final = re.compile(r"carbon/(power/.+|components/.+)")
# Sums, which were zero when the run began.
_SUM: Final = re.compile(
    r"carbon/([^/]+/)?(?!.*(per_1k|_per_g|measured|estimate_low|estimate_high))[^/]+_(k?wh|k?g|l)"
)


def metric(figure: str) -> str | None:
    """The name of the metric that shows a figure; None if no page shows it."""
    if figure.removeprefix(PREFIX) in _TOTALS:
        return figure
    if any(shown.fullmatch(figure) for shown in (_STAGE, _SCI, _FORECAST, _REMOTE)):
        return figure
    return f"{SYSTEM}{figure}" if _SYSTEM.fullmatch(figure) else None


def figure(metric: str) -> str | None:
    """The figure that a metric shows; None for a metric of others. Earlier versions showed each by its name."""
    name = metric.removeprefix(SYSTEM)
    return name if name.startswith(PREFIX) else None


def is_sum(figure: str) -> bool:
    """Whether the figure was zero when the run began.

    Its first point is that zero. With two points MLflow draws a line, whose axis has up to six decimals; the bar
    of a single point is labelled with two, which is 0.00 for a short run.
    """
    return _SUM.fullmatch(figure) is not None and not figure.startswith("carbon/power/")


def order(figure: str) -> tuple[int, int, str, int, str]:
    """Where a figure comes: MLflow's databases list metrics in the order in which they were first written."""
    name = figure.removeprefix(PREFIX)
    if name in _TOTALS:
        return 0, _TOTALS.index(name), "", 0, name
    kind, _, rest = name.partition("/")
    place = 1 if _STAGE.fullmatch(figure) or _SCI.fullmatch(figure) else 2
    return place, _KINDS.get(kind, _OTHER_KIND), kind, -rest.startswith("energy"), rest


def tags(provenance: Mapping[str, str]) -> dict[str, str]:
    """The tags that the page of a run shows."""
    return {name: provenance[name] for name in (*_TAGS, *_ASKED_FOR) if name in provenance}


def is_tag(name: str) -> bool:
    """Whether the page of a run shows this tag."""
    return name in _SHOWN_TAGS
