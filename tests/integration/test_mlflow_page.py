"""What people see in MLflow: its pages in a real browser have our groups, figures, tags and description."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import threading
import time
import urllib.parse
from pathlib import Path

import pytest

import carbon_otel
from tests.fakes.powercap import server as powercap
from tests.integration.servers import MlflowServer

mlflow = pytest.importorskip("mlflow") if not os.environ.get("CI") else __import__("mlflow")

pytestmark = pytest.mark.chaos
ATTEMPTS = ((0.81, 1.5), (0.86, 2.5), (0.87, 4.0))


class Pages:
    """An experiment with three attempts, and a browser to look at them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.server = MlflowServer(folder)
        self.server.start()
        self.tree = powercap(folder / "sys")
        self.run_ids: list[str] = []

    def make_runs(self) -> None:
        mlflow.set_tracking_uri(self.server.url)
        self.experiment = mlflow.set_experiment("churn").experiment_id
        watts, end = [100.0], threading.Event()

        def draw() -> None:
            while not end.wait(0.02):
                for zone in (*self.tree.package, *self.tree.dram):
                    zone.add(watts[0] * 0.02 * (0.4 if zone in self.tree.package else 0.1))

        drawing = threading.Thread(target=draw)
        drawing.start()
        carbon_otel.instrument(
            zone="FR",
            powercap_root=self.tree.root,
            interval_s=0.1,
            checkpoint_interval_s=0.3,
            efficiency_metric="accuracy",
        )
        try:
            for number, (accuracy, seconds) in enumerate(ATTEMPTS):
                with mlflow.start_run(run_name=f"attempt {number}") as run:
                    mlflow.log_param("depth", 4 + 2 * number)
                    for kind, power, lasts in (
                        ("data_processing", 300.0, 0.8),
                        ("training", 900.0 + 200 * number, seconds),
                        ("evaluation", 600.0, 0.6),
                    ):
                        watts[0] = power
                        with carbon_otel.stage(kind) as stage:
                            time.sleep(lasts)
                            stage.units(samples=10_000)
                    mlflow.log_metric("accuracy", accuracy)
                self.run_ids.append(run.info.run_id)
            carbon_otel.flush(30)
        finally:
            carbon_otel.uninstrument()
            end.set()
            drawing.join()

    def look(self, name: str, path: str, height: int) -> str:
        """The page's text, once it is drawn; its picture is in the folder."""
        browser = shutil.which("chromium") or shutil.which("chromium-browser")
        assert browser is not None
        common = [
            browser,
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            f"--window-size=1700,{height}",
            "--virtual-time-budget=30000",
            f"--user-data-dir={self.folder / 'browser'}",
        ]
        url = f"{self.server.url}/#{path}"
        quiet = {"stderr": subprocess.DEVNULL, "timeout": 120, "check": True}
        picture = self.folder / f"{name}.png"
        subprocess.run([*common, f"--screenshot={picture}", url], stdout=subprocess.DEVNULL, **quiet)
        assert picture.stat().st_size > 10_000
        print(f"{name}: {picture}")
        document = subprocess.run(
            [*common, "--dump-dom", url], stdout=subprocess.PIPE, text=True, **quiet
        ).stdout
        return re.sub(r"\s+", " ", re.sub(r"<style.*?</style>|<script.*?</script>|<[^>]+>", " ", document))


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    if shutil.which("chromium") is None and not os.environ.get("CI"):
        pytest.skip("needs Debian's package chromium")
    before = mlflow.get_tracking_uri()
    made = Pages(tmp_path_factory.mktemp("pages"))
    try:
        made.make_runs()
        yield made
    finally:
        made.server.kill()
        mlflow.set_tracking_uri(before)


def test_the_page_of_a_run(pages):
    text = pages.look("run", f"/experiments/{pages.experiment}/runs/{pages.run_ids[-1]}", 2600)
    run = mlflow.MlflowClient(pages.server.url).get_run(pages.run_ids[-1])
    assert f"{run.data.metrics['carbon/energy_wh']}"[:8] in text
    for shown in ("Energy and carbon", "measured by a sensor", "carbon/energy_wh", "carbon/accuracy_per_g"):
        assert shown in text
    for tag in ("carbon.zone", "carbon.method", "measured.counter", "carbon.hardware"):
        assert tag in text


def test_the_metrics_of_a_run(pages):
    path = f"/experiments/{pages.experiment}/runs/{pages.run_ids[-1]}/model-metrics"
    text = pages.look("metrics", path, 6000)
    for group in (
        "carbon (",
        "carbon/training (",
        "carbon/power (",
        "carbon/devices (",
        "carbon/evaluation (",
    ):
        assert group in text, text


def test_runs_side_by_side(pages):
    def listed(*items: str) -> str:
        return urllib.parse.quote(json.dumps(items, separators=(",", ":")))

    path = f"/compare-runs?runs={listed(*pages.run_ids)}&experiments={listed(pages.experiment)}"
    text = pages.look("compare", path, 2600)
    assert "Comparing 3 Runs" in text
    for shown in ("carbon/accuracy_per_g", "carbon/components/cpu_wh", "carbon.attribution", "0.87"):
        assert shown in text


def test_the_charts_of_an_experiment(pages):
    text = pages.look("charts", f"/experiments/{pages.experiment}/runs?compareRunsMode=CHART", 6000)
    for shown in ("attempt 0", "attempt 2", "carbon (", "carbon/training ("):
        assert shown in text
