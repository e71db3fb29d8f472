"""Trainers of TRL: each is a trainer of Transformers, which counts once, with the tokens of its batches."""

from __future__ import annotations

import copy

import pytest

from tests.frameworks import books

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
datasets = pytest.importorskip("datasets")
trl = pytest.importorskip("trl")
tokenizers = pytest.importorskip("tokenizers")

WORDS = 20
TEXTS = ["w2", "w3 w4", "w5 w6 w7", "w8 w9 w2 w3"]
TOKENS = sum(len(text.split()) + 1 for text in TEXTS)  # with the one that ends each text


@pytest.fixture
def parts():
    """A model and its tokeniser."""
    words = {f"w{number}": number for number in range(WORDS)}
    fast = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w0"))
    fast.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=fast, unk_token="w0", pad_token="w0", eos_token="w1"
    )
    config = transformers.GPT2Config(
        vocab_size=WORDS,
        n_positions=32,
        n_embd=8,
        n_layer=1,
        n_head=2,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=0,
    )
    return transformers.GPT2LMHeadModel(config), tokenizer


def arguments(kind, folder, **more):
    return kind(
        output_dir=str(folder),
        per_device_train_batch_size=2,
        num_train_epochs=2,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        bf16=False,
        disable_tqdm=True,
        gradient_checkpointing=False,
        **more,
    )


def test_supervised_training(stages, tmp_path, parts):
    model, tokenizer = parts
    rows = datasets.Dataset.from_dict({"text": TEXTS})
    made = trl.SFTTrainer(
        model=model, args=arguments(trl.SFTConfig, tmp_path), train_dataset=rows, processing_class=tokenizer
    )
    made.train()
    trained = [each for each in books.check(stages) if each.kind == "training"]
    assert [(each.name, each.parent) for each in trained] == [
        ("epoch 1", "SFTTrainer.train"),
        ("epoch 2", "SFTTrainer.train"),
        ("SFTTrainer.train", None),
    ]
    assert dict(trained[-1].units) == {"epochs": 2, "steps": 4, "samples": 8, "tokens": 2 * TOKENS}


def test_preferences(stages, tmp_path, parts):
    model, tokenizer = parts
    rows = datasets.Dataset.from_dict({"prompt": TEXTS, "chosen": [" w2"] * 4, "rejected": [" w3 w4"] * 4})
    made = trl.DPOTrainer(
        model=model,
        ref_model=copy.deepcopy(model),
        args=arguments(trl.DPOConfig, tmp_path),
        train_dataset=rows,
        processing_class=tokenizer,
    )
    made.train()
    trained = [each for each in books.check(stages) if each.kind == "training"]
    assert [each.name for each in trained] == ["epoch 1", "epoch 2", "DPOTrainer.train"]
    # A prompt is read with either answer.
    either = sum(2 * len(text.split()) + 1 + 2 + 2 for text in TEXTS)
    assert dict(trained[-1].units) == {"epochs": 2, "steps": 4, "samples": 8, "tokens": 2 * either}
