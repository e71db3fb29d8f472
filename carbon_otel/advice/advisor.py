"""All kinds of advice. A new kind is one new file with `NAME` and `look`, and a row of `KINDS`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from carbon_otel.advice import (
    batch_size,
    better_hour,
    early_stopping,
    embodied,
    failed_runs,
    other_region,
    poor_trials,
    repeated_runs,
    uneven_ranks,
    unused_devices,
    waiting,
)
from carbon_otel.advice.attempts import attempts_of
from carbon_otel.advice.histories import Histories
from carbon_otel.advice.literature import WARNING, Factor, applicable
from carbon_otel.advice.quality import Metric, choose
from carbon_otel.advice.subject import Subject
from carbon_otel.advice.words import Advice, NothingFound
from carbon_otel.intensity.provider import Provider
from carbon_otel.lifecycle import better
from carbon_otel.lifecycle.entry import LedgerCost
from carbon_otel.lifecycle.ledger import read
from carbon_otel.lifecycle.report import report_of
from carbon_otel.lifecycle.total import Total

if TYPE_CHECKING:
    from mlflow import MlflowClient

KINDS: Final[tuple[Callable[[Subject], Advice | NothingFound], ...]] = (
    early_stopping.look,
    poor_trials.look,
    failed_runs.look,
    repeated_runs.look,
    waiting.look,
    uneven_ranks.look,
    unused_devices.look,
    batch_size.look,
    other_region.look,
    better_hour.look,
    embodied.look,
)
NOT_ADDED: Final = "These overlap, so their savings are not added up."
_ORDER: Final = ("saves", "saves at most", "costs quality", "cannot be told apart")


@dataclass(frozen=True, slots=True)
class Advised:
    """What to do about the figures of a run or a model.

    Attributes:
        title: the name that was asked for, and its experiment or lineage.
        total: the cost of all entries.
        by_stage: the same by kind of stage, exclusive.
        measured: advice computed from the runs: by how sure it is, then by what it saves. Savings overlap.
        nothing_found: kinds of advice that have nothing to say, each with what was looked at.
        lacking: kinds of advice that lack a figure, each with what would have to be there.
        literature: factors that others have measured, which apply to the phases and the hardware of the runs.
        lower_bounds: entries that may have used more than their figures, each with the reason.
        left_out: runs that were not looked at, because there are too many; those with the least energy.
    """

    title: str
    total: Total
    by_stage: Mapping[str, LedgerCost]
    measured: tuple[Advice, ...]
    nothing_found: tuple[NothingFound, ...]
    lacking: tuple[NothingFound, ...]
    literature: tuple[Factor, ...]
    lower_bounds: tuple[str, ...]
    left_out: int

    def as_dict(self) -> dict[str, Any]:
        """In plain types, ready for JSON."""
        return {
            "title": self.title,
            "total": asdict(self.total),
            "by_stage": {kind: cost._asdict() for kind, cost in self.by_stage.items()},
            "measured": [each.as_dict() for each in self.measured],
            "measured_note": NOT_ADDED,
            "nothing_found": [asdict(each) for each in self.nothing_found],
            "lacking": [asdict(each) for each in self.lacking],
            "literature": [each.as_dict() for each in self.literature],
            "literature_note": WARNING,
            "lower_bounds": list(self.lower_bounds),
            "left_out": self.left_out,
        }


def advise(
    client: MlflowClient,
    name: str,
    now: datetime,
    *,
    metric: str | None = None,
    lower_is_better: bool | None = None,
    provider: Provider | None = None,
    provider_name: str | None = None,
    store: str | None = None,
) -> Advised:
    """Look at the runs of a name for all kinds of advice.

    Args:
        client: of the store.
        name: as in `lifecycle.ledger.read`.
        now: the present time.
        metric: the metric that tells how good a run is; by default the best known one with a history.
        lower_is_better: whether lower values of that metric are better; by default, its name says so.
        provider: of intensities by the hour, for a better start.
        provider_name: as commands name it; by default as it names itself.
        store: the store as commands name it; None for MLflow's default.

    Raises:
        NotFound: for a name that the store does not know.
        ValueError: for a metric that no run has, or one whose name does not say which values are better.
        The errors of the store.
    """
    ledger = read(client, name)
    report = report_of(ledger)
    attempts, left_out = attempts_of(client, report.entries)
    histories = Histories(client)
    if metric is None:
        quality = choose(attempts, histories.of)
    else:
        quality = Metric(
            metric, better.lower_is_better(metric) if lower_is_better is None else lower_is_better
        )
        if not any(metric in each.metrics for each in attempts):
            raise ValueError(f"none of these runs has a metric {metric!r}")
    named = provider_name or ("" if provider is None else provider.name)
    subject = Subject(name, ledger, report, attempts, histories, quality, provider, named, now, store)
    found = [look(subject) for look in KINDS]
    silent = [each for each in found if isinstance(each, NothingFound)]
    return Advised(
        title=ledger.title,
        total=report.total,
        by_stage=report.by_stage,
        measured=tuple(sorted((each for each in found if isinstance(each, Advice)), key=_rank)),
        nothing_found=tuple(each for each in silent if not each.lacking),
        lacking=tuple(each for each in silent if each.lacking),
        literature=applicable(report),
        lower_bounds=report.lower_bounds,
        left_out=left_out,
    )


def _rank(advice: Advice) -> tuple[int, float, float]:
    return _ORDER.index(advice.verdict), -advice.saved.emissions_g, -advice.saved.energy_wh
