"""`carbon-otel prove`: whether a variant saves energy at equal quality."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from carbon_otel.cli.mlflow_store import client_of, refuse_store
from carbon_otel.cli.output import refuse, say, write_json
from carbon_otel.lifecycle.groups import prove as prove_groups
from carbon_otel.lifecycle.ledger import NotFound
from carbon_otel.lifecycle.proof_text import text


def prove(
    base: Annotated[
        str,
        typer.Argument(help="The runs to beat: ids with commas between them, a run name, or tag=value."),
    ],
    variant: Annotated[str, typer.Argument(help="The runs that are to save energy, named in the same way.")],
    metric: Annotated[str, typer.Option(help="The quality metric of the runs, such as accuracy.")],
    tolerance: Annotated[
        float, typer.Option(help="By how much the quality may be worse, in units of the metric.")
    ] = 0.01,
    lower_is_better: Annotated[
        bool | None,
        typer.Option(
            "--lower-is-better/--higher-is-better",
            help="Which values of the metric are better; by default its name says it.",
        ),
    ] = None,
    stage: Annotated[
        str | None,
        typer.Option(
            help="The kind of stage whose energy counts. Default: inference if all runs have it, else training."
        ),
    ] = None,
    unit: Annotated[
        str | None,
        typer.Option(
            help="The unit of work: samples, requests, tokens or run. Default: of inference its samples, of other "
            "stages the run."
        ),
    ] = None,
    one_off: Annotated[
        list[str] | None,
        typer.Option(
            metavar="RUN|WH",
            help="What the variant costs once, as a run or in watt-hours, for the payback. May be repeated.",
        ),
    ] = None,
    per_day: Annotated[
        float | None, typer.Option(help="Units of work a day, for the payback in days.", min=1e-9)
    ] = None,
    experiment: Annotated[str | None, typer.Option(help="The experiment of the run names and tags.")] = None,
    tracking_uri: Annotated[
        str | None, typer.Option(help="MLflow store, instead of MLflow's default.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Prove that a variant uses less energy at equal quality: exit code 0 for a proven saving, else 1."""
    client, uri = client_of(tracking_uri)
    try:
        proof = prove_groups(
            client,
            base,
            variant,
            metric,
            tolerance,
            lower_is_better=lower_is_better,
            stage=stage,
            unit=unit,
            one_off=one_off or (),
            experiment=experiment,
        )
    except (NotFound, ValueError) as error:
        refuse(str(error))
    except Exception as error:  # noqa: BLE001 - every kind of store raises its own
        refuse_store(uri, error)
    if as_json:
        report: dict[str, Any] = {**proof.as_dict(), "per_day": per_day}
        write_json(report)
    else:
        say(*text(proof, per_day).split("\n"))
    raise typer.Exit(0 if proof.verdict == "proven saving" else 1)
