"""The words of a forecast: what is asked, what is assumed, what is answered."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from carbon_otel.provenance import quadrature

KG_PER_T: Final = 1e3
KWH_PER_MWH: Final = 1e3

Kind = Literal["training", "inference", "estimator"]
# `gpu`: the accelerators alone; `node`: with their host and its power supplies; `service`: the node, its idle
# reserve and the site's overhead (PUE).
Scope = Literal["gpu", "node", "service"]
Tuning = Literal["full", "lora"]


@dataclass(frozen=True, slots=True)
class Interval:
    """The 10th, 50th and 90th percentile of a quantity that is not negative: p10 <= p50 <= p90."""

    p10: float
    p50: float
    p90: float

    def __post_init__(self) -> None:
        if not (0 <= self.p10 <= self.p50 <= self.p90 < math.inf):
            raise ValueError(f"percentiles must be finite and in order: {self.p10}, {self.p50}, {self.p90}")

    @classmethod
    def exact(cls, value: float) -> Interval:
        """A known value."""
        return cls(value, value, value)

    def times(self, factor: float) -> Interval:
        """Multiplied by a known factor, which is not negative."""
        return Interval(self.p10 * factor, self.p50 * factor, self.p90 * factor)

    def __add__(self, other: Interval) -> Interval:
        """The sum where both are high or low together: the widest that it can be."""
        return Interval(self.p10 + other.p10, self.p50 + other.p50, self.p90 + other.p90)

    def __mul__(self, other: Interval) -> Interval:
        """The product of independent quantities, each log-normal on either side of its median.

        The logarithms of p90 / p50, and those of p50 / p10, combine in quadrature.
        """
        middle = self.p50 * other.p50
        if middle == 0:
            return Interval(0.0, 0.0, self.p90 * other.p90)
        below = quadrature((_below(self), _below(other)))
        above = quadrature((math.log(self.p90 / self.p50), math.log(other.p90 / other.p50)))
        return Interval(middle * math.exp(-below), middle, middle * math.exp(above))

    def inverse(self) -> Interval:
        """One divided by it; all percentiles must be above 0."""
        return Interval(1 / self.p90, 1 / self.p50, 1 / self.p10)

    @property
    def width(self) -> float:
        """p90 / p10."""
        return self.p90 / self.p10 if self.p10 > 0 else (1.0 if self.p90 == 0 else math.inf)

    def as_dict(self) -> dict[str, float]:
        """The three percentiles by name, for JSON."""
        return {"p10": self.p10, "p50": self.p50, "p90": self.p90}


def _below(interval: Interval) -> float:
    return math.log(interval.p50 / interval.p10) if interval.p10 > 0 else math.inf


@dataclass(frozen=True, slots=True)
class Assumption:
    """One input of a forecast, given or assumed.

    Attributes:
        name: what it is, such as `model FLOPs utilisation`.
        value: the value that the medians are computed with.
        low: its 10th percentile; equal to the value if it is given or known.
        high: its 90th percentile.
        unit: such as `W`; empty for a ratio.
        source: where the value comes from; `given` if the user gave it.
        verified: whether the source was read in the original; a given value is.
    """

    name: str
    value: float
    low: float
    high: float
    unit: str
    source: str
    verified: bool = True


@dataclass(frozen=True, slots=True)
class Phase:
    """One line of the breakdown: a phase of a model's life beside its final training run.

    Attributes:
        name: `training`, `restarts and idle`, `development`, `post-training`, `reinforcement learning`,
            `storage` or `inference`.
        energy_kwh: kilowatt-hours at the site's meter, with PUE.
        emissions_kg: kilograms of CO2 equivalent, operational and location-based.
        basis: how the line was computed.
    """

    name: str
    energy_kwh: Interval
    emissions_kg: Interval
    basis: str


@dataclass(frozen=True, slots=True)
class Influence:
    """How much of a forecast's uncertainty comes from one assumption: its share of the log variance, 0 to 1."""

    name: str
    share: float


@dataclass(frozen=True, slots=True)
class Model:
    """A model's size and, where known, its shape.

    Attributes:
        name: for people.
        params: all parameters.
        active_params: parameters that one token meets; equal to `params` unless it is a mixture of experts.
        source: how they were found: `given`, `config.json of ...`, `torch module`.
        layers: number of layers, for the FLOPs of attention.
        hidden: width of the attention (heads x head size).
        seq_len: the context length of its configuration.
        kv_values: values that the attention keeps for one token, all layers together, for the energy of decoding.
    """

    name: str
    params: float
    active_params: float
    source: str = "given"
    layers: int | None = None
    hidden: int | None = None
    seq_len: int | None = None
    kv_values: float | None = None


@dataclass(frozen=True, slots=True)
class PastRun:
    """A finished and measured run of the user, which the next forecast learns from.

    Attributes:
        name: of the run.
        hardware: name in the catalogue.
        mfu: model FLOPs utilisation that was reached, 0 to 1.
        watts: mean watts per accelerator in the scope of the forecast (`node`), if measured.
        active_params: of its model; None takes the model that is forecast.
        params: of its model; None takes `active_params`, if these are given: no mixture of experts.
    """

    name: str
    hardware: str
    mfu: float
    watts: float | None = None
    active_params: float | None = None
    params: float | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Where the run takes place. What is given goes before what is looked up.

    Attributes:
        zone: country, as in `carbon_otel.instrument(zone=...)`.
        region: cloud region such as `gcp:europe-north1`.
        intensity_g_per_kwh: carbon intensity of the electricity.
        pue: power usage effectiveness of the site.
        water_l_per_kwh: litres of water that the site and its electricity consume per kilowatt-hour.
    """

    zone: str | None = None
    region: str | None = None
    intensity_g_per_kwh: float | None = None
    pue: float | None = None
    water_l_per_kwh: float | None = None


@dataclass(frozen=True, slots=True)
class TrainingRequest:
    """A training run that is to be forecast.

    Of model, tokens, gpus and days, what is missing is computed from the others; with too few of them, the
    tokens are taken as 20 per parameter (Chinchilla, arXiv 2203.15556), which the assumptions then say.

    Attributes:
        model: the model; None to ask how large a model the rest allows.
        tokens: training tokens of one epoch.
        epochs: passes over them.
        hardware: name in the catalogue (`carbon_otel.forecast.hardware`).
        gpus: number of accelerators.
        days: duration in days of 24 hours.
        precision: `bf16`, `fp16`, `fp8`, `tf32`, `fp32`.
        seq_len: tokens in a sequence; counts the FLOPs of attention if the model's shape is known.
        tuning: `full`, or `lora`: no gradients of the frozen weights (4 FLOPs per parameter and token, not 6).
        mfu: model FLOPs utilisation if it is known, 0 to 1; for fp8, of the peak of 16 bits.
        recompute: whether activations are computed again in the backward pass (8 FLOPs, not 6). It counts with a
            given `mfu` alone: the published runs behind the prior contain it.
        watts: watts per accelerator with its share of the host, if known from a measurement.
        place: grid and site.
        idle: energy of restarts and of reserved machines that wait, as a multiple of the final run.
        development: energy of experiments and failed runs, as a multiple of the final run.
        post_training: energy of fine-tuning and reinforcement learning, as a multiple of the final run.
        rl_tokens: tokens that the model generates for its own reinforcement learning; their energy is forecast as
            inference, and that of training on them comes on top.
        storage_tb: terabytes of data and checkpoints that are kept for the duration.
        lifetime_years: of the hardware, for embodied carbon.
        past: the user's finished runs.
    """

    hardware: str
    model: Model | None = None
    tokens: float | None = None
    epochs: float = 1.0
    gpus: float | None = None
    days: float | None = None
    precision: str | None = None
    seq_len: int | None = None
    tuning: Tuning = "full"
    mfu: float | None = None
    recompute: bool = False
    watts: float | None = None
    place: Place = field(default_factory=Place)
    idle: float | None = None
    development: float | None = None
    post_training: float | None = None
    rl_tokens: float | None = None
    storage_tb: float | None = None
    lifetime_years: float | None = None
    past: tuple[PastRun, ...] = ()


@dataclass(frozen=True, slots=True)
class InferenceRequest:
    """A model that is to be served.

    Attributes:
        model: the model.
        hardware: name in the catalogue.
        gpus: accelerators that hold one copy of the model; None: the smallest power of two with enough memory.
        concurrency: mean number of requests in a batch.
        precision: of the weights: `bf16`, `fp16`, `fp8`, `int8`, `fp4`, `mxfp4`, `int4`.
        input_tokens: mean tokens of a prompt.
        output_tokens: mean tokens of an answer.
        requests_per_month: for energy and emissions of a month; None leaves them per request.
        scope: `gpu`, `node` or `service`.
        place: grid and site.
        lifetime_years: of the hardware, for embodied carbon.
        training: the model's training, or its kilowatt-hours with PUE, to say when inference passes it; only in
            the scope `service`, which includes as much.
    """

    hardware: str
    model: Model
    gpus: int | None = None
    concurrency: float = 64.0
    precision: str = "bf16"
    input_tokens: float = 500.0
    output_tokens: float = 500.0
    requests_per_month: float | None = None
    scope: Scope = "service"
    place: Place = field(default_factory=Place)
    lifetime_years: float | None = None
    training: Forecast | float | None = None


@dataclass(frozen=True, slots=True)
class Forecast:
    """The answer. What does not apply to its kind is None.

    Energy is at the site's meter (with PUE), as in published tables; `it_energy_kwh` is what a meter in the
    machine would read, and what a measured run is compared with. For `training`, all figures are those of the
    final run; `phases` has the others beside it. For `inference`, energy, emissions, embodied carbon and water
    are those of a month if `requests_per_month` was given, else those of one request; only the scope `service`
    has PUE in its energy and emissions.

    Attributes:
        kind: training, inference or estimator.
        title: what was asked, in one line.
        scope: what the energy includes.
        flops: floating-point operations of the model's training.
        gpu_hours: hours of one accelerator.
        days: duration.
        gpus: number of accelerators.
        tokens: training tokens over all epochs.
        params: parameters.
        energy_kwh: kilowatt-hours with PUE, as far as the scope has it.
        it_energy_kwh: kilowatt-hours without PUE.
        emissions_kg: operational CO2 equivalent, location-based.
        embodied_kg: the run's share of the CO2 equivalent of making the hardware.
        water_l: litres consumed by the site's cooling and by the electricity, with PUE as far as the scope has it;
            None if no factor is known.
        j_per_output_token: joules per generated token, without the prompt's.
        j_per_input_token: joules per token of the prompt.
        months_to_training: months after which inference has used the energy of the training.
        assumptions: every input, given or assumed.
        phases: the lines of the breakdown; the first is the forecast itself.
        influences: what the uncertainty of the emissions comes from, largest first.
        notes: sentences for the user, such as what was solved for.
    """

    kind: Kind
    title: str
    scope: Scope
    energy_kwh: Interval
    it_energy_kwh: Interval
    emissions_kg: Interval
    assumptions: tuple[Assumption, ...]
    flops: Interval | None = None
    gpu_hours: Interval | None = None
    days: Interval | None = None
    gpus: Interval | None = None
    tokens: Interval | None = None
    params: Interval | None = None
    embodied_kg: Interval | None = None
    water_l: Interval | None = None
    j_per_output_token: Interval | None = None
    j_per_input_token: Interval | None = None
    months_to_training: Interval | None = None
    phases: tuple[Phase, ...] = ()
    influences: tuple[Influence, ...] = ()
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        from carbon_otel.forecast.shown import summary

        return f"Forecast({summary(self)})"

    def _repr_html_(self) -> str:
        """The forecast for a notebook."""
        from carbon_otel.forecast.shown import card
        from carbon_otel.notebook.card import html

        return html(card(self))

    @property
    def energy_mwh(self) -> Interval:
        """Megawatt-hours with PUE."""
        return self.energy_kwh.times(1 / KWH_PER_MWH)

    @property
    def it_energy_mwh(self) -> Interval:
        """Megawatt-hours without PUE."""
        return self.it_energy_kwh.times(1 / KWH_PER_MWH)

    @property
    def emissions_t(self) -> Interval:
        """Tonnes of operational CO2 equivalent."""
        return self.emissions_kg.times(1 / KG_PER_T)

    @property
    def embodied_t(self) -> Interval | None:
        """Tonnes of embodied CO2 equivalent."""
        return None if self.embodied_kg is None else self.embodied_kg.times(1 / KG_PER_T)


def influences(factors: Mapping[str, Interval]) -> tuple[Influence, ...]:
    """The shares of independent factors in the log variance of their product, largest first."""
    squares = {name: math.log(i.width) ** 2 for name, i in factors.items() if 1 < i.width < math.inf}
    whole = sum(squares.values())
    ordered = sorted(squares.items(), key=lambda item: -item[1])
    return tuple(Influence(name, square / whole) for name, square in ordered)


def remainder(product: Interval, factor: Interval) -> Interval:
    """The independent factor around 1 that makes the interval of `product` out of that of `factor`."""
    if product.p10 <= 0 or factor.p10 <= 0:
        return Interval.exact(1.0)
    below = _remaining(product.p50 / product.p10, factor.p50 / factor.p10)
    above = _remaining(product.p90 / product.p50, factor.p90 / factor.p50)
    return Interval(1 / below, 1.0, above)


def _remaining(whole: float, part: float) -> float:
    return math.exp(math.sqrt(max(0.0, math.log(whole) ** 2 - math.log(part) ** 2)))


def total(intervals: Iterable[Interval]) -> Interval:
    """The sum of quantities that are high or low together."""
    return sum(intervals, Interval.exact(0.0))
