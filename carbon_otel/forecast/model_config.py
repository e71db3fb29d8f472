"""A model's shape, from its configuration as Transformers writes it (`config.json`)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from carbon_otel.forecast.shape import Experts, LatentAttention, Shape


class _Family(NamedTuple):
    """What a configuration leaves to the code of its model."""

    gated: bool
    tied: bool
    bias: bool = False
    qkv_bias: bool = False
    learned_positions: bool = False


_LLAMA: Final = _Family(gated=True, tied=False)
_GPT2: Final = _Family(gated=False, tied=True, bias=True, learned_positions=True)
_BERT: Final = _GPT2
# By `model_type`; the defaults of Transformers' classes, where a configuration does not say it.
_FAMILIES: Final[Mapping[str, _Family]] = {
    "gpt2": _GPT2,
    "gpt_bigcode": _GPT2,
    "gpt_neo": _GPT2,
    "opt": _GPT2,
    "bloom": _Family(gated=False, tied=True, bias=True),
    "falcon": _Family(gated=False, tied=True),
    "mpt": _Family(gated=False, tied=True),
    "gpt_neox": _Family(gated=False, tied=False, bias=True),
    "gptj": _Family(gated=False, tied=False, bias=True),
    "phi": _Family(gated=False, tied=False, bias=True),
    "starcoder2": _Family(gated=False, tied=True, bias=True),
    "nemotron": _Family(gated=False, tied=False),
    **dict.fromkeys(
        ("bert", "roberta", "xlm-roberta", "camembert", "electra", "distilbert", "deberta-v2"), _BERT
    ),
    "modernbert": _Family(gated=True, tied=True),
    "esm": _BERT,
    "vit": _BERT,
    "dinov2": _BERT,
    **dict.fromkeys(("t5", "mt5", "umt5"), _Family(gated=False, tied=True)),
    **dict.fromkeys(("gemma", "gemma2", "gemma3_text", "cohere", "cohere2"), _Family(gated=True, tied=True)),
    **dict.fromkeys(("qwen2", "qwen2_moe"), _Family(gated=True, tied=False, qkv_bias=True)),
    "gpt_oss": _Family(gated=True, tied=False, bias=True),
}
# The names that configurations have for one thing, in the order in which they are looked for.
_NAMES: Final[Mapping[str, tuple[str, ...]]] = {
    "hidden": ("hidden_size", "d_model", "n_embd", "dim", "embed_dim"),
    "layers": ("num_hidden_layers", "n_layer", "num_layers", "n_layers"),
    "heads": ("num_attention_heads", "n_head", "num_heads", "n_heads"),
    "kv_heads": ("num_key_value_heads", "num_kv_heads"),
    "head_dim": ("head_dim", "d_kv"),
    "ffn": ("intermediate_size", "ffn_dim", "d_ff", "n_inner", "hidden_dim", "ffn_hidden_size"),
    "vocab": ("vocab_size",),
    "positions": ("max_position_embeddings", "n_positions", "seq_length", "max_seq_len"),
    "experts": ("num_local_experts", "n_routed_experts", "num_experts"),
    "per_token": ("num_experts_per_tok", "num_experts_per_token", "moe_topk"),
    "expert_ffn": ("moe_intermediate_size", "expert_ffn_hidden_size"),
}


def shape_of(config: Mapping[str, Any]) -> Shape:
    """The shape that a configuration describes. Of a model of several modalities, that of its text part.

    Raises:
        ValueError: if it lacks what the size depends on; the message names it.
    """
    if isinstance(config.get("text_config"), Mapping):
        config = {"model_type": config.get("model_type"), **config["text_config"]}
    _refuse_other_architectures(config)
    family = _family(config)
    hidden, layers, heads = (_needed(config, name) for name in ("hidden", "layers", "heads"))
    inner = _value(config, "ffn") or _default_ffn(config, hidden)
    decoder_layers = config.get("num_decoder_layers") or layers
    encoder = bool(config.get("is_encoder_decoder"))
    return Shape(
        hidden=hidden,
        layers=decoder_layers if encoder else layers,
        heads=heads,
        kv_heads=_kv_heads(config, heads),
        head_dim=_value(config, "head_dim") or hidden // heads,
        ffn=int(config.get("intermediate_size_mlp") or inner),
        gated=str(config.get("feed_forward_proj", "")).startswith("gated") or family.gated,
        vocab=0 if "image_size" in config else _value(config, "vocab") or 0,
        embedding=int(config.get("embedding_size") or hidden),
        tied=bool(config.get("tie_word_embeddings", family.tied)),
        positions=_positions(config, family),
        bias=family.bias,
        qkv_bias=bool(config.get("attention_bias") or config.get("qkv_bias") or family.qkv_bias),
        encoder_layers=layers if encoder else 0,
        experts=_experts(config, layers, inner),
        latent=_latent(config),
        patch=int(config.get("num_channels", 3)) * int(config.get("patch_size", 0)) ** 2,
    )


def context_of(config: Mapping[str, Any]) -> int | None:
    """The longest sequence of a configuration, in tokens."""
    text = config.get("text_config")
    return _value(text if isinstance(text, Mapping) else config, "positions")


def _family(config: Mapping[str, Any]) -> _Family:
    return _FAMILIES.get(str(config.get("model_type")).lower(), _LLAMA)


def _value(config: Mapping[str, Any], name: str) -> int | None:
    for key in _NAMES[name]:
        value = config.get(key)
        if value is None or isinstance(value, bool):
            continue
        if not isinstance(value, int | float) or not 0 <= value < math.inf:
            raise ValueError(f"{key} is {value!r}; give the parameters as a number, or the module itself")
        return int(value)
    return None


def _needed(config: Mapping[str, Any], name: str) -> int:
    value = _value(config, name)
    if value is None or value <= 0:
        raise ValueError(
            f"the configuration lacks {' or '.join(_NAMES[name][:3])}; give the parameters as a number"
        )
    return value


def _default_ffn(config: Mapping[str, Any], hidden: int) -> int:
    ratio = config.get("expansion_ratio") or config.get("mlp_ratio") or 4
    return int(ratio * hidden)


def _kv_heads(config: Mapping[str, Any], heads: int) -> int:
    if config.get("multi_query") and not config.get("new_decoder_architecture"):
        return 1
    return _value(config, "kv_heads") or heads


def _positions(config: Mapping[str, Any], family: _Family) -> int:
    if "image_size" in config:
        return (int(config["image_size"]) // int(config["patch_size"])) ** 2 + 1
    learned = family.learned_positions and config.get("position_embedding_type") not in ("rotary", "alibi")
    return (_value(config, "positions") or 0) + int(config.get("type_vocab_size") or 0) if learned else 0


def _refuse_other_architectures(config: Mapping[str, Any]) -> None:
    """Refuse what would be counted wrongly: layers that are no attention, shared layers, unknown experts."""
    kinds = {str(kind) for kind in config.get("layer_types") or config.get("layers_block_type") or ()}
    names = {name for name, value in config.items() if value not in (None, False, 0, 1)}
    reason = ""
    if any("mamba" in name or name in ("state_size", "ssm_cfg") for name in names) or any(
        "mamba" in kind or "linear" in kind or "recurrent" in kind for kind in kinds
    ):
        reason = "layers that are no attention"
    elif "num_hidden_groups" in config:
        reason = "layers that share their parameters"
    elif _value(config, "experts") is None and any("experts" in name for name in names):
        reason = "experts in names that are not known here"
    if reason:
        raise ValueError(
            f"the configuration has {reason}; give the parameters as a number, or the module itself (torch's meta "
            "device needs no memory)"
        )


def _experts(config: Mapping[str, Any], layers: int, ffn: int) -> Experts | None:
    count = _value(config, "experts")
    if not count or count == 1:
        return None
    per_token = _value(config, "per_token")
    if per_token is None:
        raise ValueError(
            "the configuration has experts but no num_experts_per_tok; give active parameters too"
        )
    width = _value(config, "expert_ffn") or ffn
    shared = config.get("shared_expert_intermediate_size") or width * int(config.get("n_shared_experts") or 0)
    if (
        "intermediate_size_mlp" in config
    ):  # Llama 4: that is the width of dense layers, and one expert is shared
        shared = width
    step = int(config.get("decoder_sparse_step") or config.get("interleave_moe_layer_step") or 1)
    first = int(config.get("first_k_dense_replace") or 0)
    dense = len(config.get("mlp_only_layers") or ())
    sparse = (layers - first) // step - dense
    if sparse < 0:
        raise ValueError(
            f"the configuration has {sparse} layers with experts; give the parameters as a number"
        )
    return Experts(count, per_token, width, int(shared), sparse)


def _latent(config: Mapping[str, Any]) -> LatentAttention | None:
    if not config.get("kv_lora_rank"):
        return None
    return LatentAttention(
        q_rank=config.get("q_lora_rank"),
        kv_rank=config["kv_lora_rank"],
        nope_dim=config["qk_nope_head_dim"],
        rope_dim=config["qk_rope_head_dim"],
        v_dim=config["v_head_dim"],
    )
