"""What the finished runs of an MLflow store tell: the public functions that read it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from carbon_otel.guard import without_secrets
from carbon_otel.keywords import near_ones_named

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from carbon_otel.advice.advisor import Advised
    from carbon_otel.intensity.provider import Provider
    from carbon_otel.intensity.timing import BestStart
    from carbon_otel.lifecycle.proof import Proof
    from carbon_otel.lifecycle.report import Report
    from carbon_otel.lifecycle.where import Where

_P = ParamSpec("_P")
_T = TypeVar("_T")


def _asks_a_store(question: Callable[_P, _T]) -> Callable[_P, _T]:
    """The question, whose errors name near keywords and no password: a store's address may have one."""

    @functools.wraps(question)
    def ask(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            return question(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - every kind of store raises its own
            fault = without_secrets(error)
        raise fault

    return near_ones_named(ask)


def _provider(name: str) -> Provider:
    from carbon_otel import config
    from carbon_otel.intensity.provider import find

    return find(name, config.resolve({}).state_dir / "intensity")


def _now() -> datetime:
    from datetime import datetime, timezone

    from carbon_otel.clock import wall

    return datetime.fromtimestamp(wall(), timezone.utc)


@_asks_a_store
def report(
    model: str,
    *,
    tracking_uri: str | None = None,
    zone: str | None = None,
    year: int | None = None,
    water: bool = False,
) -> Report:
    """Add up the cost of a model over all measured MLflow runs of its lineage.

    Args:
        model: a registered model (`churn`, `churn/3`, `churn@champion`), a model id, an experiment or a lineage;
            or a run id, for that run and the runs nested in it.
        tracking_uri: the MLflow store, instead of MLflow's default.
        zone: recompute the emissions with this country's grid.
        year: recompute them with the grid of this year; by default the newest one.
        water: add the litres of water that the electricity and the sites have consumed.

    Raises:
        LookupError: for a name that the store does not know; the message lists the kinds of name.
        ValueError: for a zone or a year that the grid table does not have.
        ImportError: if mlflow is not installed.
    """
    import mlflow

    from carbon_otel.lifecycle.ledger import read
    from carbon_otel.lifecycle.report import report_of

    return report_of(read(mlflow.MlflowClient(tracking_uri), model), zone, year, water=water)


@_asks_a_store
def prove(
    base: str | Sequence[str],
    variant: str | Sequence[str],
    *,
    metric: str,
    tolerance: float = 0.01,
    lower_is_better: bool | None = None,
    stage: str | None = None,
    unit: str | None = None,
    one_off: Sequence[str | float] = (),
    experiment: str | None = None,
    tracking_uri: str | None = None,
) -> Proof:
    """Find out whether a variant uses less energy for each unit of work than a base, at equal quality.

        proof = carbon_otel.prove("float32", "int8", metric="accuracy", tolerance=0.01)
        print(proof)
        assert proof.verdict == "proven saving"

    Several runs of each, in turn, give the interval of the ratio; single runs prove nothing.

    Args:
        base: the runs to beat: run ids, the name of runs, or a tag as `tag=value`; a text may have several, with
            commas between them.
        variant: the runs that are to save energy.
        metric: the quality metric of the runs.
        tolerance: by how much it may be worse, in units of the metric.
        lower_is_better: whether lower values of it are better; by default its name says so.
        stage: the kind of stage whose energy counts; by default inference if all runs have it, else training.
        unit: the unit of work: `samples`, `requests`, `tokens`, or `run`; by default the samples of inference, and
            of other stages the run.
        one_off: what the variant costs once, as runs or in watt-hours, for the payback.
        experiment: the experiment of the names and tags; not needed if they are in one.
        tracking_uri: the MLflow store, instead of MLflow's default.

    Raises:
        LookupError: for runs that the store does not have, or that were not measured.
        ValueError: for a stage or unit that the runs do not have, a run in both groups, or a metric whose name
            does not say which values are better.
        ImportError: if mlflow is not installed.
    """
    import mlflow

    from carbon_otel.lifecycle import groups

    return groups.prove(
        mlflow.MlflowClient(tracking_uri),
        base,
        variant,
        metric,
        tolerance,
        lower_is_better=lower_is_better,
        stage=stage,
        unit=unit,
        one_off=one_off,
        experiment=experiment,
    )


@_asks_a_store
def where(
    model: str, *, clouds: Sequence[str] = (), here: str | None = None, tracking_uri: str | None = None
) -> Where:
    """What the measured energy of a model would emit in every cloud region, the cleanest first.

    Args:
        model: as in `report`.
        clouds: providers, such as `gcp`, `aws`, `azure`; all by default.
        here: the cloud region in which the runs ran, such as `aws:eu-west-3`; by default as they have recorded it.
        tracking_uri: the MLflow store, instead of MLflow's default.

    Raises:
        LookupError: for a name that the store does not know.
        ValueError: for an unknown provider or region, or runs without energy.
        ImportError: if mlflow is not installed.
    """
    import mlflow

    from carbon_otel.lifecycle.ledger import read
    from carbon_otel.lifecycle.where import where_of

    return where_of(read(mlflow.MlflowClient(tracking_uri), model), clouds, here)


@_asks_a_store
def when(
    run_id: str,
    provider: str,
    *,
    hours: float = 24.0,
    zone: str | None = None,
    tracking_uri: str | None = None,
) -> BestStart:
    """Find the best start for a run like a measured one in the next hours, by a forecast of the grid.

        best = carbon_otel.when(run_id, "uk")
        print(best.verdict)

    Args:
        run_id: a measured MLflow run; its energy by quarter-hour is the profile.
        provider: `uk`, `energy-charts`, `energidataservice`, `electricitymaps`, `watttime`, or a CSV file. It is
            asked over the network, here and now.
        hours: the latest start, in hours from now.
        zone: zone of the provider, by default that of the run.
        tracking_uri: the MLflow store, instead of MLflow's default.

    Raises:
        LookupError: if the run was not measured.
        ValueError: for an unknown provider or zone, a run whose times are not known, or a forecast that is too
            short.
        carbon_otel.intensity.service.Unavailable: if the provider has no values; the message has the reason.
        ImportError: if mlflow is not installed.
    """
    import mlflow

    from carbon_otel.lifecycle.by_hour import when

    source = _provider(provider)
    run = mlflow.MlflowClient(tracking_uri).get_run(run_id)
    return when(run, source, _now(), hours, zone)[1]


@_asks_a_store
def advise(
    model: str,
    *,
    metric: str | None = None,
    lower_is_better: bool | None = None,
    provider: str | None = None,
    tracking_uri: str | None = None,
) -> Advised:
    """Find what to do about the figures of a run or a model: what would have saved how much.

        for advice in carbon_otel.advise("churn").measured:
            print(advice.title, advice.saved.energy_wh, advice.saved.emissions_g)

    `measured` is computed from the runs alone, each advice with its band, source and the command that verifies it;
    `literature` are factors of others, which are never multiplied.

    Args:
        model: as in `report`.
        metric: the metric that tells how good a run is, such as `val_loss`; by default one that is known by name
            and has a history.
        lower_is_better: whether lower values of it are better; by default its name says so.
        provider: of intensities by the hour, such as `uk`, or a CSV file, for a better start; it is asked over the
            network, here and now.
        tracking_uri: the MLflow store, instead of MLflow's default.

    Raises:
        LookupError: for a name that the store does not know.
        ValueError: for an unknown provider, a metric that no run has, or one whose name does not say which values
            are better.
        ImportError: if mlflow is not installed.
    """
    import mlflow

    from carbon_otel.advice.advisor import advise

    return advise(
        mlflow.MlflowClient(tracking_uri),
        model,
        _now(),
        metric=metric,
        lower_is_better=lower_is_better,
        provider=None if provider is None else _provider(provider),
        provider_name=provider,
        store=tracking_uri,
    )
