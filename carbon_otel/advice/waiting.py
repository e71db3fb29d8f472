"""Energy of training runs in which no model was trained: data, and the time between the stages."""

from __future__ import annotations

from typing import Final

from carbon_otel.advice.amounts import counted, energy, part, share, total, whole
from carbon_otel.advice.subject import Subject
from carbon_otel.advice.words import Advice, NothingFound
from carbon_otel.lifecycle.ledger import PREPARATION
from carbon_otel.lifecycle.report import TRAINING
from carbon_otel.records import RUN

NAME: Final = "idle and waiting"
# Less than this is not worth a sentence. Our choice.
_LEAST_SHARE: Final = 0.05


def look(subject: Subject) -> Advice | NothingFound:
    """Add up what training runs have used beside their stages of training."""
    training = [each for each in subject.attempts if each.wh(TRAINING) > 0]
    if not training:
        reason = "no run has a stage of training; what runs without stages did is unknown"
        return NothingFound(NAME, f"{reason}: with carbon_otel.stage('training')", lacking=True)
    data, idle = (total(part(each.entry, each.wh(kind)) for each in training) for kind in (PREPARATION, RUN))
    of = total(whole(each.entry) for each in training)
    saved = total((data, idle))
    shares = f"{share(data, of):.1%} for data, {share(idle, of):.1%} between the stages"
    if share(saved, of) < _LEAST_SHARE:
        return NothingFound(
            NAME, f"{shares} of {energy(of.energy_wh)} in {counted(len(training), 'training run')}"
        )
    return Advice(
        name=NAME,
        lever="machine",
        title="keep the hardware at work: load data ahead, cache what is prepared, end runs early",
        verdict="saves at most",
        saved=saved,
        of=of,
        finding=(
            f"of {energy(of.energy_wh)} in {counted(len(training), 'training run')}, {shares}",
            "some of it is work that the model needs, so this is an upper limit",
        ),
        source=f"energy by kind of stage: {PREPARATION} (with the wait for batches), and {RUN} (no stage open)",
        verify="the same run with data loaded ahead (workers, a cache)",
        command=subject.prove([max(training, key=lambda each: each.wh(PREPARATION) + each.wh(RUN))]),
    )
