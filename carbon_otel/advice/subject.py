"""What an advice looks at: the ledger of a name, its runs, their histories, and how the user asks again."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from carbon_otel.advice.attempts import Attempt
from carbon_otel.advice.histories import Histories
from carbon_otel.advice.quality import Metric, known
from carbon_otel.intensity.provider import Provider
from carbon_otel.lifecycle.better import direction
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

    def prove(
        self, base: Sequence[Attempt], variant: Sequence[Attempt] = (), stage: str = "", unit: str = ""
    ) -> str:
        """The command that compares runs at equal quality with a variant, which may have to be run first."""
        words = ["prove", *(",".join(each.run_id for each in runs) or "VARIANT" for runs in (base, variant))]
        metric = self.metric or next(iter(known(self.attempts)), Metric("accuracy", False))
        words += ["--metric", metric.name, "--tolerance", "0.01"]
        if direction(metric.name) is not metric.lower_is_better:
            words.append("--lower-is-better" if metric.lower_is_better else "--higher-is-better")
        for option, value in (("--stage", stage), ("--unit", unit)):
            words += [option, value] if value else []
        return self.command(*words)
