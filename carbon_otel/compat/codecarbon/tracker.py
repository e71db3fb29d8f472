"""The trackers."""

from __future__ import annotations

import logging
import os
import threading
import uuid
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Final, cast

import psutil

import carbon_otel
from carbon_otel import config, runtime
from carbon_otel.compat.codecarbon import emissions_csv, figures
from carbon_otel.compat.codecarbon.arguments import Given, signature
from carbon_otel.compat.codecarbon.place import at, place_of
from carbon_otel.compat.codecarbon.tracked import Tracked
from carbon_otel.compat.codecarbon_columns import EmissionsData
from carbon_otel.footprint import NOT_MEASURED, Footprint
from carbon_otel.fork import renew_after_fork
from carbon_otel.guard import contain, log_once, logger
from carbon_otel.private_files import shortened
from carbon_otel.sinks import Sink

TRACKER: Final = "tracker"
TASK: Final = "task"
_ATTRIBUTIONS: Final = {"machine": "reserved", "process": "process"}
# CodeCarbon's own, for a run that names none.
_EXPERIMENT: Final = "5b0fa12a-3dd7-45bb-9766-cc326314d9f1"
_SHORTEST_INTERVAL_S: Final = 0.01
_PUE: Final = next(setting for setting in config.SETTINGS if setting.name == "pue")

# Of two trackers that start at once, the second keeps the settings of the first.
_beginning = threading.RLock()


def _renew() -> None:
    global _beginning
    _beginning = threading.RLock()


renew_after_fork(_renew)


class EmissionsTracker:
    """CodeCarbon's tracker. `ARGUMENTS` in `arguments.py` has the arguments, and what each does here.

        with EmissionsTracker(project_name="churn") as tracker:
            model.fit(X, y)
        print(tracker.final_emissions, "kg", tracker.footprint.low_g, "to", tracker.footprint.high_g, "g")

    The first tracker of a process begins the measurement, as `carbon_otel.instrument()` does; it lasts until the
    process ends. A tracker in a process that is measured already keeps the settings of that measurement, but names
    its country where that has no place. Its own country and PUE count in what it returns and writes.

    Raises:
        ValueError: for a wrong value; the message says what to write instead.
        OSError: for a folder `output_dir` that does not exist.
        TypeError: for an argument that is given twice.

    Attributes:
        run_id: of the present run; a new `start()` after `stop()` makes a new one.
        final_emissions: kilograms of CO2 equivalent, after `stop()`.
        final_emissions_data: all figures, after `stop()`.
    """

    __signature__: ClassVar = signature()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        given = self._given = Given(args, kwargs)
        self._place = place_of(given)
        self._project = given.text("project_name", "codecarbon")
        pue = given.number("pue")
        self._pue = None if pue is None else float(_PUE.value(pue, "pue"))
        self._wue = given.number("wue") or 0.0
        mode = given.one_of("tracking_mode", *_ATTRIBUTIONS)
        self._mode = "machine"  # of the measurement, which may have other settings
        self._update = given.one_of("on_csv_write", "append", "update") == "update"
        seconds = given.number("measure_power_secs")
        self._settings = {
            "zone": self._place.zone,
            "pue": self._pue,
            "interval_s": None
            if seconds is None
            else min(max(seconds, _SHORTEST_INTERVAL_S), config.LONGEST_INTERVAL_S),
            "attribution": None if mode is None else _ATTRIBUTIONS[mode],
        }
        self._folder = Path(given.text("output_dir", "."))
        if given.writes_file and not self._folder.is_dir():
            raise OSError(f"output_dir={str(self._folder)!r}: there is no such folder")
        _set_level(given.log_level)
        self.run_id = uuid.uuid4()
        self._hardware = figures.UNKNOWN
        self._whole: Tracked | None = None
        self._tasks: dict[str, Tracked] = {}
        self._active_task: Tracked | None = None
        self._process: int | None = None  # the one that has started it
        self.final_emissions: float | None = None
        self.final_emissions_data: EmissionsData | None = None

    @property
    def footprint(self) -> Footprint:
        """The footprint between `start()` and `stop()`, with the band; so far while the tracker runs."""
        if self._whole is None or self._is_inherited():
            return NOT_MEASURED
        return self._at_place(self._whole)

    @property
    def _path(self) -> Path:
        return self._folder / self._given.text("output_file", "emissions.csv")

    def start(self) -> None:
        """Begin to track. After `stop()` this begins a new run."""
        self._start(in_block=False)

    def stop(self) -> float | None:
        """End the tracking, and write the file: kilograms of CO2 equivalent, NaN if nothing was measured.

        None for a tracker that was not started.
        """
        return self._stop(None)

    def flush(self) -> float | None:
        """Write the file with what was used so far, in kilograms of CO2 equivalent; the tracking goes on."""
        if self._is_inherited():
            return None
        if not self._has_begun():
            logger.warning("start the tracker before flush()")
            return None
        data = self._data(self._footprints())
        self._write(data)
        return data.emissions

    def start_task(self, task_name: str | None = None) -> None:
        """Begin a task. Without `start()` the tracker has the sum of its tasks, and nothing between them."""
        if self._is_inherited():
            return
        if self._active_task is not None:
            logger.warning("a task is being tracked already: %s", self._active_task.name)
            return
        if self.final_emissions_data is not None:
            self._begin_again()
        name = str(task_name) if task_name else str(uuid.uuid4())
        key = f"{name}_{uuid.uuid4()}" if name in self._tasks else name
        self._process = os.getpid()
        self._measure()
        self._active_task = self._tasks[key] = Tracked(TASK, name, str(self.run_id), in_block=False)

    def stop_task(self, task_name: str | None = None) -> EmissionsData | None:
        """End the task that is being tracked: its figures, or None if there is none, or none of this name."""
        if self._is_inherited():
            return None
        task = self._active_task
        if task is None or (task_name and task.name != str(task_name)):
            logger.warning("stop_task: there is no task %s to stop", task_name or "")
            return None
        return self._stop_task(task, None)

    def get_detected_hardware(self) -> dict[str, Any]:
        """Processor, GPUs and memory (in GiB, as in CodeCarbon) of this host. Begins the measurement."""
        self._measure()
        return {**self._hardware, "cpu_physical_count": psutil.cpu_count(logical=False), "gpu_ids": None}

    def service_shutdown(self, signum: int, frame: object) -> None:
        """Stop the tracker; for `signal.signal`."""
        self.stop()

    def __enter__(self) -> EmissionsTracker:
        self._start(in_block=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop(error)

    def _start(self, *, in_block: bool) -> None:
        if self._is_inherited():
            return
        if self._whole is not None and self.final_emissions_data is None:
            logger.warning("the tracker has been started already")
            return
        if self.final_emissions_data is not None:
            self._begin_again()
        self._process = os.getpid()
        self._measure()
        self._whole = Tracked(TRACKER, self._project, str(self.run_id), in_block=in_block)

    def _stop(self, error: BaseException | None) -> float | None:
        if self._is_inherited():
            return None
        if self.final_emissions_data is not None or not self._has_begun():
            logger.warning("the tracker has been stopped already, or was never started")
            return self.final_emissions
        if self._active_task is not None:
            self._stop_task(self._active_task, error)
        if self._whole is not None:
            self._whole.end(error)
        data = self.final_emissions_data = self._data(self._footprints())
        self.final_emissions = data.emissions
        self._write(data)
        return data.emissions

    def _stop_task(self, task: Tracked, error: BaseException | None) -> EmissionsData:
        task.end(error)
        task.emissions_data = self._data([self._at_place(task)])
        self._active_task = None
        return task.emissions_data

    def _is_inherited(self) -> bool:
        """Whether a fork has copied a tracker that its parent has started, and stops: its row is written once."""
        if self._process in (None, os.getpid()) or self.final_emissions_data is not None:
            return False
        log_once(
            "a tracker that was started before a fork does nothing in the child: its parent is charged for the "
            "child; to measure the child by itself, make a tracker there",
        )
        return True

    def _has_begun(self) -> bool:
        return self._whole is not None or bool(self._tasks)

    def _begin_again(self) -> None:
        self.run_id = uuid.uuid4()
        self._whole, self._tasks = None, {}
        self.final_emissions = self.final_emissions_data = None

    def _measure(self) -> None:
        """Begin the measurement, unless the process is measured already."""
        with _beginning:
            running = runtime.active()
            if running is None:
                carbon_otel.instrument(**cast(Any, self._settings))
                running = runtime.active()
            else:
                if self._place.zone is not None and not _has_place(running.options.settings):
                    carbon_otel.instrument(zone=self._place.zone)
                self._say_what_is_kept(running.options.settings)
            if running is not None and self._given.writes_file:
                self._say_place(running)
        by_process = running is not None and running.options.settings.attribution == "process"
        self._mode = "process" if by_process else "machine"
        self._given.say_what_does_nothing()
        self._hardware = contain("describing the hardware", figures.UNKNOWN, figures.hardware, running)

    def _say_place(self, running: runtime.Measurement) -> None:
        """The line at the end names the file, and none is needed beside it."""
        place = shortened(self._path.absolute())
        if all(sink.place() != place for sink in running.sinks):
            running.add_sink(_Rows(place))

    def _say_what_is_kept(self, settings: config.Settings) -> None:
        others = [
            f"{name}={getattr(settings, name)!r} instead of {value!r}"
            for name, value in self._settings.items()
            if value is not None and value != getattr(settings, name)
        ]
        if others:
            log_once(
                "the process is measured already, so a tracker keeps %s; only its country and PUE count in what "
                "it returns and writes, not in spans and runs",
                ", ".join(others),
                about=tuple(others),
            )

    def _at_place(self, tracked: Tracked) -> Footprint:
        return at(tracked.footprint, self._place.intensity, self._pue)

    def _footprints(self) -> list[Footprint]:
        """Of the tracker; without `start()`, of its tasks."""
        return [
            self._at_place(each) for each in (self._tasks.values() if self._whole is None else [self._whole])
        ]

    def _data(self, footprints: Sequence[Footprint]) -> EmissionsData:
        place = self._place
        return figures.emissions_data(
            footprints,
            {
                "project_name": self._project,
                "run_id": str(self.run_id),
                "experiment_id": self._given.text("experiment_id", _EXPERIMENT),
                "region": place.region,
                "cloud_provider": place.provider,
                "cloud_region": place.cloud_region,
                "on_cloud": "Y" if place.provider else "N",
                "tracking_mode": self._mode,
                "wue": self._wue,
                **self._hardware,
            },
        )

    def _write(self, data: EmissionsData) -> None:
        if not self._given.writes_file:
            return
        contain("writing emissions.csv", None, emissions_csv.write, self._path, data, update=self._update)
        tasks = {name: t.emissions_data for name, t in self._tasks.items() if t.emissions_data is not None}
        if tasks:
            experiment = self._given.text("experiment_name", "base").replace("/", "_")
            path = self._folder / f"emissions_{experiment}_{self.run_id}.csv"
            contain("writing the file of the tasks", None, emissions_csv.write_tasks, path, tasks)


class OfflineEmissionsTracker(EmissionsTracker):
    """The same tracker: here none asks the internet."""


class _Rows(Sink):
    """Stands for the file of a tracker."""

    def __init__(self, place: str) -> None:
        self._place = place

    def place(self) -> str:
        return self._place


def _has_place(settings: config.Settings) -> bool:
    return bool(settings.zone or settings.region or settings.detect_region or settings.intensity)


def _set_level(level: Any) -> None:
    if level is None:
        return
    try:
        logging.getLogger("carbon_otel").setLevel(level.upper() if isinstance(level, str) else level)
    except (TypeError, ValueError):
        log_once("log_level=%r is no level of logging; the level stays", level, about="log_level")
