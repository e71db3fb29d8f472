"""All settings, once: argument > `CARBON_OTEL_*` variable > `[tool.carbon_otel]` in pyproject.toml > default."""

from __future__ import annotations

import math
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final, Literal

from carbon_otel.carbon import grid

Attribution = Literal["reserved", "process"]

PREFIX: Final = "CARBON_OTEL_"
LONGEST_INTERVAL_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of one session.

    Attributes:
        zone: country whose grid the emissions are computed with; None takes the world average, and says so.
        pue: power usage effectiveness of the site, at least 1; multiplies emissions, not energy.
        interval: seconds between two readings of the sampler, at most 30: counters wrap.
        attribution: `reserved` (the machine, or what a cgroup reserves of it) or `process` (CPU-time share).
        cpu_family: family of the processor in the model's table, where the host does not say it.
        powercap_root: folder with the `intel-rapl:*` zones, where it is not /sys/class/powercap.
        checkpoint_interval: seconds between two writes to MLflow and the journal while a run is open.
        synchronize: wait for the accelerator at a stage's edges, where a framework has one in use.
        annotate_spans: put the energy of their time on the application's own spans.
        lineage: the model's life that MLflow runs belong to, where it is more than one experiment.
        efficiency_metric: metric of MLflow runs that is set against their emissions, such as `accuracy`.
        trace_url: address of a trace where you look at traces, with `{trace_id}` in it; MLflow runs link to it.
        mlflow_traces: show stages in MLflow's traces, too, below the user's own spans.
        state_dir: folder for what MLflow has not taken yet; by default below XDG_STATE_HOME.
        journal: file that receives the process's footprint as JSON at every checkpoint and at the end.
    """

    zone: str | None = None
    pue: float = 1.0
    interval: float = 1.0
    attribution: Attribution = "reserved"
    cpu_family: str | None = None
    powercap_root: Path | None = None
    checkpoint_interval: float = 15.0
    synchronize: bool = True
    annotate_spans: bool = False
    lineage: str | None = None
    efficiency_metric: str | None = None
    trace_url: str | None = None
    mlflow_traces: bool = True
    state_dir: Path = field(default_factory=lambda: _state_dir())
    journal: Path | None = None


def disabled(environ: Mapping[str, str] = os.environ) -> bool:
    variable = PREFIX + "DISABLED"
    try:
        return _boolean(environ.get(variable, ""))
    except ValueError as error:
        raise ValueError(f"{variable}={environ[variable]!r}: {error}") from None


def resolve(
    arguments: Mapping[str, Any], environ: Mapping[str, str] = os.environ, folder: Path | None = None
) -> Settings:
    """Merge the sources. Raises ValueError that names the source and says what to write instead."""
    from_file = _pyproject(folder)
    unknown = from_file.keys() - {f.name for f in fields(Settings)}
    if unknown:
        raise ValueError(
            f"[tool.carbon_otel] in pyproject.toml: unknown setting {', '.join(sorted(unknown))}; "
            f"known are {', '.join(f.name for f in fields(Settings))}"
        )
    chosen: dict[str, Any] = {}
    for setting in fields(Settings):
        name = setting.name
        variable = PREFIX + name.upper()
        if arguments.get(name) is not None:
            value, source = arguments[name], name
        elif environ.get(variable, "").strip():
            value, source = environ[variable].strip(), variable
        elif name in from_file:
            value, source = from_file[name], f"{name} in [tool.carbon_otel]"
        else:
            continue
        try:
            chosen[name] = _CHECKS[name](value)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{source}={value!r}: {error}") from None
    return Settings(**chosen)


def _zone(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(grid.SUGGEST)
    return grid.intensity(value).zone


def _pue(value: Any) -> float:
    number = _number(value)
    if not 1 <= number <= 10:
        raise ValueError("PUE is the site's energy over the IT energy; write a number from 1.0, such as 1.14")
    return number


def _interval(value: Any) -> float:
    number = _number(value)
    if not 0.01 <= number <= LONGEST_INTERVAL_S:
        raise ValueError(
            f"write seconds from 0.01 to {LONGEST_INTERVAL_S:.0f}, such as 1.0; counters wrap beyond"
        )
    return number


def _checkpoint(value: Any) -> float:
    number = _number(value)
    if number <= 0:
        raise ValueError("write seconds above 0, such as 15")
    return number


def _attribution(value: Any) -> str:
    if value not in ("reserved", "process"):
        raise ValueError("write 'reserved' (the machine or its cgroup's share) or 'process' (CPU-time share)")
    return str(value)


def _lineage(value: Any) -> str:
    if not isinstance(value, str) or not value.strip() or len(value) > 250 or "'" in value:
        raise ValueError("write a name of 1 to 250 characters without a quote, such as 'churn'")
    return value.strip()


def _metric(value: Any) -> str:
    if not isinstance(value, str) or not value.strip() or len(value) > 230:
        raise ValueError("write the name of a metric that your runs log, such as 'accuracy'")
    return value.strip()


def _trace_url(value: Any) -> str:
    if not isinstance(value, str) or "{trace_id}" not in value or "://" not in value:
        raise ValueError(
            "write an address with {trace_id} in it, such as 'http://localhost:16686/trace/{trace_id}'"
        )
    return value.strip()


def _state_dir() -> Path:
    """Where the XDG base directories have what should outlive a process, but is no user's document."""
    named = os.environ.get("XDG_STATE_HOME", "")
    if named:
        return Path(named) / "carbon_otel"
    try:
        return Path.home() / ".local" / "state" / "carbon_otel"
    except RuntimeError:  # no home: a container's user
        return Path(tempfile.gettempdir()) / f"carbon_otel-{os.getuid()}"


def _family(value: Any) -> str:
    from carbon_otel.sensors.cpu_model import families

    known = families()
    if value not in known:
        raise ValueError(f"no such family in the table; write one of {', '.join(known)}")
    return str(value)


def _folder(value: Any) -> Path:
    path = Path(value)
    if not path.is_dir():
        raise ValueError("no such folder; write the one that holds the intel-rapl:* zones, or leave it out")
    return path


def _number(value: Any) -> float:
    try:
        number = float(value)
    except (ValueError, TypeError):
        raise ValueError("write a number") from None
    if isinstance(value, bool) or not math.isfinite(number):
        raise ValueError("write a finite number")
    return number


def _boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    text = str(value).strip().lower()
    if text in ("1", "true", "yes", "on"):
        return True
    if text in ("", "0", "false", "no", "off"):
        return False
    raise ValueError("write true or false")


_CHECKS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "zone": _zone,
    "pue": _pue,
    "interval": _interval,
    "attribution": _attribution,
    "cpu_family": _family,
    "powercap_root": _folder,
    "checkpoint_interval": _checkpoint,
    "synchronize": _boolean,
    "annotate_spans": _boolean,
    "lineage": _lineage,
    "efficiency_metric": _metric,
    "trace_url": _trace_url,
    "mlflow_traces": _boolean,
    "state_dir": Path,
    "journal": Path,
}


def _pyproject(folder: Path | None) -> Mapping[str, Any]:
    """The `[tool.carbon_otel]` table of the nearest pyproject.toml at or above `folder`, or where we work."""
    try:
        folder = folder or Path.cwd()
    except OSError:  # the working folder has been removed
        return {}
    for place in (folder, *folder.parents):
        file = place / "pyproject.toml"
        try:
            text = file.read_text("utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        if "carbon_otel" not in text:
            return {}
        if sys.version_info >= (3, 11):
            import tomllib
        else:
            import tomli as tomllib
        try:
            table = tomllib.loads(text).get("tool", {}).get("carbon_otel", {})
        except tomllib.TOMLDecodeError as error:
            raise ValueError(f"{file}: {error}") from None
        return table if isinstance(table, dict) else {}
    return {}
