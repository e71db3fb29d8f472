"""Immutable records of stages and devices, which all rooms share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, NamedTuple

from carbon_otel.sensors.base import Device

AttributeValue = (
    str | bool | int | float | tuple[str, ...] | tuple[bool, ...] | tuple[int, ...] | tuple[float, ...]
)

# Kinds of stage that carbon_otel opens itself.
RUN: Final = "run"
UNATTRIBUTED: Final = "unattributed"

# Begins the id of a run of another process that is not known yet.
UNKNOWN_RUN: Final = "?"
# Names that are no kinds of stage: in MLflow's metrics they group other figures of a run.
GROUPS: Final = ("nested", "units", "devices", "components", "power", "forecast", "reforecast", "by_hour")

# The flag of energy that was divided by the time that calls took.
TIME_SHARE: Final = "time_share"

_NONE: Final[Mapping[str, float]] = MappingProxyType({})


class Cost(NamedTuple):
    """Joules and grams of CO2 equivalent."""

    energy_j: float
    emissions_g: float


class RemoteRequest(NamedTuple):
    """One call of a remote model: its tokens, and the seconds that it took here."""

    provider: str
    model: str
    input_tokens: int
    output_tokens: int
    duration_s: float


class RemoteFigures(NamedTuple):
    """An estimate of what one call of a remote model took elsewhere, with its band. Nothing of it is measured."""

    energy_j: float
    low_j: float
    high_j: float
    emissions_g: float
    low_g: float
    high_g: float
    source: str


class RemoteCall(NamedTuple):
    """A call of a remote model; `figures` is None if there is no estimate for it."""

    provider: str
    model: str
    figures: RemoteFigures | None


_NO_COSTS: Final[Mapping[str, Cost]] = MappingProxyType({})


class _StageFields(NamedTuple):
    id: int
    kind: str
    name: str
    attributes: Mapping[str, AttributeValue]
    parent: StageInfo | None
    run_id: str | None
    in_record: bool
    start_unix_ns: int
    joined: bool = False


class StageInfo(_StageFields):
    """A stage when it opens. The records of two executions are never equal.

    Records of a stage's edges are named tuples: a frozen dataclass takes three times as long to make.

    Attributes:
        id: increases with every stage of this process.
        parent: the enclosing stage in this process.
        run_id: the experiment run of the stage; for the stage of a run, that run.
        in_record: whether the stage, or one that encloses it, is recorded separately: a run or a window of
            inference.
        start_unix_ns: wall-clock nanoseconds, a label only.
        joined: whether this is the part of this process in a run that another process has opened.
    """

    __slots__ = ()
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    @property
    def is_run(self) -> bool:
        """Whether this is the stage of a run, or the part of this process in one."""
        return self.joined or self.kind == RUN

    @property
    def known_run_id(self) -> str | None:
        """The same as `run_id`; None also while the run is not known."""
        return None if self.run_id is None or self.run_id.startswith(UNKNOWN_RUN) else self.run_id


class DeviceEnergy(NamedTuple):
    """The energy of one device in one stage, with its uncertainty.

    `below_j` and `above_j` bound the error of the inclusive joules beyond the device's band, from
    extrapolated edges, filled gaps, lost wraps, resets and jumps. `gap_s` are seconds without a reading.
    """

    device: Device
    exclusive_j: float
    inclusive_j: float
    filled_j: float = 0.0
    below_j: float = 0.0
    above_j: float = 0.0
    gap_s: float = 0.0
    flags: frozenset[str] = frozenset()

    def portion(self, joules: float) -> DeviceEnergy:
        """A part of these joules, with the same relative uncertainty."""
        ratio = joules / self.inclusive_j if self.inclusive_j > 0 else 0.0
        return DeviceEnergy(
            self.device,
            joules,
            joules,
            self.filled_j * ratio,
            self.below_j * ratio,
            self.above_j * ratio,
            self.gap_s * ratio,
            self.flags,
        )


class StageRecord(NamedTuple):
    """A stage that has ended, or the process so far. Wall-clock times are labels only.

    `by_kind` are exclusive joules and grams by kind of stage, for runs and for the process. `shares` are this
    process's mean shares of the host in that time, by rule of attribution. Embodied grams are those of making the
    hardware, for the time in which it was reserved; 0 if they are unknown.
    """

    kind: str
    name: str
    start_unix_ns: int
    duration_s: float
    devices: tuple[DeviceEnergy, ...]
    exclusive_g: float
    inclusive_g: float
    units: Mapping[str, float] = _NONE
    by_kind: Mapping[str, Cost] = _NO_COSTS
    shares: Mapping[str, float] = _NONE
    exclusive_embodied_g: float = 0.0
    inclusive_embodied_g: float = 0.0
    embodied_by_kind: Mapping[str, float] = _NONE

    @property
    def exclusive_j(self) -> float:
        return sum(d.exclusive_j for d in self.devices)

    @property
    def inclusive_j(self) -> float:
        return sum(d.inclusive_j for d in self.devices)


class Foresight(NamedTuple):
    """What is expected of a stage: before it began, or from its own pace while it runs.

    Percentiles are the 10th, 50th and 90th. `expected_j` is energy of the machine, as its meters read it.

    Attributes:
        in_run: whether it was made from the pace of the stage itself.
        raw_j: the median without what earlier runs have taught, in joules.
        expected_g: grams of CO2 equivalent.
        expected_s: seconds from the begin to the end; None if they are not known.
        title: what was forecast, in one line.
        subject: runs with the same subject on the same hardware teach each other.
        done: the share of the steps that are done, 0 before the first.
        left_s: seconds from now to the end, the median; only in a run.
        measured_j: the energy that it was about, once that is known.
    """

    in_run: bool
    expected_j: tuple[float, float, float]
    raw_j: float
    expected_g: tuple[float, float, float]
    expected_s: tuple[float, float, float] | None
    title: str
    subject: str = ""
    done: float = 0.0
    left_s: float | None = None
    measured_j: float | None = None

    @property
    def delta(self) -> float | None:
        """Predicted / measured - 1; None until the energy is known, or if there was none."""
        if self.measured_j is None or self.measured_j <= 0:
            return None
        return self.expected_j[1] / self.measured_j - 1


class Shares(NamedTuple):
    """This process's share of every device, and of the host by either rule; each from 0 to 1.

    `uncoordinated` are the ids of the devices that processes may share which cannot meet this one. The shares are
    not `known` if the share that is charged could not be measured; then it is the last one. `samples` has,
    for each of `devices`, of how many samples its share is the mean, or 0 if it is none; empty if none is. Other
    samples are another tuple.
    """

    devices: tuple[float, ...]
    reserved: float
    process: float
    uncoordinated: frozenset[str] = frozenset()
    known: bool = True
    samples: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All devices at a tick: (device, its joules since the start, its present watts)."""

    devices: tuple[tuple[Device, float, float], ...]
