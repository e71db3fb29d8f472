"""The arguments of CodeCarbon's trackers: their order, what each does here, and where a value comes from.

A value is that of the call, else of the variable `CODECARBON_<NAME>`, else of `.codecarbon.config` in the working
folder, else of the one in the home folder, as in CodeCarbon. The table on the page of this room is made from
`ARGUMENTS`.
"""

from __future__ import annotations

import configparser
import math
import os
from collections.abc import Mapping, Sequence
from enum import Enum
from inspect import Parameter, Signature
from pathlib import Path
from typing import Any, Final, NamedTuple

from carbon_otel.guard import log_once
from carbon_otel.private_files import may_be_planted

_FILE: Final = ".codecarbon.config"
_SECTION: Final = "codecarbon"
_PREFIX: Final = "codecarbon_"


class OutputMethod(str, Enum):
    """Where CodeCarbon writes. `CSV` does so here; spans, metrics and MLflow runs take the place of the others."""

    CSV = "csv"
    API = "api"
    LOGGER = "logger"
    PROMETHEUS = "prometheus"
    LOGFIRE = "logfire"
    BOAMPS = "boamps"


class Argument(NamedTuple):
    """What an argument does here; `works` is false if that is nothing."""

    name: str
    here: str
    works: bool = True


_EXPORT: Final = "nothing; set `OTEL_EXPORTER_OTLP_ENDPOINT`, and spans and metrics go there"
_TABLES: Final = "nothing; the figures come from the sensors, or from the tables of carbon_otel"
_OFFLINE: Final = "nothing; no service is asked"

# In the order in which CodeCarbon takes them by position.
ARGUMENTS: Final = (
    Argument("project_name", "the name of the span and the column"),
    Argument("measure_power_secs", "`interval_s`, from 0.01 to 30; by default that of `instrument()`, 1 s"),
    Argument("api_call_interval", _OFFLINE, False),
    Argument("api_endpoint", _OFFLINE, False),
    Argument("api_key", _OFFLINE, False),
    Argument("output_dir", "the folder of the file; OSError if there is none"),
    Argument("output_file", "the name of the file, by default emissions.csv"),
    Argument("output_methods", "the file is written if `OutputMethod.CSV` is among them"),
    Argument("save_to_file", "`False`: no file"),
    Argument("save_to_api", _OFFLINE, False),
    Argument("save_to_logger", "nothing; the spans have the figures", False),
    Argument("logging_logger", "nothing; the spans have the figures", False),
    Argument("save_to_prometheus", _EXPORT, False),
    Argument("save_to_logfire", _EXPORT, False),
    Argument("prometheus_url", _EXPORT, False),
    Argument("output_handlers", _EXPORT, False),
    Argument("gpu_ids", "nothing; `CUDA_VISIBLE_DEVICES` says which GPUs are measured", False),
    Argument("emissions_endpoint", _EXPORT, False),
    Argument("experiment_id", "the column"),
    Argument("experiment_name", "in the name of the file with the tasks"),
    Argument("electricitymaps_api_token", _OFFLINE, False),
    Argument("co2_signal_api_token", _OFFLINE, False),
    Argument("tracking_mode", "`attribution`: `machine` is `reserved`, `process` is `process`"),
    Argument("log_level", "the level of the logger `carbon_otel`"),
    Argument("on_csv_write", "`append` adds a row at each write, `update` replaces the row of the run"),
    Argument("logger_preamble", "nothing; format the logger `carbon_otel`", False),
    Argument("force_cpu_power", _TABLES, False),
    Argument("force_ram_power", _TABLES, False),
    Argument("pue", "`pue`: it multiplies emissions, never energy"),
    Argument("wue", "litres per kWh, for `water_consumed`"),
    Argument("force_carbon_intensity_g_co2e_kwh", "the intensity, in what the tracker returns and writes"),
    Argument("force_mode_cpu_load", _TABLES, False),
    Argument("allow_multiple_runs", "nothing; any number of trackers may run at once", False),
    Argument("rapl_include_dram", "nothing; memory is always measured where it has a counter", False),
    Argument("rapl_prefer_psys", "nothing; the page of the sensors says when psys is used", False),
    Argument("metadata", "nothing; there is no BoAmps file", False),
    Argument("country_iso_code", "`zone`, by a code of three letters, two letters or a name"),
    Argument("region", "the part of the country, if the tables have it (Quebec); else the country counts"),
    Argument(
        "cloud_provider", "with `cloud_region`, the grid of that region (`aws`, `azure`, `gcp` and others)"
    ),
    Argument("cloud_region", "see `cloud_provider`"),
    Argument("country_2letter_iso_code", "`zone`, where `country_iso_code` is not given"),
)
_BY_NAME: Final = {argument.name: argument for argument in ARGUMENTS}
_BY_POSITION: Final = tuple(
    argument.name for argument in ARGUMENTS[: list(_BY_NAME).index("country_iso_code")]
)


def signature() -> Signature:
    """The signature of the trackers, for `help()` and editors."""
    return Signature(
        [
            Parameter(
                name,
                Parameter.POSITIONAL_OR_KEYWORD if name in _BY_POSITION else Parameter.KEYWORD_ONLY,
                default=None,
            )
            for name in _BY_NAME
        ]
    )


class Given:
    """The values of one tracker. Raises TypeError for too many, or for one by position and by name."""

    def __init__(self, positional: Sequence[Any], named: Mapping[str, Any]) -> None:
        if len(positional) > len(_BY_POSITION):
            raise TypeError(f"{len(positional)} arguments by position; there are {len(_BY_POSITION)}")
        first = dict(zip(_BY_POSITION, positional, strict=False))
        twice = sorted(first.keys() & named.keys())
        if twice:
            raise TypeError(f"argument {twice[0]} is given by position and by name")
        given = {**first, **named}
        self._values = {
            **{name: value for name, value in _configured().items() if name in _BY_NAME},
            **{name: value for name, value in given.items() if value is not None},
        }

    def text(self, name: str, default: str = "") -> str:
        value = self._values.get(name)
        return default if value is None else str(value)

    def number(self, name: str) -> float | None:
        """Raises ValueError for what is no number of 0 or more."""
        value = self._values.get(name)
        if value is None:
            return None
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not 0 <= number < math.inf:
            raise ValueError(f"{name}={value!r}: write a number of 0 or more")
        return number

    def one_of(self, name: str, *choices: str) -> str | None:
        """Raises ValueError for another text."""
        value = self._values.get(name)
        if value is not None and value not in choices:
            raise ValueError(f"{name}={value!r}: write {' or '.join(map(repr, choices))}")
        return value

    @property
    def writes_file(self) -> bool:
        methods = self._values.get("output_methods")
        if methods is not None:
            listed = methods.split(",") if isinstance(methods, str) else methods
            return OutputMethod.CSV in [str(getattr(m, "value", m)).strip() for m in listed]
        return str(self._values.get("save_to_file", True)).strip().lower() not in ("false", "0", "no", "off")

    @property
    def log_level(self) -> Any:
        return self._values.get("log_level")

    def say_what_does_nothing(self) -> None:
        """Log the arguments that have no effect, once."""
        idle = [
            name
            for name, value in self._values.items()
            if not _says_nothing(value) and not (name in _BY_NAME and _BY_NAME[name].works)
        ]
        if idle:
            log_once(
                "the tracker takes these arguments, but they have no effect in carbon_otel: %s; "
                "carbon_otel/compat/README.md says what to do instead",
                ", ".join(idle),
                about=tuple(idle),
            )


def _says_nothing(value: object) -> bool:
    # By type: the comparison of an array is an array.
    return value is False or (isinstance(value, str | list) and not value)


def _configured() -> dict[str, str]:
    """The values of the configuration files and of the environment."""
    found: dict[str, str] = {}
    for path in _files():
        parser = configparser.ConfigParser(interpolation=None)
        try:
            if not path.is_file():
                continue
            if may_be_planted(path):
                log_once("%s is not read: another user may have put it there", path, about=path)
                continue
            parser.read_string(path.read_text("utf-8"))
        except (OSError, UnicodeDecodeError, configparser.Error) as error:
            log_once("%s is not read: %s", path, error, about=path)
            continue
        if parser.has_section(_SECTION):
            found.update(parser.items(_SECTION))
    for name, value in os.environ.items():
        if name.lower().startswith(_PREFIX):
            found[name.lower().removeprefix(_PREFIX)] = value
    return found


def _files() -> list[Path]:
    """The later one counts more."""
    here = Path(_FILE)
    try:
        return [Path.home() / _FILE, here]
    except RuntimeError:  # a user without a home
        return [here]
