"""The runs of ledger entries in a store: found, or created with the origin of their model."""

from __future__ import annotations

from collections import Counter
from typing import Final

from carbon_otel.guard import log_once
from carbon_otel.mlflow.compat import TrackingStore
from carbon_otel.mlflow.delivery.batch import LedgerRun
from carbon_otel.mlflow.delivery.faults import is_refusal, is_unreachable, text_of
from carbon_otel.mlflow.schema import checked, names

# An error at the model of an entry is raised this many times, in case it passes; then the entry goes without it.
_TRIES_OF_A_MODEL: Final = 3


class LedgerRuns:
    """Every method may raise the errors of the store."""

    def __init__(self, store: TrackingStore) -> None:
        self._store = store
        self._run_ids: dict[str, str] = {}
        self._origins: dict[tuple[str | None, str | None], dict[str, str]] = {}
        self._tries_of_model: Counter[tuple[str | None, str | None]] = Counter()

    def run_id(self, entry: LedgerRun) -> str:
        """The run of an entry. It is looked up first: the answer to its creation may have been lost."""
        from mlflow.entities import RunTag, ViewType

        run_id = self._run_ids.get(entry.entry_id)
        if run_id is None:
            experiment_id = self._ledger()
            has_the_id = f"tags.`{names.ENTRY}` = '{entry.entry_id}'"
            runs = self._store.search_runs([experiment_id], has_the_id, ViewType.ACTIVE_ONLY, max_results=1)
            if runs:
                run_id = runs[0].info.run_id
            else:
                tags = {names.ENTRY: entry.entry_id, **self._origin(entry)}
                run_id = self._store.create_run(
                    experiment_id=experiment_id,
                    user_id="unknown",
                    start_time=entry.start_ms,
                    tags=[RunTag(name, value) for name, value in tags.items()],
                    run_name=entry.name,
                ).info.run_id
            self._run_ids[entry.entry_id] = run_id
        return run_id

    def forget(self, entry: LedgerRun) -> None:
        """Look for the run of this entry again when it is needed."""
        self._run_ids.pop(entry.entry_id, None)

    def _ledger(self) -> str:
        experiment = self._store.get_experiment_by_name(names.LEDGER)
        if experiment is None:
            try:
                return str(self._store.create_experiment(names.LEDGER, None, None))
            except Exception:
                experiment = self._store.get_experiment_by_name(
                    names.LEDGER
                )  # another process has created it
                if experiment is None:
                    raise
        return str(experiment.experiment_id)

    def _origin(self, entry: LedgerRun) -> dict[str, str]:
        """The experiment and the lineage of the run that created the entry's model."""
        key = entry.model_id, entry.source_run_id
        if key not in self._origins:
            self._origins[key] = self._find_origin(entry)
        return self._origins[key]

    def _find_origin(self, entry: LedgerRun) -> dict[str, str]:
        key = entry.model_id, entry.source_run_id
        tags = {}
        try:
            source = entry.source_run_id
            if source is None and entry.model_id:
                source = self._store.get_logged_model(entry.model_id).source_run_id
            if source:
                run = self._store.get_run(source)
                tags[names.SOURCE_EXPERIMENT] = run.info.experiment_id
                lineage = run.data.tags.get(names.LINEAGE)
                if lineage:
                    tags[names.LINEAGE] = lineage[: checked.LONGEST_TAG]
        except Exception as error:
            self._tries_of_model[key] += 1
            may_pass = not is_refusal(error) and self._tries_of_model[key] < _TRIES_OF_A_MODEL
            if is_unreachable(error) or may_pass:
                raise
            log_once(
                "the store does not know the model of %r (%s): its energy is in the experiment %s, but not in the "
                "ledger of the model; set lineage",
                entry.name,
                text_of(error),
                names.LEDGER,
                about=entry.model_id,
            )
        return tags
