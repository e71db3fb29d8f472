"""MLflow's pages in a real browser show the groups, figures, tags and description of carbon_otel."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
import urllib.parse
from pathlib import Path

import pytest

import carbon_otel
from tests.fakes.powercap import server as powercap
from tests.integration.stores import tracking

mlflow = pytest.importorskip("mlflow")

pytestmark = pytest.mark.chaos
ATTEMPTS = ((0.81, 40), (0.86, 60), (0.87, 90))  # accuracy, steps of training


class Pages:
    """An experiment with three attempts, and a browser to look at them."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.url = folder, url
        self.tree = powercap(folder / "sys")
        self.run_ids: list[str] = []

    def make_runs(self) -> None:
        self.experiment = mlflow.create_experiment("churn", artifact_location=self.folder.as_uri())
        carbon_otel.instrument(
            zone="FR",
            powercap_root=self.tree.root,
            interval_s=0.1,
            checkpoint_interval_s=0.3,
            efficiency_metric="accuracy",
        )
        try:
            for number, (accuracy, joules) in enumerate(ATTEMPTS):
                with mlflow.start_run(run_name=f"attempt {number}", experiment_id=self.experiment) as run:
                    mlflow.log_param("depth", 4 + 2 * number)
                    self.stage("data_processing", 40)
                    self.stage("training", joules)
                    self.stage("evaluation", 20)
                    mlflow.log_metric("accuracy", accuracy)
                self.run_ids.append(run.info.run_id)
            carbon_otel.flush(30)
        finally:
            carbon_otel.uninstrument()

    def stage(self, kind: str, joules: int) -> None:
        """Draws about 300 W, long enough for more than one checkpoint."""
        with carbon_otel.stage(kind) as stage:
            for _ in range(joules):
                time.sleep(0.01)
                for zone in (*self.tree.package, *self.tree.dram):
                    zone.add(1 if zone in self.tree.package else 0.25)
            stage.units(samples=10_000)

    def look(self, name: str, path: str, height: int) -> str:
        """The text of the page after it is rendered; its screenshot is in the folder."""
        picture = self.folder / f"{name}.png"
        command = ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        command += [f"--window-size=1700,{height}", "--virtual-time-budget=30000"]
        command += [f"--user-data-dir={self.folder / 'browser'}"]
        command += ["--dump-dom", f"--screenshot={picture}", f"{self.url}/#{path}"]
        document = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, timeout=240, check=True
        ).stdout
        assert picture.stat().st_size > 10_000
        print(f"{name}: {picture}")
        return re.sub(r"\s+", " ", re.sub(r"<style.*?</style>|<script.*?</script>|<[^>]+>", " ", document))


@pytest.fixture(scope="module")
def pages(tmp_path_factory, tracking_server):
    if shutil.which("chromium") is None:
        pytest.skip("needs Debian's package chromium")
    with tracking(tracking_server.url) as url:
        made = Pages(tmp_path_factory.mktemp("pages"), url)
        made.make_runs()
        yield made


def test_the_page_of_a_run(pages):
    text = pages.look("run", f"/experiments/{pages.experiment}/runs/{pages.run_ids[-1]}", 2600)
    run = mlflow.MlflowClient(pages.url).get_run(pages.run_ids[-1])
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
