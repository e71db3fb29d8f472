"""Resource attributes: what is true of a measured process as long as it runs.

What may change, such as the intensity of the grid, is on points and spans.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from carbon_otel.batch_job import Job, job_of
from carbon_otel.ranks import group
from carbon_otel.semconv import names as semconv
from carbon_otel.semconv.attributes import rank_attributes

if TYPE_CHECKING:
    from carbon_otel.carbon.grid import EmissionFactor

Attributes = Mapping[str, str | float | Sequence[str]]


class Hardware(Protocol):
    """The names of the hardware of this host, the method tiers of its figures, and the missing components."""

    @property
    def processor(self) -> str: ...

    @property
    def gpus(self) -> Sequence[str]: ...

    @property
    def method(self) -> str: ...

    @property
    def missing(self) -> Sequence[str]: ...


def described(hardware: Hardware, factor: EmissionFactor) -> Attributes:
    """Resource attributes of the hardware, the place, the measuring method, and the job of this process."""
    attributes: dict[str, str | float | Sequence[str]] = {
        semconv.HOST_CPU_MODEL: hardware.processor,
        semconv.METHOD: hardware.method,
        semconv.ZONE: factor.intensity.zone,
        semconv.PUE: factor.pue,
    }
    if factor.pue_source:
        attributes[semconv.PUE_SOURCE] = factor.pue_source
    if factor.region:
        attributes[semconv.REGION] = factor.region
    job, rank = job_of(), group.look()
    if job is not None:
        attributes |= _of_job(job)
    if rank is not None:  # of the training: a task of the job may be a launcher of several
        attributes |= rank_attributes(rank)
    if hardware.gpus:
        attributes[semconv.GPU_MODELS] = hardware.gpus
    if hardware.missing:
        attributes[semconv.MISSING] = hardware.missing
    return attributes


def _of_job(job: Job) -> Attributes:
    attributes: dict[str, str | float | Sequence[str]] = {semconv.JOB_ID: job.id}
    if job.step:
        attributes[semconv.JOB_STEP] = job.step
    if job.array:
        attributes[semconv.JOB_ARRAY] = job.array
    if job.task is not None:
        attributes |= rank_attributes(job.task)
    return attributes
