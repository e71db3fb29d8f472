"""`carbon-otel forecast`: energy and carbon before the run."""

from __future__ import annotations

from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Annotated, Final

import typer

from carbon_otel.cli import completion
from carbon_otel.cli import forecast_view as view
from carbon_otel.cli.filing import Filing, print_filing
from carbon_otel.cli.forecast_compare import comparison
from carbon_otel.cli.html_report import page_of
from carbon_otel.cli.output import Screen, refuse, write_json, write_page
from carbon_otel.compat import llmcarbon
from carbon_otel.forecast.architecture import model_of
from carbon_otel.forecast.export import as_dict
from carbon_otel.forecast.inference import forecast_inference
from carbon_otel.forecast.quantity import number
from carbon_otel.forecast.records import (
    KWH_PER_MWH,
    Forecast,
    InferenceRequest,
    Model,
    Place,
    TrainingRequest,
)
from carbon_otel.forecast.training import forecast_training


class Scopes(str, Enum):
    """What the energy of inference includes."""

    gpu = "gpu"
    node = "node"
    service = "service"


# Options that only one kind of forecast has.
_OF_TRAINING: Final = (
    "tokens",
    "epochs",
    "days",
    "seq_len",
    "lora",
    "mfu",
    "watts",
    "development",
    "post_training",
)
_OF_SERVING: Final = (
    "concurrency",
    "input_tokens",
    "output_tokens",
    "requests_per_month",
    "scope",
    "training_tokens",
    "training_gpu",
    "training_mwh",
)


def forecast(
    context: typer.Context,
    params: Annotated[str | None, typer.Option(help="Parameters, such as 30B.")] = None,
    active: Annotated[
        str | None, typer.Option(help="Parameters that one token meets, of a mixture of experts.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="The model's config.json, instead of --params.")] = None,
    tokens: Annotated[str | None, typer.Option(help="Training tokens, such as 1.4T.")] = None,
    epochs: Annotated[float, typer.Option(help="Passes over the tokens.")] = 1.0,
    gpu: Annotated[
        str | None,
        typer.Option(help="Accelerator, such as H100 or A100-80GB.", autocompletion=completion.accelerators),
    ] = None,
    gpus: Annotated[str | None, typer.Option(help="Number of accelerators.")] = None,
    days: Annotated[float | None, typer.Option(help="Duration, if it is known.")] = None,
    precision: Annotated[str | None, typer.Option(help="bf16, fp16, fp8, tf32, ...")] = None,
    seq_len: Annotated[int | None, typer.Option(help="Tokens in a sequence.")] = None,
    lora: Annotated[bool, typer.Option("--lora", help="Fine-tune by LoRA: frozen weights.")] = False,
    mfu: Annotated[float | None, typer.Option(help="Model FLOPs utilisation, if it is known.")] = None,
    watts: Annotated[
        float | None, typer.Option(help="Watts per accelerator with its share of the host, if measured.")
    ] = None,
    pue: Annotated[float | None, typer.Option(help="Power usage effectiveness of the site.")] = None,
    intensity: Annotated[
        float | None, typer.Option(help="Grams of CO2e per kWh (0.35 t/MWh are 350).")
    ] = None,
    zone: Annotated[
        str | None, typer.Option(help="Country of the grid, such as FR.", autocompletion=completion.zones)
    ] = None,
    region: Annotated[
        str | None,
        typer.Option(
            help="Cloud region, such as gcp:europe-north1.", autocompletion=completion.cloud_regions
        ),
    ] = None,
    development: Annotated[
        float | None, typer.Option(help="Energy of experiments, as a multiple of the final run.")
    ] = None,
    post_training: Annotated[
        float | None, typer.Option(help="Energy of post-training, as a multiple of the final run.")
    ] = None,
    inference: Annotated[bool, typer.Option("--inference", help="Forecast serving, not training.")] = False,
    concurrency: Annotated[float, typer.Option(help="Requests served at once (inference).")] = 64.0,
    input_tokens: Annotated[float, typer.Option(help="Tokens of a prompt (inference).")] = 500.0,
    output_tokens: Annotated[float, typer.Option(help="Tokens of an answer (inference).")] = 500.0,
    requests_per_month: Annotated[
        str | None, typer.Option(help="For the energy of a month (inference).")
    ] = None,
    scope: Annotated[Scopes, typer.Option(help="What the energy of inference includes.")] = Scopes.service,
    training_tokens: Annotated[
        str | None,
        typer.Option(
            help="Tokens that the model is trained on: when inference passes its training (inference)."
        ),
    ] = None,
    training_gpu: Annotated[
        str | None, typer.Option(help="Accelerator of that training, if it is not --gpu (inference).")
    ] = None,
    training_mwh: Annotated[
        float | None,
        typer.Option(help="Energy of the training with PUE, if it is known, instead of tokens (inference)."),
    ] = None,
    versus: Annotated[
        list[str] | None,
        typer.Option("--compare", help="gpu=V100,A100,H100; zone=..., region=..., precision=..., params=..."),
    ] = None,
    file: Annotated[
        Filing | None, typer.Option("--filing", help="The text for the EU AI Act, or the SCI for AI.")
    ] = None,
    llmcarbon_csv: Annotated[
        Path | None, typer.Option("--llmcarbon", help="Compute MLCarbon's database.csv by its formulas.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    html: Annotated[bool, typer.Option("--html", help="Print an HTML page.")] = False,
) -> None:
    """Forecast energy and carbon before the run, with intervals and the source of every assumption.

    Of parameters, tokens, GPUs and days, give what you know; the rest is computed.
    """
    try:
        if file is not None and (versus or html):
            raise ValueError("--filing prints a text, or --json; leave out --compare and --html")
        if llmcarbon_csv is not None:
            if file is not None or versus:
                raise ValueError("--llmcarbon computes a file as it is; leave out --filing and --compare")
            _llmcarbon(llmcarbon_csv, as_json=as_json, html=html)
            return
        _refuse_options_of_the_other_kind(context, inference=inference)
        if gpu is None:
            raise ValueError("no accelerator; write --gpu, such as --gpu H100")
        place = Place(zone=zone, region=region, intensity_g_per_kwh=intensity, pue=pue)
        model = _model(params, active, config)
        request: TrainingRequest | InferenceRequest
        if inference:
            if model is None:
                raise ValueError("no model to serve; write --params or --config")
            request = InferenceRequest(
                hardware=gpu,
                model=model,
                gpus=_whole(gpus, "--gpus"),
                concurrency=number(concurrency, "--concurrency"),
                precision=precision or "bf16",
                input_tokens=input_tokens,
                output_tokens=number(output_tokens, "--output-tokens"),
                requests_per_month=_optional(requests_per_month, "--requests-per-month"),
                scope=scope.value,
                place=place,
            )
            trained = _training(request, training_tokens, training_gpu, training_mwh)
            request = replace(request, training=trained)
        else:
            request = TrainingRequest(
                hardware=gpu,
                model=model,
                tokens=_optional(tokens, "--tokens"),
                epochs=number(epochs, "--epochs"),
                gpus=_optional(gpus, "--gpus"),
                days=_optional(days, "--days"),
                precision=precision,
                seq_len=seq_len,
                tuning="lora" if lora else "full",
                mfu=mfu,
                watts=watts,
                place=place,
                development=development,
                post_training=post_training,
            )
        _answer(request, versus or [], file, as_json=as_json, html=html)
    except ValueError as error:
        refuse(str(error))
    except OSError as error:
        refuse(f"{error.filename} cannot be read: {error.strerror}")


def _refuse_options_of_the_other_kind(context: typer.Context, *, inference: bool) -> None:
    given = [
        f"--{name.replace('_', '-')}"
        for name in (_OF_TRAINING if inference else _OF_SERVING)
        # By name: typer may bring its own copy of click.
        if getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"
    ]
    if given:
        remedy = "of a training; leave out --inference" if inference else "of serving; add --inference"
        raise ValueError(f"{', '.join(given)}: {remedy}, or leave these out")


def _training(
    served: InferenceRequest, tokens: str | None, gpu: str | None, mwh: float | None
) -> Forecast | float | None:
    """The training of the model that is served: forecast at the same place, or its kilowatt-hours."""
    if tokens is None and mwh is None:
        if gpu is not None:
            raise ValueError(
                "--training-gpu needs --training-tokens: the tokens that the model is trained on"
            )
        return None
    if mwh is not None and (tokens is not None or gpu is not None):
        raise ValueError(
            "--training-mwh is the energy itself; leave out --training-tokens and --training-gpu"
        )
    if served.requests_per_month is None:
        raise ValueError("when inference passes the training depends on --requests-per-month; write it too")
    if mwh is not None:
        return number(mwh, "--training-mwh") * KWH_PER_MWH
    assert tokens is not None
    return forecast_training(
        TrainingRequest(
            hardware=gpu or served.hardware,
            model=served.model,
            tokens=number(tokens, "--training-tokens"),
            place=served.place,
        )
    )


def _whole(text: str | None, option: str) -> int | None:
    if text is None:
        return None
    value = number(text, option)
    if value != int(value):
        raise ValueError(f"{option} is {text}; write a whole number")
    return int(value)


def _answer(
    request: TrainingRequest | InferenceRequest,
    versus: list[str],
    file: Filing | None,
    *,
    as_json: bool,
    html: bool,
) -> None:
    result = (
        forecast_training(request) if isinstance(request, TrainingRequest) else forecast_inference(request)
    )
    tables = [comparison(request, option) for option in versus]
    if file is not None:
        print_filing(result, file, as_json=as_json)
    elif as_json:
        content = as_dict(result)
        if tables:
            content["comparisons"] = [
                {"field": field, "forecasts": [{"value": label, **as_dict(each)} for label, each in rows]}
                for field, rows in tables
            ]
        write_json(content)
    elif html:
        write_page(page_of(result.title, lambda screen: view.show(result, tables, screen)))
    else:
        screen = Screen()
        screen.print(result.title)
        view.show(result, tables, screen)


def _model(params: str | None, active: str | None, config: Path | None) -> Model | None:
    if params is not None and config is not None:
        raise ValueError("--params and --config both give the model; write one of them")
    activated = _optional(active, "--active")
    if config is not None:
        return model_of(config, active=activated)
    if params is None:
        if activated is not None:
            raise ValueError("--active needs --params too: the parameters of the whole model")
        return None
    return model_of(number(params, "--params"), active=activated)


def _optional(text: str | float | None, option: str) -> float | None:
    return None if text is None else number(text, option)


def _llmcarbon(path: Path, *, as_json: bool, html: bool) -> None:
    predictions = [llmcarbon.predict(row) for row in llmcarbon.read(path)]
    if as_json:
        write_json(
            [
                {name: value for name, value in p._asdict().items() if name != "inference_t"}
                for p in predictions
            ]
        )
    elif html:
        write_page(page_of(path.name, lambda screen: view.show_llmcarbon(predictions, screen)))
    else:
        view.show_llmcarbon(predictions, Screen())
