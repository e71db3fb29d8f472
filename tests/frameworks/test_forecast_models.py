"""Parameters from configurations against Transformers' own models, on torch's meta device without memory."""

from __future__ import annotations

import pytest

from carbon_otel.forecast.architecture import model_of

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

DECODERS = """
llama mistral mixtral qwen2 qwen2_moe qwen3 qwen3_moe gemma gemma2 gemma3_text phi phi3 gpt2 gpt_neo gpt_neox gptj
opt bloom falcon mpt starcoder2 gpt_bigcode cohere olmo olmo2 granite granitemoe stablelm deepseek_v3 gpt_oss
llama4_text glm4 smollm3 olmoe exaone4
"""
OTHERS = {
    **dict.fromkeys(("bert", "roberta", "distilbert", "electra", "modernbert"), "AutoModelForMaskedLM"),
    **dict.fromkeys(("t5", "mt5"), "AutoModelForSeq2SeqLM"),
    **dict.fromkeys(("vit", "dinov2"), "AutoModel"),
}
KINDS = {**dict.fromkeys(DECODERS.split(), "AutoModelForCausalLM"), **OTHERS}


@pytest.mark.parametrize("kind", KINDS)
def test_the_default_configuration_of_each_kind_within_one_percent(kind):
    try:
        config = transformers.AutoConfig.for_model(kind)
    except ValueError:
        pytest.skip(f"this version of Transformers has no {kind}")
    with torch.device("meta"):
        module = getattr(transformers, KINDS[kind]).from_config(config)
    counted = sum(parameter.numel() for parameter in module.parameters())
    described, loaded = model_of(config), model_of(module)
    assert described.params == pytest.approx(counted, rel=0.01)
    assert loaded.params == counted
    assert loaded.active_params == pytest.approx(described.active_params, rel=0.01)
    assert (loaded.layers, loaded.hidden) == (described.layers, described.hidden)


@pytest.mark.parametrize("kind", ["mamba", "jamba"])
def test_layers_that_are_no_attention_are_refused_from_a_configuration(kind):
    with pytest.raises(ValueError, match="give the parameters as a number"):
        model_of(transformers.AutoConfig.for_model(kind))


def test_any_module_is_counted():
    with torch.device("meta"):
        module = torch.nn.Linear(1000, 1000)
    assert model_of(module).params == 1_001_000
