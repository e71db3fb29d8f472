"""Energy per unit at the batch sizes that runs of one model have tried."""

from __future__ import annotations

import re
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from carbon_otel import quantities
from carbon_otel.advice.amounts import counted, part, total
from carbon_otel.advice.attempts import Attempt
from carbon_otel.advice.quality import Metric, known
from carbon_otel.advice.subject import Subject
from carbon_otel.advice.words import Advice, NothingFound
from carbon_otel.lifecycle.comparison import energy_unlike
from carbon_otel.lifecycle.report import INFERENCE, TRAINING
from carbon_otel.lifecycle.total import Total
from carbon_otel.units import J_PER_WH

NAME: Final = "batch size"
_PARAM: Final = re.compile(r"(?!.*(eval|valid|test))(.*[._-])?batch_?size", re.IGNORECASE)
# Runs that differ in these alone are repeats.
_SEED: Final = re.compile(r"(.*[._-])?(random_)?(seed|state)", re.IGNORECASE)
_KINDS: Final = (TRAINING, INFERENCE)


class _Size(NamedTuple):
    """The runs with one batch size; `of` is the energy of their stages."""

    size: str
    runs: Sequence[Attempt]
    units: float
    of: Total

    @property
    def rate(self) -> tuple[float, float, float]:
        """Joules per unit, with the band."""
        value, low, high = (
            wh * J_PER_WH / self.units for wh in (self.of.energy_wh, self.of.low_wh, self.of.high_wh)
        )
        return value, low, high


class _Model(NamedTuple):
    """The batch sizes of one model, the best first."""

    param: str
    kind: str
    unit: str
    sizes: Sequence[_Size]

    @property
    def unlike(self) -> list[str]:
        """Why the energies of the sizes are not comparable; empty if they are."""
        first, *others = (each.entry.tags for size in self.sizes for each in size.runs)
        return list(dict.fromkeys(line for tags in others for line in energy_unlike(first, tags)))

    @property
    def is_certain(self) -> bool:
        """Whether the best size is told apart from all others, and the saving from none."""
        apart = self.sizes[0].rate[2] < min(each.rate[1] for each in self.sizes[1:])
        return apart and self.saved.low_wh > 0 and not self.unlike

    @property
    def saved(self) -> Total:
        """What the other runs would have saved at the best size; the low end may be below 0."""
        best = self.sizes[0]
        best_wh, best_low, best_high = (joules / J_PER_WH for joules in best.rate)
        saved = []
        for each in self.sizes[1:]:
            wh = each.of.energy_wh - each.units * best_wh
            ratio = each.of.emissions_g / each.of.energy_wh
            low, high = each.of.low_wh - each.units * best_high, each.of.high_wh - each.units * best_low
            saved.append(Total(wh, low, high, wh * ratio, low * ratio, high * ratio))
        return total(saved)


def look(subject: Subject) -> Advice | NothingFound:
    """Compare runs that differ in nothing but the batch size and the seed."""
    models = [model for kind in _KINDS for model in _models(subject.attempts, kind)]
    if not models:
        reason = (
            "no two finished runs differ in the batch size alone and count units (samples, tokens) of a stage"
        )
        return NothingFound(NAME, reason, lacking=True)
    model = max(models, key=lambda each: (each.is_certain, each.saved.energy_wh))
    best, quality = model.sizes[0], next(iter(known(subject.attempts)), None)
    others = " or ".join(each.size for each in model.sizes)
    unknown = f"{model.kind} with {model.param} {others}: which one needs the least energy is not known"
    return Advice(
        name=NAME,
        lever="machine",
        title=f"{model.kind} with {model.param} {best.size}" if model.is_certain else unknown,
        verdict="saves" if model.is_certain else "cannot be told apart",
        saved=model.saved,
        of=total(each.of for each in model.sizes),
        finding=(
            *(_sentence(model, each, quality) for each in model.sizes),
            *(f"not measured alike: {line}" for line in model.unlike),
        ),
        source=f"energy and {model.unit} of the stages of {model.kind} in runs with otherwise equal parameters",
        verify="both sizes again, at equal quality: the batch size changes what is learned",
        command=subject.prove(model.sizes[-1].runs, best.runs, model.kind, model.unit),
    )


def _sentence(model: _Model, size: _Size, quality: Metric | None) -> str:
    rate = f"{quantities.energy(*size.rate)} per {model.unit.removesuffix('s')}"
    text = f"{model.param} {size.size}: {rate} in {counted(len(size.runs), 'run')}"
    values = [each.metrics[quality.name] for each in size.runs if quality and quality.name in each.metrics]
    if not values or quality is None:
        return text
    return f"{text}, {quality.name} {statistics.fmean(values):.4g}"


def _models(attempts: Sequence[Attempt], kind: str) -> list[_Model]:
    """The models of which several batch sizes were tried, with the energy per unit of one kind of stage."""
    groups: dict[object, dict[str, list[Attempt]]] = defaultdict(lambda: defaultdict(list))
    for attempt in attempts:
        param = next((name for name in attempt.params if _PARAM.fullmatch(name)), None)
        unit = _unit(attempt, kind)
        if param is None or unit is None or not attempt.has_ended_well or attempt.entry.lower_bound:
            continue
        others = {n: v for n, v in attempt.params.items() if n != param and not _SEED.fullmatch(n)}
        key = (param, unit, frozenset(others.items()), attempt.datasets)
        groups[key][attempt.params[param]].append(attempt)
    return [_model(kind, runs) for runs in groups.values() if len(runs) > 1]


def _model(kind: str, runs: Mapping[str, Sequence[Attempt]]) -> _Model:
    some = next(iter(runs.values()))[0]
    param = next(name for name in some.params if _PARAM.fullmatch(name))
    unit = _unit(some, kind)
    assert unit is not None
    sizes = [_size(size, kind, unit, of_size) for size, of_size in runs.items()]
    return _Model(param, kind, unit, sorted(sizes, key=lambda each: each.rate[0]))


def _size(size: str, kind: str, unit: str, runs: Sequence[Attempt]) -> _Size:
    units = sum(each.entry.units[f"{kind}/{unit}"] for each in runs)
    return _Size(size, runs, units, total(part(each.entry, each.wh(kind)) for each in runs))


def _unit(attempt: Attempt, kind: str) -> str | None:
    """The unit that a kind of stage has counted; of several, the first by name."""
    prefix = f"{kind}/"
    found = sorted(
        name.removeprefix(prefix)
        for name, count in attempt.entry.units.items()
        if name.startswith(prefix) and count > 0 and attempt.wh(kind) > 0
    )
    return found[0] if found else None
