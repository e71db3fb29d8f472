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
from carbon_otel.mlflow.schema import pages as pages_schema
from tests.fakes.powercap import server as powercap
from tests.integration.stores import tracking

mlflow = pytest.importorskip("mlflow")

pytestmark = pytest.mark.chaos
ATTEMPTS = ((0.81, 40), (0.86, 60), (0.87, 90))  # accuracy, steps of training
# As the demo: a run of milliwatt-hours.
TINY_J = 9


class Pages:
    """An experiment with three attempts, and a browser to look at them."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.url = folder, url
        self.tree = powercap(folder / "sys")
        self.run_ids: list[str] = []

    def make_runs(self) -> None:
        self.experiment = mlflow.create_experiment("churn", artifact_location=self.folder.as_uri())
        self.tiny_experiment = mlflow.create_experiment("tiny", artifact_location=self.folder.as_uri())
        carbon_otel.instrument(
            zone="FR",
            powercap_root=self.tree.root,
            interval_s=0.1,
            checkpoint_interval_s=5,
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
            with mlflow.start_run(run_name="tiny", experiment_id=self.tiny_experiment) as run:
                with carbon_otel.stage("training") as stage:
                    time.sleep(0.3)
                    for zone in self.tree.package:
                        zone.add(TINY_J / 2)
                    stage.units(samples=10_000)
                mlflow.log_metric("accuracy", 0.81)
            self.tiny = run.info.run_id
            carbon_otel.flush(30)
        finally:
            carbon_otel.uninstrument()

    def stage(self, kind: str, joules: int) -> None:
        """Draws about 300 W."""
        with carbon_otel.stage(kind) as stage:
            for _ in range(joules):
                time.sleep(0.01)
                for zone in (*self.tree.package, *self.tree.dram):
                    zone.add(1 if zone in self.tree.package else 0.25)
            stage.units(samples=10_000)

    def look(self, name: str, path: str, height: int, *until: str) -> str:
        """The text of the page after it is rendered; its screenshot is in the folder.

        A busy machine may need several looks until all of `until` is drawn.
        """
        for _ in range(10):
            text = self._look(name, path, height)
            missing = [each for each in until if each not in text]
            if not missing:
                break
        assert not missing, text
        return text

    def _look(self, name: str, path: str, height: int) -> str:
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
    text = pages.look("run", f"/experiments/{pages.experiment}/runs/{pages.run_ids[-1]}", 1400)
    data = mlflow.MlflowClient(pages.url).get_run(pages.run_ids[-1]).data
    assert f"{data.metrics['carbon/energy_wh']}"[:8] in text
    for shown in ("Energy and carbon", "measured by a sensor", "carbon/energy_wh", "carbon/accuracy_per_g"):
        assert shown in text
    seen = re.findall(r"carbon\.\w+", text)
    assert set(seen) == set(pages_schema.tags(dict.fromkeys(data.tags, ""))) and len(set(seen)) == 8
    assert pages_schema.HIDDEN not in text


def test_the_metric_of_the_user_comes_first(pages):
    """The page has the order of the store; MLflow puts system metrics before all others, so they are few."""
    path = f"/experiments/{pages.experiment}/runs/{pages.run_ids[-1]}"
    text = pages.look("run", path, 1400)
    names = re.findall(r"(?:system/)?carbon/[\w/]+|accuracy(?!_)", text[text.index("Metrics (") :])
    model = [name for name in dict.fromkeys(names) if not name.startswith("system/")]
    assert model[:5] == [
        "accuracy",
        "carbon/energy_kwh",
        "carbon/emissions_kg",
        "carbon/energy_wh",
        "carbon/emissions_g",
    ]
    assert len(model) - 1 <= 15 and len(set(names)) - len(model) <= 6


def test_the_metrics_of_a_run(pages):
    path = f"/experiments/{pages.experiment}/runs/{pages.run_ids[-1]}/model-metrics"
    text = pages.look("metrics", path, 2900, "attempt 2 (carbon/training/energy_wh)")
    for group in ("carbon (", "carbon/data_processing (", "carbon/training (", "carbon/evaluation ("):
        assert group in text, text
    text = pages.look("system", path.replace("model-metrics", "system-metrics"), 1400)
    for group in ("carbon/power (", "carbon/components ("):
        assert group in text, text


def test_no_chart_of_a_tiny_run_reads_zero(pages):
    """MLflow labels a bar with two decimals; the axis of a line has up to six."""
    path = f"/experiments/{pages.tiny_experiment}/runs/{pages.tiny}/model-metrics"
    metrics = mlflow.MlflowClient(pages.url).get_run(pages.tiny).data.metrics
    # What each chart has once it is drawn: a line has a legend, a bar has a label.
    drawn = [
        f"tiny ({name})" if pages_schema.is_sum(name) else f" {value:.2f} "
        for name, value in metrics.items()
        if not name.startswith(pages_schema.SYSTEM)
    ]
    assert len(drawn) == 10
    text = pages.look("tiny", path, 2900, *drawn)
    assert metrics["carbon/energy_wh"] < 0.005
    assert "carbon/training (" in text and not re.search(r"(?<![\d.])0\.00(?!\d)", text), text


def test_runs_side_by_side(pages):
    def listed(*items: str) -> str:
        return urllib.parse.quote(json.dumps(items, separators=(",", ":")))

    path = f"/compare-runs?runs={listed(*pages.run_ids)}&experiments={listed(pages.experiment)}"
    text = pages.look("compare", path, 2600)
    assert "Comparing 3 Runs" in text
    for shown in ("carbon/accuracy_per_g", "carbon/training/energy_wh", "carbon.energy_kwh", "0.87"):
        assert shown in text


def test_the_charts_of_an_experiment(pages):
    text = pages.look("charts", f"/experiments/{pages.experiment}/runs?compareRunsMode=CHART", 6000)
    for shown in ("attempt 0", "attempt 2", "carbon (", "carbon/training ("):
        assert shown in text
