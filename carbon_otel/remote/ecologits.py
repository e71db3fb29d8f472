"""Figures of the package EcoLogits, by its function for one request; its clients are not patched.

It knows models of six providers by their names. The energy is with the PUE of the provider, as EcoLogits counts
it; the emissions are those of the use, without the making of the servers.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
from typing import Any, Final

from carbon_otel.records import RemoteFigures, RemoteRequest
from carbon_otel.units import J_PER_KWH, KILO

_utils: Any = importlib.import_module("ecologits.tracers.utils")

# Names of the semantic conventions and of instrumentations, and those of EcoLogits.
_PROVIDERS: Final = {
    "openai": "openai",
    "azure.ai.openai": "openai",
    "az.ai.openai": "openai",
    "anthropic": "anthropic",
    "cohere": "cohere",
    "mistral_ai": "mistralai",
    "mistralai": "mistralai",
    "gcp.gemini": "google_genai",
    "gcp.gen_ai": "google_genai",
    "gcp.vertex_ai": "google_genai",
    "gemini": "google_genai",
    "google": "google_genai",
    "huggingface": "huggingface_hub",
    "hugging_face": "huggingface_hub",
}


def estimate(request: RemoteRequest) -> RemoteFigures | None:
    """The figures of a request; None for a provider or a model that EcoLogits does not know."""
    provider = _PROVIDERS.get(request.provider.lower())
    if provider is None:
        return None
    impacts = _utils.llm_impacts(provider, request.model, request.output_tokens, request.duration_s)
    if impacts.has_errors or impacts.energy is None or impacts.usage is None:
        return None
    energy, low, high = _range(impacts.energy.value, J_PER_KWH)
    grams, low_g, high_g = _range(impacts.usage.gwp.value, KILO)
    return RemoteFigures(energy, low, high, grams, low_g, high_g, _source())


def _range(value: Any, factor: float) -> tuple[float, float, float]:
    """The middle, the lower and the upper end of a number or a range of EcoLogits."""
    low, high = (value.min, value.max) if hasattr(value, "min") else (value, value)
    return (low + high) / 2 * factor, low * factor, high * factor


@functools.cache
def _source() -> str:
    return f"EcoLogits {importlib.metadata.version('ecologits')}"
