"""Trainers, generation and pipelines of Transformers, on models of a few thousand parameters."""

from __future__ import annotations

import pickle
import threading

import pytest

import carbon_otel
from carbon_otel.instrumentation.tokens import tokens_of_mask
from tests.frameworks import books

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

LENGTH = 6
WORDS = 20


def rows(number: int) -> list[dict[str, object]]:
    ids = torch.arange(LENGTH) % WORDS
    return [{"input_ids": ids, "labels": ids} for _ in range(number)]


def language_model():
    config = transformers.GPT2Config(
        vocab_size=WORDS,
        n_positions=32,
        n_embd=8,
        n_layer=1,
        n_head=2,
        bos_token_id=0,
        eos_token_id=None,
        pad_token_id=0,
    )
    return transformers.GPT2LMHeadModel(config)


def trainer(folder, model=None, callbacks=(), made=None, **arguments):
    settings = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 4,
        "num_train_epochs": 2,
        "report_to": [],
        "save_strategy": "no",
        "use_cpu": True,
        "disable_tqdm": True,
        **arguments,
    }
    return (made or transformers.Trainer)(
        model=model or language_model(),
        args=transformers.TrainingArguments(**settings),
        train_dataset=rows(10),
        eval_dataset=rows(3),
        callbacks=list(callbacks),
    )


def outline(stages) -> list[tuple[str, str, str | None]]:
    return [(each.kind, each.name, each.parent) for each in stages.ended()]


EPOCHS = [
    ("training", "epoch 1", "Trainer.train"),
    ("training", "epoch 2", "Trainer.train"),
    ("training", "Trainer.train", None),
]


def test_a_training_its_epochs_and_its_evaluations(stages, tmp_path):
    made = trainer(tmp_path, eval_strategy="epoch")
    made.train()
    made.evaluate()
    made.predict(rows(5))
    ended = books.check(stages)
    assert [(each.kind, each.name, each.parent) for each in ended] == [
        ("training", "epoch 1", "Trainer.train"),
        ("evaluation", "Trainer.evaluate", "Trainer.train"),
        ("training", "epoch 2", "Trainer.train"),
        ("evaluation", "Trainer.evaluate", "Trainer.train"),
        ("training", "Trainer.train", None),
        ("evaluation", "Trainer.evaluate", None),
        ("inference", "Trainer.predict", None),
    ]
    assert [dict(each.units) for each in ended[3:]] == [
        {"samples": 3},
        {"epochs": 2, "steps": 6, "samples": 20, "tokens": 20 * LENGTH},
        {"samples": 3},
        {"samples": 5},
    ]


def test_tokens_that_the_trainer_counts(stages, tmp_path):
    trainer(tmp_path, include_num_input_tokens_seen="all", num_train_epochs=1).train()
    assert stages()[-1][2]["tokens"] == 10 * LENGTH


def test_a_continued_training_counts_its_own_part(stages, tmp_path):
    trainer(tmp_path, save_strategy="epoch", num_train_epochs=1).train()
    stages()
    made = trainer(tmp_path, save_strategy="epoch", num_train_epochs=3)
    made.train(resume_from_checkpoint=True)
    assert stages() == [
        ("training", "epoch 2", {}),
        ("training", "epoch 3", {}),
        ("training", "Trainer.train", {"epochs": 2, "steps": 6, "samples": 20, "tokens": 20 * LENGTH}),
    ]


def padded_rows(lengths: list[int]) -> list[dict[str, object]]:
    """Rows of one length, of which the first tokens are none of the padding."""
    ids = torch.arange(LENGTH) % WORDS
    return [
        {"input_ids": ids, "labels": ids, "attention_mask": (torch.arange(LENGTH) < length).long()}
        for length in lengths
    ]


LENGTHS = [1, 2, 3, 4, 5, 6, 1, 2, 3, 4]


class TestTokensWithoutPadding:
    def train(self, folder, data, **arguments):
        made = trainer(folder, data_seed=0, **arguments)
        made.train_dataset = data
        # In their order.
        made._get_train_sampler = lambda *_: torch.utils.data.SequentialSampler(data)
        made.train()
        return made

    def test_of_each_epoch(self, stages, tmp_path):
        self.train(tmp_path, padded_rows(LENGTHS), eval_strategy="epoch")
        assert stages()[-1][2]["tokens"] == 2 * sum(LENGTHS)

    def test_what_is_read_ahead_is_not_counted(self, stages, tmp_path):
        self.train(tmp_path, padded_rows(LENGTHS), max_steps=2)
        assert stages()[-1][2]["tokens"] == sum(LENGTHS[:8])

    def test_of_a_part_of_a_step(self, stages, tmp_path):
        self.train(tmp_path, padded_rows(LENGTHS), gradient_accumulation_steps=2, num_train_epochs=1)
        assert stages()[-1][2]["tokens"] == sum(LENGTHS)

    def test_batches_that_do_not_tell_have_positions(self, stages, tmp_path):
        data = [{**row, "attention_mask": row["attention_mask"].float()} for row in padded_rows(LENGTHS)]
        self.train(tmp_path, data, num_train_epochs=1)
        units = stages()[-1][2]
        assert "tokens" not in units and units["padded_tokens"] == 10 * LENGTH


def test_the_automatic_stages_have_what_manual_ones_around_the_lines_have(stages, tmp_path):
    made = trainer(tmp_path)
    with carbon_otel.stage("lines", "train"):
        made.train()
    with carbon_otel.stage("lines", "generate"):
        made.model.generate(torch.ones(1, 3, dtype=torch.long), max_new_tokens=4)
    ended = books.check(stages)
    assert [(each.name, each.parent) for each in ended if each.kind != "lines"][2:] == [
        ("Trainer.train", "train"),
        ("GPT2LMHeadModel.generate", "generate"),
    ]


def test_a_stage_of_the_user_has_the_units(stages, tmp_path):
    with carbon_otel.stage("training", "mine"):
        trainer(tmp_path, eval_strategy="epoch").train()
    assert stages() == [("training", "mine", {"epochs": 2, "steps": 6, "samples": 20, "tokens": 20 * LENGTH})]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_interrupted_training_ends_its_stages(stages, tmp_path, error):
    class Raises(transformers.TrainerCallback):
        def __init__(self, event):
            setattr(self, event, self.interrupt)

        def interrupt(self, *_, **__):
            raise error("by the user")

    for event in "on_epoch_end", "on_step_end":
        with pytest.raises(error, match="by the user"):
            trainer(tmp_path, callbacks=[Raises(event)]).train()
        ended = stages.ended()
        assert [(each.kind, each.name, each.parent) for each in ended] == [EPOCHS[0], EPOCHS[2]]
        done = 3 if event == "on_epoch_end" else 1
        assert ended[1].units["steps"] == done and ended[1].units["epochs"] == pytest.approx(done / 3)
        assert ended[1].units["samples"] == round(10 * done / 3) and ended[1].units["tokens"] > 0
    language_model().generate(torch.ones(1, 3, dtype=torch.long), max_new_tokens=1)
    assert outline(stages) == [("inference", "GPT2LMHeadModel.generate", None)]


def test_a_subclass_and_the_list_of_callbacks(stages, tmp_path):
    class Mine(transformers.Trainer):
        def train(self, *args, **kwargs):
            return super().train(*args, **kwargs)

    made = trainer(tmp_path, made=Mine)
    before = list(made.callback_handler.callbacks)
    made.train()
    assert made.callback_handler.callbacks == before
    assert pickle.loads(pickle.dumps(made.model)).num_parameters() == made.model.num_parameters()
    assert [each.name for each in stages.ended()] == ["epoch 1", "epoch 2", "Mine.train"]


class TestGenerate:
    def test_tokens_in_and_out(self, stages):
        model = language_model()
        prompts = torch.ones(2, 3, dtype=torch.long)
        model.generate(prompts, max_new_tokens=4)
        model.generate(input_ids=prompts, max_new_tokens=4, return_dict_in_generate=True)
        model.generate(prompts, max_new_tokens=4, do_sample=True, num_return_sequences=3)
        once = {"samples": 2, "input_tokens": 6, "output_tokens": 8, "tokens": 14}
        assert [units for _, _, units in stages()] == [
            once,
            once,
            {"samples": 2, "input_tokens": 6, "output_tokens": 24, "tokens": 30},
        ]

    def test_prompts_without_their_padding(self, stages):
        model = language_model()
        prompts = torch.ones(2, 3, dtype=torch.long)
        model.generate(prompts, attention_mask=torch.tensor([[0, 1, 1], [0, 0, 1]]), max_new_tokens=4)
        # As if the mask were on an accelerator.
        hidden = torch.ones(2, 3, dtype=torch.long, device="meta")
        assert tokens_of_mask(hidden) is None
        assert [units for _, _, units in stages()] == [
            {"samples": 2, "input_tokens": 3, "output_tokens": 8, "tokens": 11}
        ]

    def test_an_encoder_and_a_decoder(self, stages):
        model = transformers.T5ForConditionalGeneration(
            transformers.T5Config(
                vocab_size=WORDS,
                d_model=8,
                d_kv=4,
                d_ff=8,
                num_layers=1,
                num_heads=2,
                decoder_start_token_id=0,
                eos_token_id=None,
            )
        )
        model.generate(torch.ones(2, 3, dtype=torch.long), max_new_tokens=5)
        assert stages() == [
            (
                "inference",
                "T5ForConditionalGeneration.generate",
                {"samples": 2, "input_tokens": 6, "output_tokens": 10, "tokens": 16},
            )
        ]

    def test_in_a_thread_of_the_user(self, stages):
        model = language_model()
        with carbon_otel.stage("serving"):
            thread = threading.Thread(
                target=model.generate,
                args=(torch.ones(1, 3, dtype=torch.long),),
                kwargs={"max_new_tokens": 2},
            )
            thread.start()
            thread.join()
        assert outline(stages) == [
            ("inference", "GPT2LMHeadModel.generate", "serving"),
            ("serving", "serving", None),
        ]


class TestPipeline:
    @pytest.fixture
    def pipe(self):
        tokenizers = pytest.importorskip("tokenizers")
        words = {f"w{number}": number for number in range(WORDS)}
        model = tokenizers.models.WordLevel(words, unk_token="w0")
        fast = tokenizers.Tokenizer(model)
        fast.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
        tokenizer = transformers.PreTrainedTokenizerFast(
            tokenizer_object=fast, unk_token="w0", pad_token="w0", eos_token="w1"
        )
        return transformers.pipeline("text-generation", model=language_model(), tokenizer=tokenizer)

    def test_results_that_are_returned(self, stages, pipe):
        assert len(pipe(["w1 w2", "w3 w4"], max_new_tokens=3)) == 2
        pipe("w1 w2", max_new_tokens=3)
        assert stages() == [
            (
                "inference",
                "TextGenerationPipeline",
                {"samples": 2, "input_tokens": 4, "output_tokens": 6, "tokens": 10},
            ),
            (
                "inference",
                "TextGenerationPipeline",
                {"samples": 1, "input_tokens": 2, "output_tokens": 3, "tokens": 5},
            ),
        ]

    def test_an_iterator_is_no_stage_of_the_pipeline_and_keeps_its_type(self, stages, pipe):
        iterator = pipe((text for text in ["w1 w2", "w3 w4"]), max_new_tokens=3)
        assert type(iterator).__name__ == "PipelineIterator"
        assert stages() == []
        list(iterator)
        # The iterator takes its batches from a DataLoader, which on a busy machine may take a while.
        names = [name for _, name, _ in stages() if name != "DataLoader"]
        assert names == [*2 * ["GPT2LMHeadModel.generate"], "inference"]
