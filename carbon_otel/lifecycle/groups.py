"""Groups of repeated runs in a store, by their ids, their name, or a tag that they have, and the proof of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from carbon_otel.lifecycle.comparison import RunCost
from carbon_otel.lifecycle.entry import name_of
from carbon_otel.lifecycle.ledger import NotFound, known_run, quoted
from carbon_otel.lifecycle.proof import Proof, proof_of
from carbon_otel.lifecycle.repeat import read
from carbon_otel.mlflow.compat import found_by

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


def prove(
    client: MlflowClient,
    base: str | Sequence[str],
    variant: str | Sequence[str],
    metric: str,
    tolerance: float,
    *,
    lower_is_better: bool | None = None,
    stage: str | None = None,
    unit: str | None = None,
    one_off: Sequence[str | float] = (),
    experiment: str | None = None,
) -> Proof:
    """Hold the runs of a variant against those of a base; the arguments are those of `carbon_otel.prove`.

    Raises:
        NotFound: for runs that the store does not have, or if no run of a group can be compared.
        ValueError: for arguments that do not fit the runs.
    """
    left_out: list[str] = []
    groups = []
    for role, group in (("base", base), ("variant", variant)):
        repeats, others = read(runs_of(client, group, experiment), metric)
        if not repeats:
            raise NotFound(f"no run of the {role} can be compared: {'; '.join(others)}")
        groups.append(repeats)
        left_out += others
    return proof_of(
        groups[0],
        groups[1],
        metric,
        tolerance,
        lower_is_better=lower_is_better,
        stage=stage,
        unit=unit,
        one_off=[one_off_of(client, each, experiment) for each in one_off],
        left_out=left_out,
    )


def runs_of(client: MlflowClient, group: str | Sequence[str], experiment: str | None = None) -> list[Run]:
    """The runs of a group, in the order of their starts, each once.

    Args:
        client: of the store.
        group: parts, or a text with commas between them. A part is a run id, the name of runs, or a tag and its
            value (`variant=int8`).
        experiment: the experiment of runs that are found by name or tag. It may be left out if they are in one.

    Raises:
        NotFound: for a part without runs, an unknown experiment, or names in several experiments.
    """
    parts = [part.strip() for part in group.split(",")] if isinstance(group, str) else list(group)
    found: dict[str, Run] = {}
    for part in filter(None, parts):
        found |= {run.info.run_id: run for run in _runs(client, part, experiment)}
    if not found:
        raise NotFound("a group of runs is empty; write run ids, a run name, or tag=value")
    return sorted(found.values(), key=lambda run: run.info.start_time or 0)


def one_off_of(client: MlflowClient, what: str | float, experiment: str | None = None) -> RunCost | float:
    """A cost that is paid once: watt-hours, or those of a run with its nested runs, by its id, name or tag.

    Raises:
        NotFound: for no run, or for several.
        ValueError: for a run without figures, and for watt-hours that are not above 0.
    """
    try:
        wh = float(what)
    except ValueError:
        pass
    else:
        if not 0 < wh < math.inf:
            raise ValueError(f"a one-off cost is {what} Wh; write a number above 0, or a run")
        return wh
    runs = runs_of(client, str(what), experiment)
    if len(runs) > 1:
        raise NotFound(f"{len(runs)} runs are {what!r}; a one-off cost is one run: write its id")
    (run,) = runs
    return RunCost.of(run.info.run_id, name_of(run), run.data.metrics, run.data.tags)


def _runs(client: MlflowClient, part: str, experiment: str | None) -> list[Run]:
    if (run := known_run(client, part)) is not None:
        return [run]
    experiments = {each.experiment_id: each.name for each in found_by(client.search_experiments)}
    if experiment is not None:
        experiments = {key: name for key, name in experiments.items() if name == experiment}
        if not experiments:
            raise NotFound(f"there is no experiment {experiment!r} in the MLflow store {client.tracking_uri}")
    conditions = [f"attributes.run_name = {quoted(part)}"]
    tag, equals, value = part.partition("=")
    if equals and tag and "`" not in tag:
        conditions.append(f"tags.`{tag}` = {quoted(value)}")
    for condition in conditions:
        runs = list(found_by(client.search_runs, list(experiments), condition))
        places = sorted({experiments[run.info.experiment_id] for run in runs})
        if len(places) > 1:
            raise NotFound(f"runs of {part!r} are in several experiments: {', '.join(places)}; name one")
        if runs:
            return runs
    where = "this store" if experiment is None else f"the experiment {experiment!r}"
    raise NotFound(f"there is no run with the id or the name {part!r}, or that tag and value, in {where}")
