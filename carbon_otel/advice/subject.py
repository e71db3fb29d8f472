"""What an advice looks at: the ledger of a name, its runs, their histories, and how the user asks again."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from datetime import datetime

from carbon_otel.advice.attempts import Attempt
from carbon_otel.advice.histories import Histories
from carbon_otel.advice.quality import Metric
from carbon_otel.intensity.provider import Provider
from carbon_otel.lifecycle.ledger import Ledger
from carbon_otel.lifecycle.report import Report


@dataclass(frozen=True, slots=True)
class Subject:
    """What was asked for.

    Attributes:
        name: as the user has written it.
        ledger: its entries.
        report: their sums.
        attempts: those entries that are runs of the user, in the order of time.
        histories: reads the histories of their metrics.
        metric: tells how good a run is; None if none was named and none was recognised.
        provider: of intensities by the hour; None if none was named.
        provider_name: as the user has written it.
        now: the present time.
        store: the store as the user has named it; None for MLflow's default.
    """

    name: str
    ledger: Ledger
    report: Report
    attempts: tuple[Attempt, ...]
    histories: Histories
    metric: Metric | None
    provider: Provider | None
    provider_name: str
    now: datetime
    store: str | None

    def command(self, *words: str) -> str:
        """A command of `carbon-otel` about the same store."""
        place = () if self.store is None else ("--tracking-uri", self.store)
        return shlex.join(("carbon-otel", *words, *place))

    def prove(self, base: Attempt, variant: str = "VARIANT") -> str:
        """The command that compares a run with another one at equal quality."""
        metric = "accuracy" if self.metric is None else self.metric.name
        return self.command("prove", base.run_id, variant, "--metric", metric, "--tolerance", "0.01")
