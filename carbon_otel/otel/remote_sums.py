"""The estimates for remote models: their metrics, and the sums on the spans of the stages that called them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from carbon_otel.otel.instruments import Instruments
from carbon_otel.provenance import ESTIMATED_REMOTE
from carbon_otel.records import UNATTRIBUTED, RemoteCall, RemoteFigures, StageInfo
from carbon_otel.semconv import names as semconv

# Beyond this number, providers and models share the label "other".
_MOST_MODELS: Final = 50
_OTHER: Final = "other"
_FIGURES: Final = {
    "energy_j": semconv.REMOTE_ENERGY_J,
    "low_j": semconv.REMOTE_LOW_J,
    "high_j": semconv.REMOTE_HIGH_J,
    "emissions_g": semconv.REMOTE_G,
    "low_g": semconv.REMOTE_LOW_G,
    "high_g": semconv.REMOTE_HIGH_G,
}


def attributes_of(figures: RemoteFigures) -> dict[str, Any]:
    """The estimate as span attributes."""
    amounts = {key: getattr(figures, name) for name, key in _FIGURES.items()}
    return {**amounts, semconv.REMOTE_METHOD: ESTIMATED_REMOTE, semconv.REMOTE_SOURCE: figures.source}


class RemoteSums:
    """Adds the calls of a session up; a stage has its own calls, without those of the stages in it."""

    def __init__(self, instruments: Instruments) -> None:
        self._instruments = instruments
        self._models: set[tuple[str, str]] = set()
        # Summed up at the end of the stage: threads of one stage may call at the same time.
        self._stages: dict[StageInfo, list[RemoteFigures | None]] = {}

    def follow(self, instruments: Instruments) -> None:
        """Count by these instruments from now on."""
        self._instruments = instruments

    def add(self, stage: StageInfo | None, is_open: bool, call: RemoteCall) -> None:
        """`is_open` says that the stage has a span that can still get the sums."""
        kind = UNATTRIBUTED if stage is None else stage.kind
        labels = {**self._model(call), semconv.STAGE_KIND: kind, **self._instruments.apart}
        figures = call.figures
        estimated = figures is not None
        self._instruments.remote_requests.add(1, {**labels, semconv.REMOTE_ESTIMATED: estimated})
        if figures is not None:
            by_method = {**labels, semconv.METHOD: ESTIMATED_REMOTE}
            self._instruments.remote_energy.add(figures.energy_j, by_method)
            self._instruments.remote_emissions.add(figures.emissions_g, by_method)
        if stage is not None and is_open:
            self._stages.setdefault(stage, []).append(figures)

    def of(self, stage: StageInfo) -> Mapping[str, Any]:
        """The attributes of a stage that ends."""
        calls = self._stages.pop(stage, None)
        return _sum(calls) if calls else {}

    def _model(self, call: RemoteCall) -> dict[str, str]:
        key = call.provider, call.model
        if len(self._models) < _MOST_MODELS:
            self._models.add(key)
        provider, model = key if key in self._models else (_OTHER, _OTHER)
        return {semconv.REMOTE_PROVIDER: provider, semconv.REMOTE_MODEL: model}


def _sum(calls: list[RemoteFigures | None]) -> dict[str, Any]:
    known = [figures for figures in calls if figures is not None]
    counts = {semconv.REMOTE_CALLS: len(known), semconv.REMOTE_CALLS_UNKNOWN: len(calls) - len(known)}
    sums: dict[str, Any] = {key: number for key, number in counts.items() if number}
    if known:
        sums |= attributes_of(known[-1])
        for name, key in _FIGURES.items():
            sums[key] = sum(getattr(figures, name) for figures in known)
    return sums
