"""Floating-point operations of training and inference.

Per token and matrix parameter, a forward pass takes 2 FLOPs, a backward pass 4 (Kaplan et al. 2020, arXiv
2001.08361).
"""

from __future__ import annotations

from typing import Final

from carbon_otel.forecast.records import Model, Tuning

FORWARD: Final = 2.0
FULL: Final = 6.0
# The gradients of frozen weights are not computed, those of their inputs are (LoRA, arXiv 2106.09685).
LORA: Final = 4.0
# A forward pass is repeated where activations are not kept.
RECOMPUTED: Final = 2.0


def training_flops(
    model: Model,
    tokens: float,
    *,
    seq_len: int | None = None,
    tuning: Tuning = "full",
    recompute: bool = False,
) -> float:
    """Model FLOPs of training on `tokens`.

    Published utilisation (MFU) counts neither attention nor recomputation, and the prior of
    `efficiency` is fitted on 6ND: with `seq_len`, the FLOPs of attention come on top, so long sequences take
    longer. Recomputation is hardware work, not the model's: count it only to compare with hardware utilisation.
    """
    per_parameter = (LORA if tuning == "lora" else FULL) + (RECOMPUTED if recompute else 0)
    return per_parameter * model.active_params * tokens * (1 + attention_ratio(model, seq_len))


def attention_ratio(model: Model, seq_len: int | None) -> float:
    """The FLOPs of attention over those of the parameters: 2 s h l / 2N in the forward pass, causal.

    A causal token meets s / 2 others on average, each with 2h FLOPs for its score and 2h for its value, in each
    layer. Zero where the model's shape or the sequence length is unknown.
    """
    if seq_len is None or model.layers is None or model.hidden is None:
        return 0.0
    return model.layers * model.hidden * seq_len / model.active_params


def prefill_flops(model: Model, input_tokens: float) -> float:
    """FLOPs of reading a prompt."""
    length = round(input_tokens)
    return FORWARD * model.active_params * input_tokens * (1 + attention_ratio(model, length))
