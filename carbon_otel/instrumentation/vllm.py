"""vLLM: calls of an `LLM`, and the steps of an engine that is measured by itself.

==========================================================  ===========  =======================================
`LLM.generate`, `LLM.chat`, `LLM.wait_for_completion`       `inference`  requests, input_tokens, output_tokens,
                                                                         tokens
`LLM.embed`, `LLM.encode`, `LLM.classify`, `LLM.score`      `inference`  requests, tokens
`LLM.beam_search`                                           `inference`  requests
`EngineCore.step`, `EngineCore.step_with_batch_queue`       `inference`  requests, output_tokens
==========================================================  ===========  =======================================

The engine of an `LLM` runs in a process of its own, which does not measure: the stage of the call is charged for
it, as for any child. A server has no such call. With the setting `vllm_processes` the engine measures itself (see
`entry_points/vllm.py`), and its steps share its energy. Tokens are counted by the step, because requests overlap.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from carbon_otel.instrumentation.calls import Call, Calls


def _generated(arguments: Mapping[str, Any], outputs: Any) -> dict[str, float]:
    units = _pooled(arguments, outputs)
    # What a pooling model returns is no list of sequences.
    written = sum(
        len(sequence.token_ids) for each in outputs if type(each.outputs) is list for sequence in each.outputs
    )
    read = units["tokens"]
    return {**units, "input_tokens": read, "output_tokens": written, "tokens": read + written}


def _pooled(arguments: Mapping[str, Any], outputs: Any) -> dict[str, float]:
    return {
        "requests": len(outputs),
        "tokens": sum(len(each.prompt_token_ids or ()) for each in outputs),
    }


def _searched(arguments: Mapping[str, Any], outputs: Any) -> dict[str, float]:
    return {"requests": len(outputs)}


def _stepped(arguments: Mapping[str, Any], result: Any) -> dict[str, float]:
    by_client, _ = result  # None, if a batch was only put into the queue
    outputs = [each for client in (by_client or {}).values() for each in client.outputs]
    return {
        "output_tokens": sum(len(each.new_token_ids) for each in outputs),
        "requests": sum(each.finish_reason is not None for each in outputs),
    }


def _generation(method: str) -> Call:
    return Call(f"LLM.{method}", "inference", units=_generated)


def _pooling(method: str) -> Call:
    return Call(f"PoolingOfflineMixin.{method}", "inference", units=_pooled)


def _step(method: str) -> Call:
    return Call(f"EngineCore.{method}", "inference", "EngineCore.step", _stepped, often=True)


VLLM: Final = (
    Calls(
        "vllm.entrypoints.llm",
        _generation("generate"),
        _generation("chat"),
        _generation("wait_for_completion"),
    ),
    Calls(
        "vllm.entrypoints.pooling.offline",
        _pooling("embed"),
        _pooling("encode"),
        _pooling("classify"),
        _pooling("score"),
    ),
    Calls(
        "vllm.entrypoints.generate.beam_search.offline",
        Call("BeamSearchOfflineMixin.beam_search", "inference", units=_searched),
    ),
    Calls("vllm.v1.engine.core", _step("step"), _step("step_with_batch_queue")),
)
