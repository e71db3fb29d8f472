"""The names that the code of the pages uses. `fit` and `predict` draw exact joules from a fake counter."""

import os
import tempfile
import time
from pathlib import Path

from sklearn.base import BaseEstimator, ClassifierMixin

import carbon_otel
from carbon_otel.sensors.proc_stat import BusyTime
from tests.fakes.powercap import server

_folder = Path(tempfile.mkdtemp(dir=".")).absolute()
_host = server(_folder)
# The host does not tell its processor time. So a busy one is no reason to tell the runs apart.
(_folder / "stat").touch()
BusyTime.__init__.__defaults__ = (_folder / "stat",)
os.environ["CARBON_OTEL_POWERCAP_ROOT"] = str(_host.root)
# No tick while the code runs: each edge reads the counter, so the figures are exact.
os.environ["CARBON_OTEL_INTERVAL_S"] = "30"


def draw(joules: float) -> None:
    """Draw some power below 100 W until `joules` are used."""
    for _ in range(20):
        time.sleep(joules / 20 / 100)
        _host.package[0].add(joules / 20)
    time.sleep(0.01)  # the next edge reads the counter again


def settle() -> None:
    """Let an edge without a fresh reading, which is extrapolated, be paid outside of the stages that follow."""
    draw(1)
    for _ in range(2):
        carbon_otel.footprint()
        time.sleep(0.01)


class Forest(ClassifierMixin, BaseEstimator):
    """A model whose training uses 36 J."""

    def fit(self, X, y):  # noqa: N803 - as in scikit-learn
        draw(36)
        return self

    def predict(self, X):  # noqa: N803 - as in scikit-learn
        draw(1)
        return [0] * len(X)


def load() -> tuple[list[list[float]], list[int]]:
    """A thousand samples."""
    return [[0.0]] * 1000, [0] * 1000


X, y = load()
model = Forest()
