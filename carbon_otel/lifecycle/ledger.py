"""The ledger of a model's life: every measured MLflow run of its lineage, each joule in one entry.

An entry is a measured run. It holds the energy of the run itself and of its stages, without the nested runs, which
have entries too; so entries may be added up. Failed and killed attempts count up to their last checkpoint.

The lineage is the value of the tag `carbon.lineage` if the runs have it. Otherwise it is the experiment, because
preparation, attempts and evaluation of one model are usually runs of one experiment. Preparation in another
experiment is found by the dataset that both have logged.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from carbon_otel.lifecycle.entry import Entry, name_of
from carbon_otel.mlflow.compat import found_by
from carbon_otel.mlflow.schema import names
from carbon_otel.mlflow.schema.checked import Unreadable

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_PAGE: Final = 1000
_AT_ONCE: Final = 4
_RUN_ID: Final = re.compile(r"[0-9a-f]{32}")
_MODEL_ID: Final = re.compile(r"m-[0-9a-f]{32}")
_UNKNOWN: Final = frozenset({"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"})
_PARENT: Final = "mlflow.parentRunId"
PREPARATION: Final = "data_processing"
# A run that has also trained or served belongs to that model, not to the preparation.
_OTHER_WORK: Final = frozenset({"training", "evaluation", "inference"})
# Experiments that an error message names.
_NAMED: Final = 5


class NotFound(LookupError):
    """The store does not have the name, or none of its runs was measured; the message has the possible names."""


@dataclass(frozen=True, slots=True)
class Ledger:
    """The entries of a lineage in the order of time.

    `unmeasured` has the names of runs without figures, `unreadable` those of runs whose figures cannot be read,
    each with the reason.
    """

    title: str
    entries: tuple[Entry, ...]
    unmeasured: tuple[str, ...] = ()
    unreadable: tuple[str, ...] = ()


@dataclass(slots=True)
class _Entries:
    """Collects entries. Their runs are dropped at once: ten thousand of them are a million objects."""

    entries: dict[str, Entry] = field(default_factory=dict)
    unmeasured: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    digests: set[str] = field(default_factory=set)

    def add(self, runs: Iterable[Run]) -> None:
        for run in runs:
            entry = self.entry(run)
            if entry is not None:
                # An entry that was written twice counts once.
                self.entries[entry.tags.get(names.ENTRY, entry.run_id)] = entry
            if run.inputs is not None:
                self.digests.update(used.dataset.digest for used in run.inputs.dataset_inputs)

    def entry(self, run: Run) -> Entry | None:
        """The entry of a run; the name of a run without one is recorded."""
        try:
            entry = Entry.of(run)
        except Unreadable as reason:
            self.unreadable.append(f"{name_of(run)}: {reason}")
            return None
        if entry is None:
            self.unmeasured.append(name_of(run))
        return entry

    def add_all(self, client: MlflowClient, experiments: list[str], condition: str = "") -> None:
        """Add the runs that meet the condition.

        A server answers several requests at once, and one answer is read while the server makes the next.
        """
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            parts = _by_time(client, experiments, condition)
            list(pool.map(lambda part: self.add(_runs(client, experiments, part)), parts))


def read(client: MlflowClient, name: str) -> Ledger:
    """The ledger of a name.

    The name is a registered model (`churn`, `churn/3`, `churn@champion`), a model id, an experiment or a lineage;
    or a run id, for that run and the runs nested in it. Raises NotFound, and the errors of the store.
    """
    if (run := known_run(client, name)) is not None:
        return _of_run(client, run)
    run = _source_run(client, name)
    if run is not None:
        lineage = run.data.tags.get(names.LINEAGE)
        experiment = None if lineage else client.get_experiment(run.info.experiment_id)
    else:
        experiment = client.get_experiment_by_name(name)
        lineage = None if experiment else name
    everywhere = [each.experiment_id for each in found_by(client.search_experiments)]
    collected = _Entries()
    if experiment is not None:
        title = name if experiment.name == name else f"{name}, experiment {experiment.name}"
        collected.add_all(client, [experiment.experiment_id])
        ledger = client.get_experiment_by_name(names.LEDGER)
        if ledger is not None and ledger.experiment_id != experiment.experiment_id:
            of_it = f"tags.`{names.SOURCE_EXPERIMENT}` = '{experiment.experiment_id}'"
            collected.add_all(client, [ledger.experiment_id], of_it)
    else:
        title = name if lineage == name else f"{name}, lineage {lineage}"
        collected.add_all(client, everywhere, f"tags.`{names.LINEAGE}` = {quoted(lineage or name)}")
    _require_entries(client, collected, title, name)
    entries = [*collected.entries.values(), *_preparation(client, everywhere, collected)]
    return _ledger(title, entries, collected)


def _of_run(client: MlflowClient, run: Run) -> Ledger:
    """The ledger of one run and of all runs nested in it."""
    everywhere = [each.experiment_id for each in found_by(client.search_experiments)]
    below: dict[str, list[Run]] = defaultdict(list)
    for nested in _runs(client, everywhere, f"tags.`{_PARENT}` LIKE '%'"):
        below[nested.data.tags[_PARENT]].append(nested)
    collected, level = _Entries(), [run]
    while level:
        collected.add(level)
        level = [nested for above in level for nested in below.pop(above.info.run_id, ())]
    title = f"run {name_of(run)}"
    _require_entries(client, collected, title, run.info.run_id)
    return _ledger(title, collected.entries.values(), collected)


def _ledger(title: str, entries: Iterable[Entry], collected: _Entries) -> Ledger:
    return Ledger(
        title,
        tuple(sorted(entries, key=lambda entry: entry.start_ms)),
        tuple(sorted(collected.unmeasured)),
        tuple(sorted(collected.unreadable)),
    )


def _require_entries(client: MlflowClient, collected: _Entries, title: str, name: str) -> None:
    if collected.entries:
        return
    if collected.unreadable:
        raise NotFound(f"{title}: none of its runs can be read; {'; '.join(sorted(collected.unreadable))}")
    if collected.unmeasured:
        count = len(collected.unmeasured)
        raise NotFound(f"{title}: none of its {count} runs was measured; call carbon_otel.instrument() first")
    raise NotFound(
        f"there is no registered model, model id, run id, experiment or lineage {name!r} in the MLflow "
        f"store {client.tracking_uri}"
        f"{experiments_in(client)}"
    )


def experiments_in(client: MlflowClient) -> str:
    """The newest experiments of a store, for the end of an error message."""
    names_in = [each.name for each in client.search_experiments(max_results=_NAMED)]
    return f"; its experiments are {', '.join(map(repr, names_in))}" if names_in else ""


def _preparation(client: MlflowClient, experiments: list[str], collected: _Entries) -> Iterator[Entry]:
    """Runs of other experiments that made a dataset of these runs, by the digest of `mlflow.log_input`."""
    known = {entry.run_id for entry in collected.entries.values()}
    elsewhere = _Entries()
    for digest in sorted(collected.digests):
        for run in _runs(client, experiments, f"dataset.digest = {quoted(digest)}"):
            if run.info.run_id in known:
                continue
            known.add(run.info.run_id)
            entry = elsewhere.entry(run)
            if entry and PREPARATION in entry.stages and not _OTHER_WORK & entry.stages.keys():
                yield replace(entry, dataset=digest)
    collected.unreadable += [line for line in elsewhere.unreadable if line not in collected.unreadable]


@dataclass(frozen=True, slots=True)
class Model:
    """A registered version (`name`, `version`), a logged model (`model_id`), or both in one."""

    name: str | None
    version: str | None
    model_id: str | None
    run_id: str | None


def model_of(client: MlflowClient, name: str) -> Model | None:
    """The model with this name (`churn`, `churn/3`, `churn@champion`) or model id; None if there is none."""
    name = name.removeprefix("models:/")
    if _MODEL_ID.fullmatch(name):
        return Model(None, None, name, client.get_logged_model(name).source_run_id)
    version = _version(client, name)
    if version is None:
        return None
    # MLflow has `model_id` for some versions only; the source contains it too.
    source = _MODEL_ID.search(version.source or "")
    model_id = getattr(version, "model_id", None) or (source[0] if source else None)
    run_id = version.run_id
    if not run_id and model_id:
        run_id = client.get_logged_model(model_id).source_run_id
    return Model(version.name, str(version.version), model_id, run_id)


def known_run(client: MlflowClient, name: str) -> Run | None:
    """The run with this id; None if there is none."""
    if not _RUN_ID.fullmatch(name):
        return None
    from mlflow.exceptions import MlflowException

    try:
        return client.get_run(name)
    except MlflowException as error:
        if error.error_code in _UNKNOWN:
            return None
        raise


def _source_run(client: MlflowClient, name: str) -> Run | None:
    """The run that created the model with this name; None if there is none."""
    from mlflow.exceptions import MlflowException

    try:
        model = model_of(client, name)
    except MlflowException as error:
        if error.error_code in _UNKNOWN:
            return None
        raise
    if model is None:
        return None
    if not model.run_id:
        raise NotFound(f"{name}: MLflow does not know the run that created this model; write its experiment")
    return client.get_run(model.run_id)


def _version(client: MlflowClient, name: str) -> Any:
    """The version `name/3` or `name@alias`, or the newest version of `name`.

    None if there is none: experiments and lineages may have such names too.
    """
    from mlflow.exceptions import MlflowException

    model, _, alias = name.rpartition("@")
    try:
        if model:
            return client.get_model_version_by_alias(model, alias)
        model, _, number = name.rpartition("/")
        if model:
            return client.get_model_version(model, number)
        versions = client.search_model_versions(f"name = {quoted(name)}")
    except MlflowException as error:
        if error.error_code in _UNKNOWN:
            return None
        raise
    return max(versions, key=lambda version: int(version.version), default=None)


def _runs(client: MlflowClient, experiments: list[str], condition: str) -> Iterator[Run]:
    return found_by(client.search_runs, experiments, condition, max_results=_PAGE)


def _by_time(client: MlflowClient, experiments: list[str], condition: str) -> list[str]:
    """The condition, split into equal parts of the time in which its runs began; each run meets one part."""
    began = [
        run.info.start_time
        for order in ("ASC", "DESC")
        for run in client.search_runs(
            experiments, condition, max_results=1, order_by=[f"attributes.start_time {order}"]
        )
    ]
    if not began:
        return []
    if None in began:  # MLflow allows it
        return [condition]
    edges = [began[0] + (began[1] - began[0]) * part // _AT_ONCE for part in range(1, _AT_ONCE)]
    after = [f"attributes.start_time >= {edge}" for edge in edges]
    before = [f"attributes.start_time < {edge}" for edge in edges]
    parts = zip(["", *after], [*before, ""], strict=True)
    return [" and ".join(filter(None, (condition, *part))) for part in parts]


def quoted(text: str) -> str:
    """A text in a filter of MLflow."""
    # MLflow's filters have two kinds of quotes, and no escape for either.
    return f'"{text}"' if "'" in text and '"' not in text else "'" + text.replace("'", "") + "'"
