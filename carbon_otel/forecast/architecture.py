"""A model's parameters, from its configuration, a torch module, or numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from carbon_otel.forecast.records import Model


def model_of(source: object, *, active: float | None = None, name: str | None = None) -> Model:
    """The size of a model.

    Args:
        source: a number or text of parameters (`30e9`, `"30B"`), the path of a `config.json` or its mapping, a
            configuration of Transformers, or a torch module.
        active: parameters that one token meets, for a mixture of experts given by number.
        name: for people.

    Raises:
        ValueError: for a source that is none of these, or a configuration that lacks what its size depends on.
    """
    raise NotImplementedError(source, active, name)
