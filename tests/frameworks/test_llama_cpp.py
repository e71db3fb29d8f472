"""llama-cpp-python, on a model of a few thousand random weights that a test writes."""

from __future__ import annotations

import gc
import types

import pytest

import carbon_otel
from carbon_otel.stages.open_stage import current
from tests.frameworks import books

pytestmark = pytest.mark.apart

WORDS, WIDTH, INNER, CONTEXT = 300, 16, 32, 256
PROMPT = "word"
COMPLETION = "Llama.create_completion"


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A model in the architecture of Llama, with a tokeniser that knows single bytes."""
    gguf, np = pytest.importorskip("gguf"), pytest.importorskip("numpy")
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    made = gguf.GGUFWriter(path, "llama")
    made.add_context_length(CONTEXT)
    made.add_embedding_length(WIDTH)
    made.add_block_count(1)
    made.add_feed_forward_length(INNER)
    made.add_head_count(2)
    made.add_layer_norm_rms_eps(1e-5)
    made.add_rope_dimension_count(WIDTH // 2)
    made.add_vocab_size(WORDS)
    made.add_tokenizer_model("llama")
    special = ["<unk>", "<s>", "</s>"]
    letters = [f"<0x{byte:02X}>" for byte in range(256)]
    others = [f"w{number}" for number in range(WORDS - len(special) - len(letters))]
    made.add_token_list([*special, *letters, *others])
    made.add_token_scores([0.0] * WORDS)
    made.add_token_types([2, 3, 3, *[6] * len(letters), *[1] * len(others)])
    made.add_bos_token_id(1)
    made.add_eos_token_id(2)
    made.add_unk_token_id(0)
    random = np.random.default_rng(0)
    shapes = {
        "token_embd": (WORDS, WIDTH),
        "output": (WORDS, WIDTH),
        **{f"blk.0.attn_{part}": (WIDTH, WIDTH) for part in ("q", "k", "v", "output")},
        "blk.0.ffn_gate": (INNER, WIDTH),
        "blk.0.ffn_up": (INNER, WIDTH),
        "blk.0.ffn_down": (WIDTH, INNER),
    }
    for name, shape in shapes.items():
        made.add_tensor(f"{name}.weight", random.standard_normal(shape, dtype=np.float32) / 10)
    for name in "output_norm", "blk.0.attn_norm", "blk.0.ffn_norm":
        made.add_tensor(f"{name}.weight", np.ones(WIDTH, dtype=np.float32))
    made.write_header_to_file()
    made.write_kv_data_to_file()
    made.write_tensors_to_file()
    made.close()
    return str(path)


@pytest.fixture
def model(stages, file):
    return load(file)


def load(file, **options):
    llama_cpp = pytest.importorskip("llama_cpp")
    return llama_cpp.Llama(file, n_ctx=CONTEXT, n_threads=1, verbose=False, **options)


def units(usage) -> dict[str, float]:
    return {
        "requests": 1,
        "input_tokens": usage["prompt_tokens"],
        "output_tokens": usage["completion_tokens"],
        "tokens": usage["total_tokens"],
    }


# The token that ends the text comes never, or at once.
NEVER, AT_ONCE = {2: -1000.0}, {2: 1000.0}


def test_completions_and_chats(stages, model):
    complete = model.create_completion(PROMPT, max_tokens=5, logit_bias=NEVER)
    called = model(PROMPT, max_tokens=3, logit_bias=NEVER)
    chat = model.create_chat_completion([{"role": "user", "content": PROMPT}], max_tokens=4)
    ended = books.check(stages)
    assert [(each.kind, each.name, each.parent, dict(each.units)) for each in ended] == [
        ("inference", COMPLETION, None, units(complete["usage"])),
        ("inference", "Llama", None, units(called["usage"])),
        ("inference", "Llama.create_chat_completion", None, units(chat["usage"])),
    ]


@pytest.mark.parametrize("bias", [NEVER, AT_ONCE])
def test_a_stream_counts_what_the_same_call_counts(stages, file, bias):
    usage = load(file).create_completion(PROMPT, max_tokens=5, logit_bias=bias)["usage"]
    stages()
    for method in "create_completion", "__call__":
        stream = getattr(load(file), method)(PROMPT, max_tokens=5, logit_bias=bias, stream=True)
        assert type(stream) is types.GeneratorType
        assert stages() == []
        list(stream)
        ((kind, _, counted),) = stages()
        assert (kind, counted) == ("inference", units(usage))


def test_what_the_model_has_read_before_is_part_of_the_prompt(stages, model):
    usages = [model(PROMPT, max_tokens=2, logit_bias=NEVER)["usage"]]
    for more in "", " and", " and more":
        usages.append(model(PROMPT + more, max_tokens=2, logit_bias=NEVER)["usage"])
        list(model(PROMPT + more, max_tokens=2, logit_bias=NEVER, stream=True))
        usages.append(usages[-1])
    assert [counted for _, _, counted in stages()] == [units(usage) for usage in usages]


def test_a_chat_that_is_streamed(stages, file):
    chat = {"messages": [{"role": "user", "content": PROMPT}], "max_tokens": 4, "logit_bias": NEVER}
    usage = load(file).create_chat_completion(**chat)["usage"]
    list(load(file).create_chat_completion(**chat, stream=True))
    assert stages() == 2 * [("inference", "Llama.create_chat_completion", units(usage))]


def test_a_stream_does_not_pay_for_its_reader(stages, model):
    with carbon_otel.stage("reading", "reader"):
        for _ in model(PROMPT, max_tokens=3, logit_bias=NEVER, stream=True):
            assert current.get().info.name == "reader"
    inner, outer = books.check(stages)
    assert (inner.name, inner.parent, outer.name) == ("Llama", "reader", "reader")


@pytest.mark.parametrize("leave", ["close", "drop", "raise"])
def test_a_stream_that_is_left_early_ends(stages, model, leave):
    stream = model(PROMPT, max_tokens=9, logit_bias=NEVER, stream=True)
    next(stream)
    if leave == "close":
        stream.close()
    elif leave == "raise":
        with pytest.raises(KeyboardInterrupt):
            stream.throw(KeyboardInterrupt)
    del stream
    gc.collect()
    ((_, name, counted),) = stages()
    assert name == "Llama" and 1 <= counted["output_tokens"] < 9
    # The model is as free as without us.
    model(PROMPT, max_tokens=1)
    assert len(stages()) == 1


def test_a_stream_that_nobody_reads_has_no_tokens(stages, model):
    model(PROMPT, max_tokens=9, stream=True)
    gc.collect()
    assert stages() == [("inference", "Llama", {})]


def test_streams_in_turn_count_their_own(stages, file):
    streams = [load(file)(PROMPT + more, max_tokens=3, logit_bias=NEVER, stream=True) for more in ("", "s")]
    for _ in zip(*streams, strict=False):
        pass
    for stream in streams:
        list(stream)
    first, second = (counted for _, _, counted in stages())
    assert first["output_tokens"] == second["output_tokens"] == 3
    assert second["input_tokens"] == first["input_tokens"] + 1


def test_a_stage_of_the_user_has_the_units(stages, model):
    with carbon_otel.stage("inference", "mine"):
        usage = model(PROMPT, max_tokens=2, logit_bias=NEVER)["usage"]
        list(model(PROMPT, max_tokens=2, logit_bias=NEVER, stream=True))
    assert stages() == [("inference", "mine", {unit: 2 * amount for unit, amount in units(usage).items()})]


def test_a_wrong_call_raises_as_before(stages, model):
    with pytest.raises(ValueError, match="exceed context window"):
        model(PROMPT * CONTEXT)
    with pytest.raises(TypeError):
        model.create_completion()
    assert [(name, counted) for _, name, counted in stages()] == [("Llama", {})]


def test_embeddings(stages, file):
    model = load(file, embedding=True)
    usage = model.create_embedding([PROMPT, "two words"])["usage"]
    model.embed(PROMPT)
    _, tokens = model.embed([PROMPT, PROMPT], return_count=True)
    assert stages() == [
        (
            "inference",
            "Llama.create_embedding",
            {"requests": 1, "samples": 2, "tokens": usage["total_tokens"]},
        ),
        ("inference", "Llama.embed", {"requests": 1, "samples": 1}),
        ("inference", "Llama.embed", {"requests": 1, "samples": 2, "tokens": tokens}),
    ]
