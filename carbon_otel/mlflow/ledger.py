"""The ledger of a model's life: every measured MLflow run of its lineage, each joule in one entry.

An entry is a run with our metrics. It holds what the run itself and its stages used, without the runs nested in
it, which are entries of their own; so entries may be added up. Failed and killed attempts count as far as they
were written.

The lineage is what `carbon.lineage` names, where runs have that tag; else it is the experiment: preparation,
attempts and evaluation of one model are usually runs of one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from carbon_otel.mlflow import naming
from carbon_otel.mlflow.serving import LEDGER

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_PAGE: Final = 1000
_STAGE = re.compile(r"carbon/([^/]+)/energy_wh")
_RUN_ID = re.compile(r"[0-9a-f]{32}")
_MODEL_ID = re.compile(r"m-[0-9a-f]{32}")


class NotFound(LookupError):
    """Nothing of that name, or nothing measured; the message says what to name instead."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What one run itself cost: watt-hours and grams by kind of stage, `run` being its time between stages.

    `low_wh` to `high_g` are the band of the sums. `status` is MLflow's. `lower_bound` says why it may have been
    more: the run did not end in order, or a component could not be read.
    """

    run_id: str
    name: str
    experiment_id: str
    status: str
    start_ms: int
    stages: Mapping[str, tuple[float, float]]
    low_wh: float
    high_wh: float
    low_g: float
    high_g: float
    measured_wh: float
    duration_s: float
    units: Mapping[str, float]
    tags: Mapping[str, str]

    @property
    def energy_wh(self) -> float:
        return sum(wh for wh, _ in self.stages.values())

    @property
    def emissions_g(self) -> float:
        return sum(grams for _, grams in self.stages.values())

    @property
    def lower_bound(self) -> str | None:
        if self.tags.get("carbon.status") != "final":
            return "has not ended in order"
        missing = self.tags.get("carbon.missing")
        return f"lacks {missing}" if missing else None

    @classmethod
    def of(cls, run: Run) -> Entry | None:
        """The entry that a run is; None where it was not measured."""
        metrics = run.data.metrics
        total_wh = metrics.get(naming.ENERGY_WH, math.nan)
        if not math.isfinite(total_wh):
            return None
        stages = {}
        for name in metrics:
            match = _STAGE.fullmatch(name)
            if match:
                kind = match[1]
                nested_wh = metrics.get(naming.nested(kind, "energy_wh"), 0.0)
                nested_g = metrics.get(naming.nested(kind, "emissions_g"), 0.0)
                grams = metrics.get(f"carbon/{kind}/emissions_g", math.nan)
                stages[kind] = max(0.0, metrics[name] - nested_wh), max(0.0, grams - nested_g)
        own_wh = sum(wh for wh, _ in stages.values())
        # The band is the run's with its nested runs; of a part it is the same share.
        part = own_wh / total_wh if total_wh > 0 else 0.0

        def share(metric: str) -> float:
            return float(metrics.get(metric, math.nan)) * part

        return cls(
            run_id=run.info.run_id,
            name=run.info.run_name or run.info.run_id,
            experiment_id=run.info.experiment_id,
            status=run.info.status,
            start_ms=run.info.start_time,
            stages=stages,
            low_wh=share("carbon/energy_low_wh"),
            high_wh=share("carbon/energy_high_wh"),
            low_g=share("carbon/emissions_low_g"),
            high_g=share("carbon/emissions_high_g"),
            measured_wh=share(naming.MEASURED_WH),
            duration_s=metrics.get("carbon/duration_s", math.nan),
            units={
                name.removeprefix(naming.UNITS): value
                for name, value in metrics.items()
                if name.startswith(naming.UNITS)
            },
            tags={name: value for name, value in run.data.tags.items() if name.startswith("carbon.")},
        )


@dataclass(frozen=True, slots=True)
class Ledger:
    """The entries of a lineage in the order of their time; `unmeasured` are its runs without figures."""

    title: str
    entries: tuple[Entry, ...]
    unmeasured: tuple[str, ...]


def read(client: MlflowClient, name: str) -> Ledger:
    """The ledger of a registered model (`churn`, `churn/3`, `churn@champion`), a model id, a run id, an experiment
    or a lineage.

    Raises NotFound, and what the store raises.
    """
    run = _source_run(client, name)
    if run is not None:
        lineage = run.data.tags.get(naming.LINEAGE)
        experiment = None if lineage else client.get_experiment(run.info.experiment_id)
    else:
        experiment = client.get_experiment_by_name(name)
        lineage = None if experiment else name
    if experiment is not None:
        runs = list(_runs(client, [experiment.experiment_id], ""))
        runs += _served(client, experiment.experiment_id)
        title = name if experiment.name == name else f"{name}, experiment {experiment.name}"
    else:
        everywhere = [found.experiment_id for found in client.search_experiments()]
        runs = list(_runs(client, everywhere, f"tags.`{naming.LINEAGE}` = '{_quoted(lineage or name)}'"))
        title = name if lineage == name else f"{name}, lineage {lineage}"
    if not runs:
        raise NotFound(
            f"there is no registered model, model id, run id, experiment or lineage {name!r} in this store"
        )
    pairs = [(found, Entry.of(found)) for found in runs]
    entries = sorted((e for _, e in pairs if e is not None), key=lambda entry: entry.start_ms)
    if not entries:
        raise NotFound(
            f"{title}: none of its {len(runs)} runs was measured; call carbon_otel.instrument() first"
        )
    unmeasured = tuple(found.info.run_name or found.info.run_id for found, e in pairs if e is None)
    return Ledger(title, tuple(entries), unmeasured)


def _served(client: MlflowClient, experiment_id: str) -> list[Run]:
    """Entries of inference outside of runs, of models that were made in this experiment."""
    ledger = client.get_experiment_by_name(LEDGER)
    if ledger is None or ledger.experiment_id == experiment_id:
        return []
    of_it = f"tags.`{naming.SOURCE_EXPERIMENT}` = '{experiment_id}'"
    # Written twice by a replay, an entry still counts once.
    once = {run.data.tags.get(naming.ENTRY): run for run in _runs(client, [ledger.experiment_id], of_it)}
    return list(once.values())


def _source_run(client: MlflowClient, name: str) -> Run | None:
    """The run that made the model of that name; None where it names no model and no run."""
    if _RUN_ID.fullmatch(name):
        return client.get_run(name)
    model_id: str | None = name if _MODEL_ID.fullmatch(name) else None
    run_id: str | None = None
    if model_id is None:
        version = _version(client, name.removeprefix("models:/"))
        if version is None:
            return None
        run_id, model_id = version.run_id, getattr(version, "model_id", None)
    if not run_id and model_id:
        run_id = client.get_logged_model(model_id).source_run_id
    if not run_id:
        raise NotFound(f"{name}: MLflow does not know the run that made it; name its experiment")
    return client.get_run(run_id)


def _version(client: MlflowClient, name: str) -> Any:
    """The version that `name`, `name/3` or `name@alias` means; of a name alone the newest."""
    from mlflow.exceptions import MlflowException

    model, _, alias = name.partition("@")
    model, _, number = model.partition("/")
    try:
        if alias:
            return client.get_model_version_by_alias(model, alias)
        if number:
            return client.get_model_version(model, number)
        versions = client.search_model_versions(f"name = '{_quoted(model)}'")
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE") and not (
            alias or number
        ):
            return None
        raise
    return max(versions, key=lambda version: int(version.version), default=None)


def _runs(client: MlflowClient, experiments: list[str], condition: str) -> Iterator[Run]:
    token = None
    while True:
        page = client.search_runs(experiments, condition, max_results=_PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _quoted(text: str) -> str:
    # MLflow's filters have no escape for their quote.
    return text.replace("'", "")
