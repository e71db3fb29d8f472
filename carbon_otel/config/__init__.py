"""Every setting, declared once: name, type, default, variable, parser and sentence.

A value comes from the argument of `instrument()`, else the `CARBON_OTEL_*` variable, else
`[tool.carbon_otel]` in pyproject.toml, else the default. Tests compare these declarations with the docstring
of `instrument()` and with the table of settings for users.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Literal, get_args

from carbon_otel.config.life import LifeSettings
from carbon_otel.config.setting import (
    PREFIX,
    Setting,
    declared,
    to_boolean,
    to_folder,
    to_number,
    to_path,
    to_text,
    variable,
)
from carbon_otel.private_files import is_private_folder, may_be_planted, names_in, user_id

Attribution = Literal["reserved", "process"]
RemoteEstimates = Literal["benchmark", "ecologits"]

LONGEST_INTERVAL_S: Final = 30.0
# How near a variable must be to that of a setting; those of other programs are not.
_NEAR: Final = 0.8


def _absolute_folder(value: Any) -> Path | None:
    path = to_folder(value)
    return path if path is not None and path.is_absolute() else None


def _attribution(value: Any) -> str | None:
    return value if value in get_args(Attribution) else None


def _family(value: Any) -> str:
    from carbon_otel.sensors.cpu_model import families

    known = families()
    if value not in known:
        raise ValueError(f"the table has no such family; write one of {', '.join(known)}")
    return str(value)


def _remote(value: Any) -> str | None:
    if value not in get_args(RemoteEstimates):
        return None
    if value == "ecologits" and find_spec("ecologits") is None:
        raise ValueError("its package is missing; install it by `pip install ecologits~=0.11.3`")
    return str(value)


def _lineage(value: Any) -> str | None:
    name = to_text(250)(value)
    return name if name is not None and "'" not in name else None


def _trace_url(value: Any) -> str | None:
    address = to_text()(value)
    return address if address is not None and "{trace_id}" in address and "://" in address else None


def _state_dir() -> Path:
    """The user's folder for state, by the XDG base directory specification; its files outlive the process.

    Where that is a folder of another user (`sudo -E`, `docker run --user`), or there is none, it is a folder of
    this user in /var/tmp.
    """
    with contextlib.suppress(RuntimeError, OSError):
        named = os.environ.get("XDG_STATE_HOME", "")
        home = Path.home() if not named else Path(named)
        folder = home / "carbon_otel" if named else home / ".local" / "state" / "carbon_otel"
        if (named or home.is_dir()) and _is_users(folder):
            return folder
    folders = list(names_in(Path("/var/tmp"), "carbon_otel-state"))
    return next((f for f in folders if is_private_folder(f) or not os.path.lexists(f)), folders[0])


def _is_users(folder: Path) -> bool:
    """Whether this user can make files in a folder, or can make the folder, and no other user owns it."""
    for place in (folder, *folder.parents):
        try:
            owner = place.stat().st_uid
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:
            return False
        return owner in (0, user_id()) and os.access(place, os.W_OK | os.X_OK)
    return False


@dataclass(frozen=True, slots=True)
class Settings(LifeSettings):
    """The settings of one session. `SETTINGS` has their declarations, `resolve` merges the sources."""

    interval_s: float = declared(
        1.0,
        default="1",
        sentence="Seconds between two readings of the sampler, from 0.01 to 30.",
        parse=to_number(0.01, LONGEST_INTERVAL_S),
        write="seconds from 0.01 to 30, such as 1.0; counters wrap in longer intervals",
        former="interval",
    )
    attribution: Attribution = declared(
        "reserved",
        default="`reserved`",
        sentence="`reserved` charges the machine, or the share of it that a cgroup reserves; `process` charges "
        "the share of this process tree by CPU time.",
        parse=_attribution,
        write="'reserved' (the machine or its cgroup's share) or 'process' (the share by CPU time)",
    )
    cpu_family: str | None = declared(
        None,
        default="from /proc/cpuinfo",
        sentence="Row of the processor table, such as `epyc-genoa`, for guests that hide their processor.",
        parse=_family,
        write="a family of the processor table",
    )
    powercap_root: Path | None = declared(
        None,
        default="`/sys/class/powercap`",
        sentence="Folder with the `intel-rapl:*` zones.",
        parse=to_folder,
        write="the path of the folder that holds the intel-rapl:* zones, or leave it out",
    )
    checkpoint_interval_s: float = declared(
        15.0,
        default="15",
        sentence="Seconds between two writes to MLflow and to the journal.",
        parse=to_number(sys.float_info.min),
        write="seconds above 0, such as 15",
        former="checkpoint_interval",
    )
    synchronize: bool = declared(
        True,
        default="true",
        sentence="Wait at the edges of a stage for what PyTorch or JAX has queued.",
        parse=to_boolean,
        write="true or false",
    )
    annotate_spans: bool = declared(
        False,
        default="false",
        sentence="Put the energy of their time window on the application's own spans; windows overlap, so never "
        "add them up.",
        parse=to_boolean,
        write="true or false",
    )
    progress_bars: bool = declared(
        False,
        default="false",
        sentence="Show the energy and the emissions of the process since a progress bar began in the bars of tqdm "
        "and rich, so in Lightning's too.",
        parse=to_boolean,
        write="true or false",
    )
    remote_estimates: RemoteEstimates | None = declared(
        None,
        default="none",
        sentence="Estimate what calls of remote language models take elsewhere, from the spans of their clients: "
        "by `benchmark`, the joules per token of open models, or by the package `ecologits`; in no other figure.",
        parse=_remote,
        write="'benchmark' (joules per token of open models) or 'ecologits' (the package of that name)",
    )
    lineage: str | None = declared(
        None,
        default="the run's experiment",
        sentence="Name of the model life that this process's MLflow runs belong to, for `carbon-otel report`.",
        parse=_lineage,
        write="a name of 1 to 250 characters without a quote, such as 'churn'",
    )
    efficiency_metric: str | None = declared(
        None,
        default="none",
        sentence="Metric that your MLflow runs log, such as `accuracy`; each run gets it per gram of CO2e too.",
        parse=to_text(230),
        write="the name of a metric that your runs log, such as 'accuracy'",
    )
    trace_url: str | None = declared(
        None,
        default="none",
        sentence="Address of a trace in your trace viewer, with `{trace_id}` in it; MLflow runs link to it.",
        parse=_trace_url,
        write="an address with {trace_id} in it, such as 'http://localhost:16686/trace/{trace_id}'",
    )
    mlflow_traces: bool = declared(
        True,
        default="true",
        sentence="Show stages in MLflow's own traces too, below your spans.",
        parse=to_boolean,
        write="true or false",
    )
    state_dir: Path = declared(
        _state_dir,
        default="`$XDG_STATE_HOME/carbon_otel`",
        sentence="Folder for checkpoints that an MLflow server has not taken yet.",
        parse=to_path,
        write="the path of a folder",
    )
    flush_on_sigterm: bool = declared(
        True,
        default="true",
        sentence="On SIGTERM, send what was measured before the process ends by it, within 2 seconds; only where "
        "the program leaves the signal at its default action.",
        parse=to_boolean,
        write="true or false",
    )
    announce: bool = declared(
        True,
        default="true",
        sentence="Say in one line what is measured and where it goes, and in one line at the end what it was; "
        "where nothing else gets the figures of a program, a file in the folder `carbon-otel` does.",
        parse=to_boolean,
        write="true or false",
    )
    measure_tasks: bool = declared(
        False,
        default="false",
        sentence="The plugins for Airflow and Kedro begin to measure where a task runs; else they wait for "
        "`instrument()`.",
        parse=to_boolean,
        write="true or false",
        argument=False,
    )
    runtime_dir: Path | None = declared(
        None,
        default="a folder in `/dev/shm`, else in `/run/user/<uid>`, `/tmp` or `/var/tmp`",
        sentence="Folder in which the measured processes of one host meet, the same for all of them: for "
        "containers, a volume that they share.",
        parse=_absolute_folder,
        write="the absolute path of a folder that exists, the same for all processes of the host",
        argument=False,
    )
    vllm_processes: bool = declared(
        False,
        default="false",
        sentence="Measure each process of vLLM by itself, the engine of a server among them; else the process "
        "that starts them is charged for them, if it is measured.",
        parse=to_boolean,
        write="true or false",
        argument=False,
    )
    journal: Path | None = declared(
        None,
        default="none",
        sentence="File that gets the process's footprint and metrics as JSON at every checkpoint; under "
        "`carbon-otel run` with several processes, the first one's.",
        parse=to_path,
        write="the path of a file",
        argument=False,
    )


SETTINGS: Final = tuple(Setting(name=f.name, **f.metadata) for f in fields(Settings))

DISABLED: Final = Setting(
    name="disabled",
    default="false",
    sentence="`instrument()` does nothing.",
    parse=to_boolean,
    write="true or false",
    argument=False,
)


def disabled(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether `CARBON_OTEL_DISABLED` is true. Raises ValueError for a wrong value."""
    return bool(DISABLED.value(environ.get(DISABLED.variable, ""), DISABLED.variable))


def resolve(
    arguments: Mapping[str, Any], environ: Mapping[str, str] = os.environ, folder: Path | None = None
) -> Settings:
    """Merge the sources. Raises ValueError with the source of a wrong value and the correct values.

    Args:
        arguments: values by name; None means not given.
        environ: the environment variables.
        folder: where the search for pyproject.toml begins; the working folder by default.
    """
    table = _pyproject(folder)
    unknown = table.keys() - {name for setting in SETTINGS for name in setting.names}
    if unknown:
        raise ValueError(
            f"[tool.carbon_otel] in pyproject.toml: unknown setting {', '.join(sorted(unknown))}; "
            f"known are {', '.join(setting.name for setting in SETTINGS)}"
        )
    chosen: dict[str, Any] = {}
    for setting in SETTINGS:
        given = _given(setting, arguments, environ, table)
        if given is not None:
            value, source = given
            chosen[setting.name] = setting.value(value, source)
    return Settings(**chosen)


def misspelt(environ: Mapping[str, str] = os.environ) -> Mapping[str, str]:
    """The variables that are no setting, but nearly one, each with the variable that was probably meant."""
    import difflib

    known = [name for setting in (*SETTINGS, DISABLED) for name in setting.names]
    found = {}
    for name in environ:
        word = name.removeprefix(PREFIX).lower()
        if name.startswith(PREFIX) and word not in known:
            for near in difflib.get_close_matches(word, known, n=1, cutoff=_NEAR):
                found[name] = variable(near)
    return found


def named(arguments: Mapping[str, Any]) -> frozenset[str]:
    """The names of the settings that these arguments have a value for."""
    return frozenset(
        setting.name for setting in SETTINGS if any(arguments.get(name) is not None for name in setting.names)
    )


def _given(
    setting: Setting, arguments: Mapping[str, Any], environ: Mapping[str, str], table: Mapping[str, Any]
) -> tuple[Any, str] | None:
    """The value from the first source that has one, and the name of that source for an error message."""
    for name in setting.names:
        if arguments.get(name) is not None:
            return arguments[name], name
    for name in map(variable, setting.names):
        if environ.get(name, "").strip():
            return environ[name].strip(), name
    for name in setting.names:
        if name in table:
            return table[name], f"{name} in [tool.carbon_otel]"
    return None


def _pyproject(folder: Path | None) -> Mapping[str, Any]:
    """The `[tool.carbon_otel]` table of the nearest pyproject.toml in or above `folder`.

    One that another user has put into `/tmp` does not count: a setting can name a file to write.
    """
    try:
        folder = folder or Path.cwd()
    except OSError:  # the working folder has been removed
        return {}
    for place in (folder, *folder.parents):
        file = place / "pyproject.toml"
        try:
            if may_be_planted(file):
                continue
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
