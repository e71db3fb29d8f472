"""vLLM, its modules and records: the units of its results. Its engine needs an accelerator and is not run here."""

from __future__ import annotations

import pytest

from carbon_otel.instrumentation import vllm

pytestmark = pytest.mark.apart

outputs = pytest.importorskip("vllm.outputs")


def completion(tokens: int):
    return outputs.CompletionOutput(
        index=0, text="", token_ids=list(range(tokens)), cumulative_logprob=None, logprobs=None
    )


def answer(prompt: int, *sequences: int):
    return outputs.RequestOutput(
        request_id="1",
        prompt=None,
        prompt_token_ids=list(range(prompt)),
        prompt_logprobs=None,
        outputs=[completion(tokens) for tokens in sequences],
        finished=True,
    )


def pooled(prompt: int):
    torch = pytest.importorskip("torch")
    return outputs.PoolingRequestOutput(
        request_id="1",
        outputs=outputs.PoolingOutput(data=torch.zeros(2)),
        prompt_token_ids=list(range(prompt)),
        num_cached_tokens=0,
        finished=True,
    )


def test_tokens_of_all_sequences_of_all_requests():
    assert vllm._generated({}, [answer(3, 5), answer(4, 1, 2)]) == {
        "requests": 2,
        "input_tokens": 7,
        "output_tokens": 8,
        "tokens": 15,
    }


def test_a_prompt_of_embeddings_has_no_tokens():
    without = answer(0, 5)
    without.prompt_token_ids = None
    assert vllm._generated({}, [without])["input_tokens"] == 0


def test_a_queue_may_have_both_kinds_of_requests():
    assert vllm._generated({}, [answer(3, 5), pooled(4)]) == {
        "requests": 2,
        "input_tokens": 7,
        "output_tokens": 5,
        "tokens": 12,
    }
    assert vllm._pooled({}, [pooled(4), pooled(1)]) == {"requests": 2, "tokens": 5}


def test_a_step_of_an_engine():
    engine = pytest.importorskip("vllm.v1.engine")
    of_client = engine.EngineCoreOutputs(
        outputs=[
            engine.EngineCoreOutput("1", [7, 8]),
            engine.EngineCoreOutput("2", [9], finish_reason=engine.FinishReason.STOP),
        ]
    )
    assert vllm._stepped({}, ({0: of_client, 1: engine.EngineCoreOutputs()}, True)) == {
        "output_tokens": 3,
        "requests": 1,
    }
    assert (
        vllm._stepped({}, (None, True))
        == vllm._stepped({}, ({}, False))
        == {
            "output_tokens": 0,
            "requests": 0,
        }
    )
