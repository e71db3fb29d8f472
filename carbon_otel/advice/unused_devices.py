"""Energy of GPUs that were reserved and hardly used: their mean power in a run is near that of an idle GPU."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from carbon_otel.advice.amounts import counted, energy_of, part, total, whole
from carbon_otel.advice.attempts import Attempt
from carbon_otel.advice.subject import Subject
from carbon_otel.advice.words import Advice, NothingFound
from carbon_otel.forecast.hardware import accelerator
from carbon_otel.lifecycle.total import Total
from carbon_otel.quantities import power
from carbon_otel.units import S_PER_H

NAME: Final = "unused devices"
# Idle GPUs in data centres draw 8 to 15 % of their rated power.
_IDLE_OF_RATED: Final = 0.2
# Without a rated power: of the power of the busiest GPU of the run.
_IDLE_OF_BUSIEST: Final = 1 / 3
_SHOWN: Final = 5
_NO_GPU: Final = re.compile(r"cpu|memory|intel-rapl|rapl|host|dram|psys", re.IGNORECASE)
_COUNTED: Final = re.compile(r"\d+ x (.+)")
# The devices that look like GPUs are those, if their energy is that of the component.
_SUM: Final = 0.01


class _Idle(NamedTuple):
    attempt: Attempt
    device: str
    watts: float
    energy: Total


def look(subject: Subject) -> Advice | NothingFound:
    """Find GPUs whose mean power in a run is near idle."""
    with_gpus = [each for each in subject.attempts if each.entry.components.get("gpu", 0.0) > 0]
    if not with_gpus:
        return NothingFound(NAME, "no GPU was measured")
    judged = [found for each in with_gpus if (found := _idle(each)) is not None]
    idle = [each for found in judged for each in found]
    saved = total(each.energy for each in idle)
    if not judged:
        reason = (
            "neither the rated power of the GPUs nor a busier one beside them tells what an idle one draws"
        )
        return NothingFound(NAME, f"{reason}, or the energy of each is not known", lacking=True)
    if saved.energy_wh <= 0:
        unknown = len(with_gpus) - len(judged)
        others = f"; those of {counted(unknown, 'other run')} cannot be judged" if unknown else ""
        return NothingFound(
            NAME, f"every GPU of {counted(len(judged), 'run')} drew more than an idle one{others}"
        )
    worst = sorted(idle, key=lambda each: each.energy.energy_wh, reverse=True)
    return Advice(
        name=NAME,
        lever="machine",
        title="reserve the GPUs that the run uses: CUDA_VISIBLE_DEVICES, a smaller machine",
        verdict="saves at most",
        saved=saved,
        of=total(whole(each.entry) for each in with_gpus),
        finding=(
            *(
                f"{each.attempt.name}: {each.device} drew {power(each.watts)} in the mean, "
                f"{energy_of(each.energy)} in all"
                for each in worst[:_SHOWN]
            ),
            "the embodied carbon of a reserved device is charged, too, and saved if others use it instead",
        ),
        source="energy by device over the duration of the run, against the rated power or the busiest GPU",
        verify="the same run with the used GPUs only",
        command=subject.prove([worst[0].attempt]),
    )


def _idle(attempt: Attempt) -> list[_Idle] | None:
    """The idle GPUs of a run; None if it has nothing to judge them by."""
    entry = attempt.entry
    gpus = {name: wh for name, wh in entry.devices.items() if not _NO_GPU.match(name)}
    measured_wh = entry.components["gpu"]
    if not entry.duration_s > 0 or abs(sum(gpus.values()) - measured_wh) > _SUM * measured_wh:
        return None
    hours = entry.duration_s / S_PER_H
    watts = {name: wh / hours for name, wh in gpus.items()}
    rated = _rated_w(entry.hardware)
    limit = _IDLE_OF_BUSIEST * max(watts.values()) if rated is None else _IDLE_OF_RATED * rated
    if rated is None and min(watts.values()) >= limit:
        return None  # all may be idle
    return [_Idle(attempt, name, w, part(entry, gpus[name])) for name, w in watts.items() if w < limit]


def _rated_w(hardware: str) -> float | None:
    """The rated power of the GPUs of a host, if they are of one kind that the catalogue has."""
    kinds = [match[1] for name in hardware.split(" + ") if (match := _COUNTED.fullmatch(name))]
    if len(kinds) != 1:
        return None
    try:
        return accelerator(kinds[0]).tdp_w
    except ValueError:
        return None
