"""`carbon-otel journal send`: what a process would have exported, had there been a collector."""

from __future__ import annotations

import datetime
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from carbon_otel.cli import otlp_probe
from carbon_otel.cli.output import say
from carbon_otel.otel.otlp_json import metrics_data
from carbon_otel.private_files import replace_file
from carbon_otel.quantities import energy
from carbon_otel.semconv import names as semconv

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import MetricsData

app = typer.Typer(help="The journals that processes have written.", no_args_is_help=True)

# The receiver may ask for another try in this time.
_TIMEOUT_S: Final = 10.0
# A process that has not written for so many checkpoint intervals is dead.
_INTERVALS: Final = 3


class NotToSendError(Exception):
    """There is nothing to send in a file, for this reason."""


@dataclass(frozen=True, slots=True)
class _Kept:
    """What a journal says.

    Attributes:
        status: `running` or `final`, as the process has written it last.
        exported: whether the process has sent all by itself.
        metrics: the sums of that time, with the time at which they were read here.
        joules: the energy of all stages in them.
    """

    status: str
    exported: bool
    written_unix_s: float
    checkpoint_interval_s: float
    metrics: MetricsData
    joules: float

    @property
    def may_run(self) -> bool:
        return (
            self.status == "running"
            and time.time() < self.written_unix_s + _INTERVALS * self.checkpoint_interval_s
        )


@app.callback()
def journal() -> None:
    """The journals that processes have written."""


@app.command()
def send(
    files: Annotated[list[Path], typer.Argument(help="Files that CARBON_OTEL_JOURNAL has named.")],
    endpoint: Annotated[
        str | None, typer.Option(help="Address of the collector, instead of OTEL_EXPORTER_OTLP_ENDPOINT.")
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Send also what was sent before.")] = False,
) -> None:
    """Send the metrics of processes that have ended to a collector that was down meanwhile.

    They are the sums that the process itself would have sent, under its own name and id. What was sent is noted in
    FILE.sent, and is not sent again.

    The exit code is 1 if the collector has not taken a journal, and 2 if a file is no journal.
    """
    if endpoint is not None:
        os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = endpoint
        os.environ.pop("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", None)
    code = 0
    for number, file in enumerate(files, 1):
        try:
            kept = _read(file)
        except NotToSendError as reason:
            code = 2
            say(f"NOT sent {file}: {reason}", err=True)
            continue
        if kept.may_run:
            say(f"left     {file}: its process is running, and sends its metrics itself")
            continue
        if kept.exported and not again:
            say(f"left     {file}: its process has sent all of it; --again sends it once more")
            continue
        noted = _noted(file)
        if not again and noted.get(otlp_probe.address("metrics")) == kept.written_unix_s:
            say(f"left     {file}: it was sent there before; --again sends it once more")
            continue
        answer = otlp_probe.send_metrics(kept.metrics, _TIMEOUT_S)
        if not answer.ok:
            code = code or 1
            where = f" to {answer.endpoint} ({answer.protocol})" if answer.endpoint else ""
            say(f"NOT sent {file}{where}:", f"  {answer.problem}", f"  {answer.advice}", err=True)
            if not answer.of_content:
                say(*(f"not tried {other}" for other in files[number:]), err=True)
                break
            continue
        end = (
            "" if kept.status == "final" else f"; its process was killed, these are its sums of {_when(kept)}"
        )
        say(f"sent     {file}: {energy(kept.joules)}, to {answer.endpoint}{end}")
        _note(file, {**noted, answer.endpoint: kept.written_unix_s})
    raise typer.Exit(code)


def _read(file: Path) -> _Kept:
    """Read a journal. Raises NotToSendError."""
    try:
        state = json.loads(file.read_text("utf-8"))
    except OSError as error:
        raise NotToSendError(f"it cannot be read ({error.strerror})") from None
    except ValueError:
        raise NotToSendError("it is not the JSON of a journal") from None
    if not isinstance(state, dict) or "footprint" not in state or "status" not in state:
        raise NotToSendError("it is no journal: it has no status and footprint")
    if "metrics" not in state:
        raise NotToSendError(
            "it has no metrics to send: it is in the folder carbon-otel of a program that had no receiver, or a "
            "version of carbon_otel before 0.2 wrote it"
        )
    try:
        metrics = metrics_data(state["metrics"], time.time_ns())
        said = state["metrics"]["resourceMetrics"][0]["scopeMetrics"][0]["metrics"]
        points = (
            p for each in said if each["name"] == semconv.STAGE_ENERGY for p in each["sum"]["dataPoints"]
        )
        joules = sum(point["asDouble"] for point in points)
        written, interval = float(state["written_unix_s"]), float(state["checkpoint_interval_s"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise NotToSendError(f"its metrics are not complete ({error!r})") from None
    if not said:
        raise NotToSendError("its process has measured nothing")
    return _Kept(state["status"], state.get("exported") is True, written, interval, metrics, joules)


def _when(kept: _Kept) -> str:
    moment = datetime.datetime.fromtimestamp(kept.written_unix_s, datetime.timezone.utc)
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def _note_of(file: Path) -> Path:
    return file.with_name(f"{file.name}.sent")


def _noted(file: Path) -> Mapping[str, Any]:
    """The time of writing of the journal that was last sent, by address."""
    try:
        noted = json.loads(_note_of(file).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return noted if isinstance(noted, dict) else {}


def _note(file: Path, noted: Mapping[str, Any]) -> None:
    try:
        replace_file(_note_of(file), json.dumps(noted))
    except OSError as error:
        say(f"  that cannot be noted in {_note_of(file)} ({error.strerror}): do not send it twice", err=True)
