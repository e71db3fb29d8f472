"""The energy of generating and of reading one token, in the analytic form that holds for unseen accelerators too.

A step of decoding gives each of `b` concurrent requests one token. Its time is a sum of terms, each with one
fitted constant: a fixed part, one for each doubling of the accelerators, one for each request, the weights read
from memory, the arithmetic, and the attention's keys and values read from memory. The energy is that time at
rated power; that a term draws less than that is part of its constant. Of a mixture of experts, a step reads the
experts that any request meets: P (1 - (1 - A/P)^b).

A prompt is read at half of the peak and rated power (`PREFILL_EFFICIENCY`). The published measurements are
joules per generated token with the prompt's share inside, and do not publish how long the prompts were: the fit
finds one length for each task.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from carbon_otel.forecast.compute import FORWARD

PREFILL_EFFICIENCY: Final = 0.5
TERMS: Final = ("step_s", "doubling_s", "request_s", "weights", "arithmetic", "context")
# Bytes of a weight; the 4-bit formats with their scales.
WEIGHT_BYTES: Final[Mapping[str, float]] = {
    "fp32": 4.0,
    "tf32": 4.0,
    "bf16": 2.0,
    "fp16": 2.0,
    "fp8": 1.0,
    "int8": 1.0,
    "mxfp4": 0.53,
    "fp4": 0.56,
    "int4": 0.56,
}
_CACHE_BYTES: Final = 2.0


@dataclass(frozen=True, slots=True)
class Serving:
    """One copy of a model on its accelerators.

    Attributes:
        params: all parameters.
        active_params: parameters that one token meets.
        kv_values: values that the attention keeps for one token.
        weight_bytes: bytes of one weight.
        gpus: accelerators.
        concurrency: requests in a step.
        tdp_w: rated power of one accelerator.
        bytes_per_s: bandwidth of its memory.
        peak: its 16-bit peak, in FLOP/s.
    """

    params: float
    active_params: float
    kv_values: float
    weight_bytes: float
    gpus: float
    concurrency: float
    tdp_w: float
    bytes_per_s: float
    peak: float

    def step_times(self, context: float) -> tuple[float, ...]:
        """The terms of a step in seconds, before their constants; the first three are counts.

        Args:
            context: mean number of tokens before the one that is generated.
        """
        idle = (1 - self.active_params / self.params) ** self.concurrency
        weights = self.weight_bytes * self.params * (1 - idle)
        bandwidth = self.bytes_per_s * self.gpus
        return (
            1.0,
            math.log2(self.gpus),
            self.concurrency,
            weights / bandwidth,
            FORWARD * self.active_params * self.concurrency / (self.peak * self.gpus),
            self.concurrency * context * _CACHE_BYTES * self.kv_values / bandwidth,
        )

    def j_per_step_second(self) -> float:
        """Joules for each generated token and second of a step: rated power over the requests."""
        return self.gpus * self.tdp_w / self.concurrency

    def j_per_input_token(self) -> float:
        """Joules of the accelerators for one token of a prompt, without attention."""
        return self.tdp_w * FORWARD * self.active_params / (self.peak * PREFILL_EFFICIENCY)

    def j_per_output_token(self, constants: Mapping[str, float], context: float) -> float:
        """Joules of the accelerators for one generated token, without its prompt's."""
        times = zip(TERMS, self.step_times(context), strict=True)
        return self.j_per_step_second() * sum(constants[term] * time for term, time in times)
