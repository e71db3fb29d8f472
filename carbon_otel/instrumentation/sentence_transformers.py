"""sentence-transformers. Its trainers are those of Transformers, which count once; `fit` is one of them.

====================================================================  ===========  =======
`encode` of SentenceTransformer, SparseEncoder, MultiVectorEncoder    `inference`  samples
`CrossEncoder.predict`, `CrossEncoder.rank`                           `inference`  samples
====================================================================  ===========  =======

`encode_query` and `encode_document` call `encode`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from carbon_otel.instrumentation.calls import Call, Calls
from carbon_otel.instrumentation.sizes import samples

_MANY: Final = (list, tuple)


def _one(first: Any) -> bool:
    """Whether a list that begins so is one sample: a conversation."""
    return type(first) is dict and "role" in first


def _encoded(arguments: Mapping[str, Any], result: Any) -> dict[str, float]:
    inputs = arguments["inputs"] if "inputs" in arguments else arguments["sentences"]  # before version 6
    if type(inputs) in (str, dict) or (type(inputs) in _MANY and inputs and _one(inputs[0])):
        return {"samples": 1}
    return samples(inputs)


def _predicted(arguments: Mapping[str, Any], result: Any) -> dict[str, float]:
    inputs = arguments["inputs"] if "inputs" in arguments else arguments["sentences"]
    # One pair of texts, or many pairs.
    return {"samples": 1} if type(inputs) in _MANY and inputs and type(inputs[0]) is str else samples(inputs)


def _ranked(arguments: Mapping[str, Any], result: Any) -> dict[str, float]:
    return samples(arguments["documents"])


def _encoder(module: str, name: str) -> Calls:
    return Calls(module, Call(f"{name}.encode", "inference", units=_encoded))


def _pairs(module: str) -> Calls:
    return Calls(
        module,
        Call("CrossEncoder.predict", "inference", units=_predicted),
        Call("CrossEncoder.rank", "inference", units=_ranked),
    )


SENTENCE_TRANSFORMERS: Final = (
    _encoder("sentence_transformers.sentence_transformer.model", "SentenceTransformer"),
    _encoder("sentence_transformers.sparse_encoder.model", "SparseEncoder"),
    _encoder("sentence_transformers.multi_vector_encoder.model", "MultiVectorEncoder"),
    _pairs("sentence_transformers.cross_encoder.model"),
    # Before version 6; later these modules are other names for the same classes.
    _encoder("sentence_transformers.SentenceTransformer", "SentenceTransformer"),
    _encoder("sentence_transformers.sparse_encoder.SparseEncoder", "SparseEncoder"),
    _pairs("sentence_transformers.cross_encoder.CrossEncoder"),
)
