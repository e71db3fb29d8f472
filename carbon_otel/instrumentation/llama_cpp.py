"""llama-cpp-python: calls of a `Llama`; a stream is a stage until it is exhausted, closed or dropped.

=================================================================  ===========  ==============================
`create_completion`, `create_chat_completion`, a call of a model   `inference`  requests, input_tokens,
                                                                                output_tokens, tokens
`create_embedding`, `embed`                                        `inference`  requests, samples, tokens
=================================================================  ===========  ==============================

The stage of a stream pays while the stream works, and not while its reader does. The chunks of a stream do not
have their tokens: those that the model samples are counted, as `usage` counts them, without the token that ends
the text. `embed` tells its tokens only with `return_count`. `Llama.generate` and `Llama.eval`, called by
themselves, are no stages: write `with carbon_otel.stage("inference")`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Final

from carbon_otel.guard import contain
from carbon_otel.instrumentation.calls import Call, Calls, Hook
from carbon_otel.instrumentation.in_place import unseen


class _Request:
    """What the model has read and written for one call; it is entered while the model works for that."""

    __slots__ = ("_before", "output_tokens", "prompt_tokens")

    def __init__(self, model: Any) -> None:
        self.prompt_tokens: int | None = None
        self.output_tokens = 0
        self._before: _Request | None = None

    def __enter__(self) -> Callable[[Any], Any]:
        self._before = _present.get()
        _present.set(self)
        return unseen

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _present.set(self._before)


_present: ContextVar[_Request | None] = ContextVar("carbon_otel_llama_request", default=None)


def _evaluates(model: Any, tokens: Any) -> None:
    """The model reads tokens: the first time in a request those of the prompt that it has not read before."""
    request = _present.get()
    if request is not None and request.prompt_tokens is None:
        request.prompt_tokens = contain("counting tokens", None, _read, model, tokens)


def _read(model: Any, tokens: Any) -> int:
    return int(model.n_tokens) + len(tokens)


def _samples(model: Any, *_: Any, **__: Any) -> _Sampling | None:
    request = _present.get()
    return None if request is None else _Sampling(request, model)


class _Sampling:
    """The model writes a token."""

    __slots__ = ("_model", "_request")

    def __init__(self, request: _Request, model: Any) -> None:
        self._request = request
        self._model = model

    def __enter__(self) -> Callable[[Any], Any]:
        return self._seen

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def _seen(self, token: Any) -> Any:
        contain("counting tokens", None, self._count, token)
        return token

    def _count(self, token: Any) -> None:
        library: Any = sys.modules["llama_cpp"]
        words = library.llama_model_get_vocab(self._model.model)
        self._request.output_tokens += not library.llama_vocab_is_eog(words, token)


def _completed(arguments: Mapping[str, Any], result: Any) -> dict[str, float]:
    if type(result) is _Request:  # of a stream
        return _units(result.prompt_tokens or 0, result.output_tokens)
    usage = result["usage"]
    return _units(usage["prompt_tokens"], usage["completion_tokens"])


def _units(prompt: int, output: int) -> dict[str, float]:
    return {"requests": 1, "input_tokens": prompt, "output_tokens": output, "tokens": prompt + output}


def _embedded(arguments: Mapping[str, Any], result: Any) -> dict[str, float]:
    texts = arguments["input"]
    units: dict[str, float] = {"requests": 1, "samples": 1 if type(texts) is str else len(texts)}
    if type(result) is dict:
        units["tokens"] = result["usage"]["total_tokens"]
    elif arguments.get("return_count"):
        units["tokens"] = result[1]
    return units


def _completion(method: str) -> Call:
    return Call(f"Llama.{method}", "inference", units=_completed, within=_Request, streams=True)


LLAMA_CPP: Final = (
    Calls(
        "llama_cpp.llama",
        _completion("__call__"),
        _completion("create_completion"),
        _completion("create_chat_completion"),
        Call("Llama.create_embedding", "inference", units=_embedded),
        Call("Llama.embed", "inference", units=_embedded),
        Hook("Llama.eval", _evaluates),
        Hook("Llama.sample", _samples),
    ),
)
