"""`carbon-otel advise`: what to do about the figures of a run or a model."""

from __future__ import annotations

from datetime import datetime, timezone
from enum import Enum
from typing import Annotated

import typer

from carbon_otel import config
from carbon_otel.advice.advisor import advise as advise_on
from carbon_otel.cli.advise_view import show
from carbon_otel.cli.mlflow_store import client_of, refuse_store
from carbon_otel.cli.output import Screen, refuse, write_json
from carbon_otel.clock import wall
from carbon_otel.intensity.provider import find
from carbon_otel.lifecycle.ledger import NotFound


class Format(str, Enum):
    """The formats of the advice."""

    text = "text"
    json = "json"


def advise(
    model: Annotated[str, typer.Argument(metavar="RUN|MODEL", help="As in `carbon-otel report`.")],
    metric: Annotated[
        str | None,
        typer.Option(
            help="Metric that tells how good a run is, such as val_loss; by default one known by name."
        ),
    ] = None,
    lower_is_better: Annotated[
        bool | None,
        typer.Option(
            "--lower-is-better/--higher-is-better", help="Of that metric; by default its name says it."
        ),
    ] = None,
    provider: Annotated[
        str | None,
        typer.Option(
            help="Provider of intensities by the hour, such as uk, or a CSV file, for a better start."
        ),
    ] = None,
    output: Annotated[Format, typer.Option("--format", help="json: with full precision.")] = Format.text,
    tracking_uri: Annotated[
        str | None, typer.Option(help="MLflow store, instead of MLflow's default.")
    ] = None,
) -> None:
    """Say what to do about the figures: computed from the measured runs, and from the literature."""
    client, uri = client_of(tracking_uri)
    try:
        source = None if provider is None else find(provider, config.resolve({}).state_dir / "intensity")
        result = advise_on(
            client,
            model,
            datetime.fromtimestamp(wall(), timezone.utc),
            metric=metric,
            lower_is_better=lower_is_better,
            provider=source,
            provider_name=provider,
            store=tracking_uri,
        )
    except (NotFound, ValueError) as error:
        refuse(str(error))
    except Exception as error:  # noqa: BLE001 - every kind of store raises its own
        refuse_store(uri, error)
    if output is Format.json:
        write_json(result.as_dict())
    else:
        show(result, Screen())
