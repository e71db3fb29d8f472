"""Transformers: trainers, those of sentence-transformers and TRL among them, `generate` and pipelines.

==========================================  ============  ===========================================
`Trainer.train`                             `training`    epochs, steps, samples, tokens
each epoch of it                            `training`
`Trainer.evaluate`, also inside `train`     `evaluation`  samples
`Trainer.predict`                           `inference`   samples
`GenerationMixin.generate`                  `inference`   samples, input_tokens, output_tokens, tokens
a pipeline that returns its results         `inference`   samples, and those of its calls of `generate`
==========================================  ============  ===========================================

A pipeline that is given a generator or a dataset returns an iterator, which works when it is asked: the call is no
stage.

Tokens are those of the batches that the training reads, without the padding; of trainers that make their batches
themselves there is only the number of positions, `padded_tokens`. The prompts of `generate` are counted without
the padding where their mask is on the processor, or where there is one prompt. Else they are `padded_tokens`, too:
a look at the mask would be a wait for the accelerator. What it writes after the end of a sequence is counted.

A trainer tells its list of callbacks where an epoch begins and ends, so that no callback of ours is needed. If a
callback has begun an MLflow run, the epochs and evaluations are stages of that run. Each
process of a distributed training counts its part of the samples and tokens.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping
from types import GeneratorType, TracebackType
from typing import Any, Final

from carbon_otel.instrumentation.calls import Call, Calls, Hook, name_of_type
from carbon_otel.instrumentation.children import EPOCH, Children, begins, children_of, ends
from carbon_otel.instrumentation.tokens import TokenCount, tokens_of_mask
from carbon_otel.stages.automatic import UNITS

_RATE: Final = "_samples_per_second"
# Operations of a training for each token and parameter, as `Trainer.floating_point_ops` counts them.
_OPERATIONS: Final = 6


def _samples_of(metrics: Mapping[str, Any], processes: int) -> dict[str, float]:
    """The samples behind the metrics: a rate and a time, for each data set."""
    rates = [key for key in metrics if key.endswith(_RATE)]
    samples = sum(metrics[key] * metrics[key.removesuffix(_RATE) + "_runtime"] for key in rates)
    return {"samples": round(samples / processes)} if rates else {}


def _trained(arguments: Mapping[str, Any], output: Any) -> dict[str, float]:
    trainer = arguments["self"]
    state, processes = trainer.state, trainer.args.world_size
    if output is None:  # an exception has ended it
        return _until_failed(trainer)
    units = _samples_of(output.metrics, processes)
    steps = state.global_step - getattr(trainer, "_initial_global_step", 0)
    units["steps"] = steps
    if state.epoch is not None and state.global_step:
        units["epochs"] = state.epoch * steps / state.global_step
    return {**units, **_tokens_of(trainer)}


def _tokens_of(trainer: Any) -> dict[str, float]:
    """The tokens that this process has trained on so far."""
    children, processes = children_of(trainer.callback_handler), trainer.args.world_size
    if isinstance(children, _Training) and children.count.complete and children.count.tokens:
        # The first process reads for all, if a dispatcher hands the batches out.
        loader = trainer.callback_handler.train_dataloader
        if processes == 1 or name_of_type(type(loader)) != "DataLoaderDispatcher":
            return {"tokens": children.count.tokens}
    positions = _positions_of(trainer) / processes
    return {"padded_tokens": positions} if positions else {}


def _positions_of(trainer: Any) -> float:
    """The positions of all processes, if the trainer counts them, or the operations for them; else 0."""
    if trainer.args.include_num_input_tokens_seen not in ("no", False):
        before = getattr(trainer, "_initial_num_input_tokens_seen", 0)
        return float(trainer.state.num_input_tokens_seen - before)
    model = trainer.model
    if getattr(model, "main_input_name", "") != "input_ids" or getattr(trainer, "_initial_global_step", 0):
        return 0.0
    parameters = model.num_parameters(exclude_embeddings=True)
    operations = trainer.state.total_flos + trainer.current_flos
    return float(operations / (_OPERATIONS * parameters)) if parameters else 0.0


def _so_far(trainer: Any) -> dict[str, float]:
    """Units of the training so far: of an epoch in a run that the trainer itself has begun, or until a failure."""
    state = trainer.state
    units: dict[str, float] = {"epochs": state.epoch or 0.0, "steps": state.global_step}
    loader = trainer.callback_handler.train_dataloader
    if hasattr(loader, "dataset") and hasattr(loader.dataset, "__len__"):
        units["samples"] = round(units["epochs"] * len(loader.dataset) / trainer.args.world_size)
    return {**units, **_tokens_of(trainer)}


def _until_failed(trainer: Any) -> dict[str, float]:
    children = children_of(trainer.callback_handler)
    if children is None or children.noted is None:  # in no epoch: the state may be that of another training
        return {}
    return {unit: max(0.0, now - children.noted.get(unit, 0.0)) for unit, now in _so_far(trainer).items()}


def _noted(handler: Any) -> dict[str, float] | None:
    """What a checkpoint has brought."""
    children = children_of(handler)
    return children.so_far() if isinstance(children, _Training) else None


def _evaluated(arguments: Mapping[str, Any], metrics: Any) -> dict[str, float]:
    return _samples_of(metrics, arguments["self"].args.world_size)


def _predicted(arguments: Mapping[str, Any], output: Any) -> dict[str, float]:
    return _samples_of(output.metrics, arguments["self"].args.world_size)


def _generated(arguments: Mapping[str, Any], output: Any) -> dict[str, float]:
    tensor = sys.modules["torch"].Tensor
    sequences = output if type(output) is tensor else output.sequences
    rows, length = sequences.shape[:2]
    prompt = arguments["inputs"]
    if prompt is None:
        prompt = arguments.get("input_ids")
    prompts: int | None = 0
    padded = begun = 0
    units: dict[str, float] = {"samples": rows}
    if type(prompt) is tensor and prompt.dim() == 2 and not prompt.is_floating_point():
        units["samples"], begun = prompt.shape
        padded = prompt.numel()
        mask = arguments.get("attention_mask")
        prompts = padded if mask is None or begun == padded else tokens_of_mask(mask)
        if prompts is not None:
            units["input_tokens"] = prompts
    if arguments["self"].config.is_encoder_decoder:
        begun = 1  # the token that starts each sequence
    units["output_tokens"] = rows * (length - begun)
    if prompts is None:
        units["padded_tokens"] = padded + units["output_tokens"]
    else:
        units["tokens"] = prompts + units["output_tokens"]
    return units


def _works_at_once(arguments: Mapping[str, Any]) -> bool:
    inputs = arguments["inputs"]
    data: Any = sys.modules.get("torch.utils.data")
    return not issubclass(type(inputs), GeneratorType) and (
        data is None or not issubclass(type(inputs), data.Dataset)
    )


def _piped(arguments: Mapping[str, Any], outputs: Any) -> dict[str, float]:
    inputs = arguments["inputs"]
    # A list of messages is one chat.
    several = type(inputs) is list and not (inputs and type(inputs[0]) is dict and "role" in inputs[0])
    return {"samples": len(inputs) if several else 1}


class _Training(Children):
    """The epochs of a training, and the tokens of its batches."""

    __slots__ = ("count", "so_far")

    def __init__(self, trainer: Any) -> None:
        self.so_far = functools.partial(_so_far, trainer)
        super().__init__(trainer.callback_handler, self.so_far)
        self.count = TokenCount()

    def __enter__(self) -> Callable[[Any], Any]:
        self.count.__enter__()
        return super().__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            super().__exit__(kind, error, trace)
        finally:
            self.count.__exit__(kind, error, trace)


def _apart(*_: Any, **__: Any) -> TokenCount:
    """The tokens of an evaluation are not those of the training around it."""
    return TokenCount()


def _begins(handler: Any, arguments: Any, state: Any, *_: Any) -> tuple[Any, str]:
    # The part of the epochs that is done; a sum of fractions may lie just below a whole number.
    return handler, f"epoch {int((state.epoch or 0) + 1e-6) + 1}"


def _ends(handler: Any, *_: Any) -> Any:
    return handler


TRANSFORMERS: Final = (
    Calls(
        "transformers.trainer",
        Call(
            "Trainer.train",
            "training",
            units=_trained,
            admits=(EPOCH, "evaluation"),
            within=_Training,
            counts_failed=True,
        ),
        Call("Trainer.evaluate", "evaluation", units=_evaluated),
        Call("Trainer.predict", "inference", units=_predicted),
        Hook("Trainer.evaluation_loop", _apart),
    ),
    Calls(
        "transformers.trainer_callback",
        Hook("CallbackHandler.on_epoch_begin", begins(_begins, note=_noted)),
        Hook("CallbackHandler.on_epoch_end", ends(_ends)),
    ),
    Calls("transformers.generation.utils", Call("GenerationMixin.generate", "inference", units=_generated)),
    Calls(
        "transformers.pipelines.base",
        Call("Pipeline.__call__", "inference", units=_piped, admits=(UNITS,), when=_works_at_once),
    ),
)
