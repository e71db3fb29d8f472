"""Parameters from architecture: the published sizes of well-known models, from the numbers of their
configurations.

The configurations are those that the models' makers publish (`config.json`, or the table of the paper); the
sizes are what the makers, or the weights themselves, count.
"""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from carbon_otel.forecast.architecture import model_of


def llama(h, layers, heads, kv, ffn, vocab, kind="llama", **more):
    return {
        "model_type": kind,
        "hidden_size": h,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "intermediate_size": ffn,
        "vocab_size": vocab,
        **more,
    }


def gpt2(h, layers, heads):
    return {
        "model_type": "gpt2",
        "n_embd": h,
        "n_layer": layers,
        "n_head": heads,
        "n_positions": 1024 if h < 10_000 else 2048,
        "vocab_size": 50257,
    }


def bert(h, layers, heads):
    return {
        "model_type": "bert",
        "hidden_size": h,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": 4 * h,
        "vocab_size": 30522,
        "max_position_embeddings": 512,
        "type_vocab_size": 2,
    }


DEEPSEEK_V3 = llama(
    7168, 61, 128, 128, 18432, 129280, "deepseek_v3",
    q_lora_rank=1536, kv_lora_rank=512, qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128,
    n_routed_experts=256, n_shared_experts=1, num_experts_per_tok=8, moe_intermediate_size=2048,
    first_k_dense_replace=3,
)  # fmt: skip
GSHARD = {
    "model_type": "gpt2", "n_embd": 1024, "n_layer": 36, "n_head": 16, "head_dim": 128, "n_inner": 8192,
    "vocab_size": 64000, "num_experts": 2048, "num_experts_per_tok": 2, "decoder_sparse_step": 2,
}  # fmt: skip

# (model, configuration, billions of parameters, billions of active parameters or None, source of the sizes)
PUBLISHED = [
    ("GPT-2", gpt2(768, 12, 12), 0.12444, None, "weights (the paper's 117M was corrected to 124M)"),
    ("GPT-2 XL", gpt2(1600, 48, 25), 1.5576, None, "weights; its report says 1.5B"),
    ("GPT-3", gpt2(12288, 96, 96), 175, None, "arXiv 2005.14165, Table 2.1"),
    ("BERT-base", bert(768, 12, 12), 0.1095, None, "weights; arXiv 1810.04805 says 110M"),
    ("BERT-large", bert(1024, 24, 16), 0.3351, None, "weights; arXiv 1810.04805 says 340M"),
    (
        "T5-11B",
        {
            "model_type": "t5", "is_encoder_decoder": True, "d_model": 1024, "num_layers": 24,
            "num_decoder_layers": 24, "num_heads": 128, "d_kv": 128, "d_ff": 65536, "vocab_size": 32128,
        },
        11.307, None, "weights; arXiv 1910.10683 says 11B",
    ),
    ("Llama-2-7B", llama(4096, 32, 32, 32, 11008, 32000), 6.738, None, "weights"),
    ("Llama-2-70B", llama(8192, 80, 64, 8, 28672, 32000), 68.977, None, "weights"),
    ("Llama-3.1-8B", llama(4096, 32, 32, 8, 14336, 128256), 8.030, None, "model card"),
    ("Llama-3.1-405B", llama(16384, 126, 128, 8, 53248, 128256), 405.85, None, "weights"),
    ("Mistral-7B", llama(4096, 32, 32, 8, 14336, 32000, "mistral"), 7.242, None, "weights"),
    (
        "Mixtral-8x7B",
        llama(4096, 32, 32, 8, 14336, 32000, "mixtral", num_local_experts=8, num_experts_per_tok=2),
        46.70, 12.9, "arXiv 2401.04088: 47B, 13B active",
    ),
    ("DeepSeek-V3", DEEPSEEK_V3, 671.0, 37.55, "arXiv 2412.19437: 671B, 37B active (without an embedding)"),
    ("Qwen2.5-7B", llama(3584, 28, 28, 4, 18944, 152064, "qwen2"), 7.616, None, "model card: 7.61B"),
    (
        "Qwen3-30B-A3B",
        llama(
            2048, 48, 32, 4, 6144, 151936, "qwen3_moe", head_dim=128, num_experts=128,
            num_experts_per_tok=8, moe_intermediate_size=768,
        ),
        30.53, 3.35, "model card: 30.5B, 3.3B active",
    ),
    (
        "Qwen3-235B-A22B",
        llama(
            4096, 94, 64, 4, 12288, 151936, "qwen3_moe", head_dim=128, num_experts=128,
            num_experts_per_tok=8, moe_intermediate_size=1536,
        ),
        235.1, 22.2, "model card: 235B, 22B active",
    ),
    ("Gemma-2-27B", llama(4608, 46, 32, 16, 36864, 256000, "gemma2", head_dim=128), 27.227, None, "weights"),
    (
        "gpt-oss-120b",
        llama(
            2880, 36, 64, 8, 2880, 201088, "gpt_oss", head_dim=64, num_local_experts=128, num_experts_per_tok=4
        ),
        116.83, None, "model card: 116.83B",
    ),
    (
        "BLOOM",
        {"model_type": "bloom", "hidden_size": 14336, "n_layer": 70, "n_head": 112, "vocab_size": 250880},
        176.25, None, "arXiv 2211.05100: 176,247,271,424",
    ),
    (
        "OPT-175B",
        {
            "model_type": "opt", "hidden_size": 12288, "num_hidden_layers": 96, "num_attention_heads": 96,
            "ffn_dim": 49152, "vocab_size": 50272, "max_position_embeddings": 2048,
        },
        175, None, "arXiv 2205.01068",
    ),
    (
        "Pythia-12B",
        llama(5120, 36, 40, 40, 20480, 50688, "gpt_neox"),
        11.846, None, "arXiv 2304.01373, Table 1: 11,846,072,320",
    ),
    (
        "GPT-J-6B",
        {"model_type": "gptj", "n_embd": 4096, "n_layer": 28, "n_head": 16, "vocab_size": 50400},
        6.05, None, "model card: 6,053,381,344",
    ),
    (
        "Falcon-7B",
        {
            "model_type": "falcon", "hidden_size": 4544, "num_hidden_layers": 32, "num_attention_heads": 71,
            "vocab_size": 65024, "multi_query": True, "new_decoder_architecture": False,
        },
        6.92, None, "weights, with tied embeddings (7.22 with both)",
    ),
    ("Phi-3-mini", llama(3072, 32, 32, 32, 8192, 32064, "phi3"), 3.821, None, "model card: 3.8B"),
    ("GShard-600B", GSHARD, 619, None, "Patterson et al. 2021: 619B; arXiv 2006.16668"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "config", "billions", "active", "source"), PUBLISHED, ids=[row[0] for row in PUBLISHED]
)
def test_the_published_size_within_one_percent(name, config, billions, active, source):
    model = model_of(config)
    assert model.params / 1e9 == pytest.approx(billions, rel=0.01), source
    if active is not None:
        assert model.active_params / 1e9 == pytest.approx(active, rel=0.01), source
    assert (model.active_params < 0.5 * model.params) == ("experts" in json.dumps(config))


def test_at_least_twenty_models():
    assert len(PUBLISHED) >= 20


class TestSources:
    def test_numbers_and_their_texts(self):
        assert model_of("30B").params == model_of(30e9).params == 30e9
        mixture = model_of("671B", active=37e9)
        assert (mixture.active_params, mixture.params) == (37e9, 671e9)

    def test_a_file(self, tmp_path):
        folder = tmp_path / "Mistral-7B-v0.3"
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(llama(4096, 32, 32, 8, 14336, 32768, "mistral")))
        for path in (folder / "config.json", str(folder / "config.json")):
            model = model_of(path)
            assert (model.name, model.layers, model.hidden) == ("Mistral-7B-v0.3", 32, 4096)
            assert model.kv_values == 2 * 32 * 8 * 128

    def test_the_text_part_of_a_model_of_several_modalities(self):
        text = llama(4096, 32, 32, 8, 14336, 128256)
        assert model_of({"model_type": "llava", "text_config": text}).params == model_of(text).params

    def test_a_configuration_object(self):
        config = llama(4096, 32, 32, 8, 14336, 128256)
        assert model_of(SimpleNamespace(to_dict=lambda: config)) == model_of(config)

    def test_a_module_is_counted_and_its_configuration_tells_the_rest(self):
        config = PUBLISHED[11][1]  # Mixtral
        matrices = [
            SimpleNamespace(numel=lambda: 40_000_000_000),
            SimpleNamespace(numel=lambda: 6_000_000_000),
        ]
        module = SimpleNamespace(parameters=lambda: iter(matrices))
        assert model_of(module).params == model_of(module).active_params == 46e9
        module.config = SimpleNamespace(to_dict=lambda: config)
        model = model_of(module)
        assert model.params == 46e9
        assert model.active_params == pytest.approx(46e9 * 12.88 / 46.70, rel=0.01)
        assert model.layers == 32

    def test_latent_attention_keeps_one_vector_for_a_token(self):
        assert model_of(DEEPSEEK_V3).kv_values == 61 * 576

    @pytest.mark.parametrize(
        ("source", "message"),
        [
            (object(), "give a number such as"),
            ({"hidden_size": 8}, "lacks num_hidden_layers"),
            ({**llama(8, 2, 2, 2, 8, 8), "num_local_experts": 4}, "num_experts_per_tok"),
            ({**llama(8, 2, 2, 2, 8, 8), "mamba_d_state": 16}, "no attention"),
            (
                {**llama(8, 2, 2, 2, 8, 8), "layer_types": ["linear_attention", "full_attention"]},
                "no attention",
            ),
            ({**llama(8, 2, 2, 2, 8, 8), "num_hidden_groups": 1}, "share their parameters"),
            ({**llama(8, 2, 2, 2, 8, 8), "moe_num_experts": 64}, "experts in names"),
            ({**llama(8, 2, 2, 2, 8, 8), "hidden_size": float("nan")}, "hidden_size is nan"),
            ({**llama(8, 2, 2, 2, 8, 8), "hidden_size": "4k"}, "hidden_size is '4k'"),
            ({**llama(8, 2, 2, 2, 8, 8), "num_key_value_heads": [1, 2]}, "num_key_value_heads is"),
            ({**llama(8, 2, 2, 2, 8, 8), "vocab_size": -5}, "vocab_size is -5"),
            ({**llama(8, 2, 2, 2, 8, 8), "vocab_size": "32k"}, "vocab_size is '32k'"),
            ({**llama(8, 2, 2, 2, 8, 8), "kv_lora_rank": 4}, "qk_nope_head_dim"),
            ({**llama(8, 2, 2, 2, 8, 8), "image_size": 224}, "patch_size"),
            (
                {**llama(8, 2, 2, 2, 8, 8), "image_size": 224, "patch_size": 0},
                "give the parameters as a number",
            ),
            (
                {**llama(8, 2, 2, 2, 8, 8), "num_experts": 4, "num_experts_per_tok": 9},
                "at most all",
            ),
            (
                {
                    **llama(8, 2, 2, 2, 8, 8),
                    "num_experts": 4,
                    "num_experts_per_tok": 2,
                    "first_k_dense_replace": 9,
                },
                "-7 layers with experts",
            ),
            ("many", "30B"),
            (-1, "30B"),
            (float("nan"), "30B"),
            (SimpleNamespace(parameters=lambda: iter(())), "no parameters"),
        ],
    )
    def test_what_is_no_model_is_refused(self, source, message):
        with pytest.raises(ValueError, match=message):
            model_of(source)

    def test_more_active_than_all_parameters_are_refused(self):
        with pytest.raises(ValueError, match="at most all"):
            model_of("7B", active=8e9)

    @pytest.mark.parametrize("text", ["[1]", "{", ""])
    def test_a_file_that_is_no_configuration_is_refused_by_name(self, text, tmp_path):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ValueError, match=r"config\.json"):
            model_of(tmp_path / "config.json")
