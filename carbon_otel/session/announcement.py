"""The line at the start of a measurement, and the one at its end.

carbon_otel: measures cpu and memory by hardware counter (package-0, dram-0); the figures go to MLflow runs
carbon_otel: 12.4 Wh (11.8 to 13.1) and 0.51 g CO2e (0.43 to 0.58, FR) in 4 min 12 s, 98 % measured; look at …
"""

from __future__ import annotations

import importlib
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from carbon_otel import clock, quantities
from carbon_otel.footprint import Footprint
from carbon_otel.provenance import METHODS, Method
from carbon_otel.ranks import group
from carbon_otel.records import UNATTRIBUTED
from carbon_otel.session import audience
from carbon_otel.session.figures_file import FiguresFile
from carbon_otel.sinks import Figures

if TYPE_CHECKING:
    from carbon_otel.sensors.base import Device
    from carbon_otel.session.session import Session

_WORDS: Final[dict[Method, str]] = {
    "measured.counter": "by hardware counter",
    "measured.power": "by power sensor",
    "modelled.utilisation": "by a model of the load",
    "modelled.constant": "by a model of constant power",
}
# Of so many names of devices, the line has the first two.
_MOST_NAMES: Final = 4


class Announcement:
    """What a measurement says of itself, and the file that it writes where nothing else gets the figures.

    It speaks where the setting `announce` is on, in the main process of a program, and not under pytest.
    """

    def __init__(self, session: Session, *, keeps_journal: bool) -> None:
        self._session = session
        self._is_silent = audience.is_test() or audience.is_worker()
        self._on_terminal = audience.called_by_program()
        self._begun_s = clock.monotonic()
        self._said = False
        self.file: FiguresFile | None = None
        if self._on_terminal and self._speaks and not keeps_journal and not session.providers.listened:
            settings = session.settings
            self.file = FiguresFile(
                session.delivery,
                settings.state_dir,
                settings.checkpoint_interval_s,
                self._is_unheard,
                self._counts,
            )

    @property
    def _speaks(self) -> bool:
        return self._session.settings.announce and not self._is_silent

    def begin(self) -> None:
        """Say what is measured, by which tier, and where it goes."""
        if self._speaks:
            self._said = True
            audience.say(
                f"{measured(self._session.engine.devices)}; {self._destination()}",
                on_terminal=self._on_terminal,
            )

    def end(self, process: Figures) -> None:
        """Say what the measurement has found, and where to look for more."""
        footprint = process.footprint
        if self._said and self._speaks and self._counts(footprint):
            self._said = False
            where = " and ".join(self._places())
            look = f"; look at {where}" if where else ""
            audience.say(f"{_of_rank()}{found(footprint)}{look}", on_terminal=self._on_terminal)

    def _counts(self, footprint: Footprint) -> bool:
        """Whether there was more than the start: a stage, or time for a tick."""
        staged = any(kind != UNATTRIBUTED for kind in footprint.stages)
        return footprint.energy_j > 0 and (
            staged or footprint.duration_s >= self._session.settings.interval_s
        )

    def _is_unheard(self, at_end: bool) -> bool:
        """Whether nothing else gets the figures."""
        if not self._speaks or any(
            sink.place() for sink in self._session.engine.sinks if sink is not self.file
        ):
            return False
        # A program that has imported MLflow is about to begin a run.
        waits = not at_end and "mlflow" in sys.modules
        return not waits or clock.monotonic() - self._begun_s > self._session.settings.checkpoint_interval_s

    def _destination(self) -> str:
        places = [*self._places()]
        if "mlflow" in sys.modules:
            compat = importlib.import_module("carbon_otel.mlflow.compat")
            address = compat.explicit_tracking_uri()
            places.insert(0, f"MLflow runs ({address})" if address else "MLflow runs")
        otherwise = "" if self.file is None else f", else to a file in the folder {self.file.folder}"
        known = " and ".join(places) or "MLflow or OpenTelemetry once the program uses them"
        return f"the figures go to {known}{otherwise}"

    def _places(self) -> Iterator[str]:
        return filter(None, (sink.place() for sink in self._session.engine.sinks))


def measured(devices: Sequence[Device]) -> str:
    """The devices by their tier: `measures cpu by hardware counter (package-0)`."""
    if not devices:
        return "nothing can be measured on this machine; `carbon-otel doctor` says why"
    parts = []
    for method in METHODS:
        of_method = [device for device in devices if device.method == method]
        if of_method:
            kinds = dict.fromkeys(kind for each in of_method for kind in (each.type, *sorted(each.contains)))
            names = _counted([each.name for each in of_method])
            parts.append(f"{_listed([*kinds])} {_WORDS[method]} ({names})")
    return f"measures {', '.join(parts)}"


def found(footprint: Footprint) -> str:
    """Energy and emissions with their bands, and the share that sensors have measured."""
    energy = quantities.energy(footprint.energy_j, footprint.low_j, footprint.high_j)
    grams = quantities.emissions(footprint.emissions_g, footprint.low_g, footprint.high_g)
    grid = footprint.intensity.zone if footprint.intensity is not None else "several grids"
    share = footprint.measured_fraction
    doctor = "" if share else " (`carbon-otel doctor` says why)"
    return (
        f"{energy} and {grams} CO2e, grid {grid}, in {quantities.duration(footprint.duration_s)}; "
        f"{share:.0%} measured{doctor}"
    )


def _listed(words: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _counted(names: Sequence[str]) -> str:
    counted = [f"{number} x {name}" if number > 1 else name for name, number in Counter(names).items()]
    if len(counted) > _MOST_NAMES:
        counted[2:] = [f"{len(counted) - 2} more"]
    return ", ".join(counted)


def _of_rank() -> str:
    rank = group.rank
    return "" if rank is None else f"rank {rank.rank} of {rank.world_size}: "
