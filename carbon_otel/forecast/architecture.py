"""A model's parameters: from its configuration, from a torch module, or from numbers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from numbers import Real
from pathlib import Path
from typing import Any

from carbon_otel.forecast.model_config import context_of, shape_of
from carbon_otel.forecast.quantity import number, text_of
from carbon_otel.forecast.records import Model


def model_of(source: object, *, active: float | None = None, name: str | None = None) -> Model:
    """The size of a model.

    Args:
        source: a number or text of parameters (`30e9`, `"30B"`), the path of a `config.json` or its mapping, a
            configuration of Transformers, or a torch module, on the meta device too.
        active: parameters that one token meets, for a mixture of experts given by number.
        name: for people.

    Raises:
        ValueError: for a source that is none of these, or a configuration that lacks what its size depends on.
        OSError: for a file that cannot be read.
    """
    if isinstance(source, Model):
        return source
    if isinstance(source, Path) or (isinstance(source, str) and source.strip().endswith(".json")):
        return _of_file(Path(source), active, name)
    if isinstance(source, str | Real):  # numpy's integers are no int
        return _of_number(source, active, name)
    if isinstance(source, Mapping):
        return _of_config(source, active, name, "configuration")
    if callable(getattr(source, "parameters", None)):
        return _of_module(source, active, name)
    if callable(getattr(source, "to_dict", None)):
        return _of_config(source.to_dict(), active, name, "configuration")  # type: ignore[attr-defined]
    raise ValueError(
        f"cannot tell the parameters of a {type(source).__name__}; give a number such as '30B', the path of a "
        "config.json, a configuration of Transformers or a torch module"
    )


def _of_number(source: Any, active: float | None, name: str | None) -> Model:
    params = number(source, "the number of parameters")
    return Model(name or text_of(params), params, _active(params, active))


def _active(params: float, active: float | None) -> float:
    if active is None:
        return params
    if not 0 < active <= params:
        raise ValueError(
            f"{text_of(active)} active parameters of {text_of(params)}; give at most all of them"
        )
    return active


def _of_file(path: Path, active: float | None, name: str | None) -> Model:
    try:
        config = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(config, Mapping):
        raise ValueError(f"{path} is no configuration of a model: it has no names")
    folder = path.resolve().parent.name
    return _of_config(config, active, name or str(config.get("_name_or_path") or folder), str(path))


def _of_config(config: Mapping[str, Any], active: float | None, name: str | None, source: str) -> Model:
    try:
        shape = shape_of(config)
    except (KeyError, TypeError, ZeroDivisionError) as error:
        raise ValueError(
            f"the configuration cannot be read ({error!r}); give the parameters as a number"
        ) from error
    params = float(shape.parameters())
    return Model(
        name=name or str(config.get("_name_or_path") or config.get("model_type") or text_of(params)),
        params=params,
        active_params=_active(params, active or float(shape.active_parameters())),
        source=source,
        layers=shape.layers + shape.encoder_layers,
        hidden=shape.heads * shape.head_dim,
        seq_len=context_of(config),
        kv_values=float(shape.kv_values()),
    )


def _of_module(module: Any, active: float | None, name: str | None) -> Model:
    """Counted from the module itself; what a count cannot tell comes from its configuration, if it has one."""
    parameters: Iterable[Any] = module.parameters()
    params = float(sum(parameter.numel() for parameter in parameters))
    if params == 0:
        raise ValueError(f"this {type(module).__name__} has no parameters")
    name = name or type(module).__name__
    config = getattr(module, "config", None)
    if not callable(getattr(config, "to_dict", None)):
        return Model(name, params, _active(params, active), "torch module")
    try:
        described = _of_config(config.to_dict(), None, name, "")  # type: ignore[union-attr]
    except ValueError:  # a configuration of another kind of model
        return Model(name, params, _active(params, active), "torch module")
    share = described.active_params / described.params
    return Model(
        name=name,
        params=params,
        active_params=_active(params, active or params * share),
        source="torch module",
        layers=described.layers,
        hidden=described.hidden,
        seq_len=described.seq_len,
        kv_values=described.kv_values,
    )
