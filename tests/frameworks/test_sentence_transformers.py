"""sentence-transformers, on models that are made here."""

from __future__ import annotations

import pickle

import pytest

import carbon_otel
from tests.frameworks import books

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
library = pytest.importorskip("sentence_transformers")

WORDS = {f"w{number}": number for number in range(20)}


def tokenizer():
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(WORDS, unk_token="w0"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return made


@pytest.fixture
def encoder():
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    return library.SentenceTransformer(modules=[StaticEmbedding(tokenizer(), embedding_dim=8)], device="cpu")


@pytest.fixture
def pairs(tmp_path):
    config = transformers.BertConfig(
        vocab_size=20,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        num_labels=1,
    )
    transformers.BertForSequenceClassification(config).save_pretrained(tmp_path)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer(), unk_token="w0", pad_token="w0", model_max_length=32
    ).save_pretrained(tmp_path)
    return library.CrossEncoder(str(tmp_path), device="cpu", local_files_only=True)


def test_encoders_count_their_samples(stages, encoder):
    encoder.encode(["w1 w2", "w3", "w4"])
    encoder.encode("w1")
    encoder.encode_query(["w1", "w2"])
    encoder.encode([])
    assert stages() == [
        ("inference", "SentenceTransformer.encode", {"samples": 3}),
        ("inference", "SentenceTransformer.encode", {"samples": 1}),
        ("inference", "SentenceTransformer.encode", {"samples": 2}),
        ("inference", "SentenceTransformer.encode", {"samples": 0}),
    ]


def test_a_cross_encoder_and_its_ranking(stages, pairs):
    pairs.predict([("w1", "w2"), ("w1", "w3")])
    pairs.predict(("w1", "w2"))
    pairs.rank("w1", ["w2", "w3", "w4"])
    assert stages() == [
        ("inference", "CrossEncoder.predict", {"samples": 2}),
        ("inference", "CrossEncoder.predict", {"samples": 1}),
        ("inference", "CrossEncoder.rank", {"samples": 3}),
    ]


def test_a_trainer_upon_a_trainer_counts_once(stages, encoder, tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = {"anchor": ["w1 w2", "w3"] * 4, "positive": ["w1", "w4"] * 4}
    trainer = library.SentenceTransformerTrainer(
        model=encoder,
        args=library.SentenceTransformerTrainingArguments(
            output_dir=str(tmp_path),
            num_train_epochs=2,
            per_device_train_batch_size=4,
            report_to=[],
            save_strategy="no",
            eval_strategy="epoch",
            use_cpu=True,
            disable_tqdm=True,
        ),
        train_dataset=datasets.Dataset.from_dict(rows),
        eval_dataset=datasets.Dataset.from_dict(rows),
        loss=library.sentence_transformer.losses.MultipleNegativesRankingLoss(encoder),
    )
    books.check(stages)
    trainer.train()
    ended = stages.ended()
    assert [(each.kind, each.name, each.parent) for each in ended] == [
        ("training", "epoch 1", "SentenceTransformerTrainer.train"),
        ("evaluation", "SentenceTransformerTrainer.evaluate", "SentenceTransformerTrainer.train"),
        ("training", "epoch 2", "SentenceTransformerTrainer.train"),
        ("evaluation", "SentenceTransformerTrainer.evaluate", "SentenceTransformerTrainer.train"),
        ("training", "SentenceTransformerTrainer.train", None),
    ]
    assert ended[-1].units == {"epochs": 2, "steps": 4, "samples": 16}


def test_the_automatic_stages_have_what_manual_ones_around_the_lines_have(stages, encoder):
    with carbon_otel.stage("lines", "encode"):
        encoder.encode(["w1"] * 100)
    ended = books.check(stages)
    assert [(each.name, each.parent) for each in ended] == [
        ("SentenceTransformer.encode", "encode"),
        ("encode", None),
    ]


def test_errors_and_interruptions_end_the_stage(stages, encoder, monkeypatch):
    for error in ValueError, KeyboardInterrupt:

        def interrupt(*_, raised=error, **__):
            raise raised("by the user")

        monkeypatch.setattr(encoder[0], "forward", interrupt)
        with pytest.raises(error, match="by the user"):
            encoder.encode(["w1"])
    monkeypatch.undo()
    encoder.encode(["w1"])
    assert [(each.name, each.parent) for each in stages.ended()] == 3 * [("SentenceTransformer.encode", None)]


def test_a_subclass_and_its_pickle(stages, encoder):
    copy = pickle.loads(pickle.dumps(encoder))
    copy.encode(["w1"])

    class Mine(library.SentenceTransformer):
        def encode(self, *args, **kwargs):
            return super().encode(*args, **kwargs)

    Mine(modules=list(encoder), device="cpu").encode(["w1"])
    assert [each.name for each in stages.ended()] == ["SentenceTransformer.encode", "Mine.encode"]
