"""Costs in bars of tqdm, rich and Lightning: beside what the program shows, and only if they are asked for."""

from __future__ import annotations

import io
import re
import sys
import time
import warnings

import pytest

import carbon_otel
from carbon_otel.instrumentation import progress_bars
from tests.fakes.drawing import Drawing
from tests.fakes.powercap import server

COST = r"[\d.,]+ m?(J|Wh), [\d.,]+ [mµ]g"


@pytest.fixture
def measure(tmp_path, monkeypatch):
    """Begins a measurement on two packages of 50 W; bars read it as often as they are drawn."""
    monkeypatch.setattr(progress_bars, "_EVERY_S", 0.0)
    monkeypatch.setattr(progress_bars, "_AT_EDGE_S", 0.0)
    with Drawing(server(tmp_path), zones=2, watts=50) as drawing:

        def begin(**settings):
            carbon_otel.instrument(zone="FR", powercap_root=drawing.root, **settings)

        yield begin
        carbon_otel.uninstrument()


def work():
    """Until the counters have moved."""
    time.sleep(0.05)


class TestTqdm:
    @pytest.fixture(autouse=True)
    def tqdm(self):
        self.std = pytest.importorskip("tqdm.std")

    def bar(self, **settings):
        return self.std.tqdm(total=10, file=io.StringIO(), ncols=120, **settings)

    def test_off_by_default(self, measure):
        before = vars(self.std.tqdm)["format_dict"]
        measure()
        assert vars(self.std.tqdm)["format_dict"] is before

    def test_the_cost_stands_after_the_postfix_of_the_program(self, measure):
        measure(progress_bars=True)
        bar = self.bar()
        work()
        assert re.search(rf"it/s, {COST}\]$", str(bar))
        bar.set_postfix(loss=0.5)
        assert bar.postfix == "loss=0.5"
        assert re.search(rf", loss=0\.5, {COST}\]$", str(bar))
        bar.set_postfix_str("")
        assert re.search(COST, str(bar))

    def test_a_postfix_for_a_format_of_the_program_is_left_as_it_is(self, measure):
        measure(progress_bars=True)
        bar = self.bar(bar_format="{postfix[0]} {postfix[1][value]}", postfix=["Batch", {"value": 3}])
        work()
        assert str(bar) == "Batch 3"

    def test_a_bar_costs_what_the_process_has_used_since_it_began(self, measure):
        measure(progress_bars=True)
        before_j = carbon_otel.footprint().energy_j
        bar = self.bar()
        begun_j = carbon_otel.footprint().energy_j
        work()
        shown_after_j = carbon_otel.footprint().energy_j
        text = str(bar)
        least, most = shown_after_j - begun_j, carbon_otel.footprint().energy_j - before_j
        joules = float(re.search(r"([\d.]+) J,", text)[1])
        assert least * 0.99 <= joules <= most * 1.01
        bar.reset()
        assert not re.search(COST, str(bar)) or float(re.search(r"([\d.]+) m?J,", str(bar))[1]) != joules

    def test_a_bar_that_is_closed_keeps_its_cost(self, measure):
        measure(progress_bars=True)
        bar = self.bar()
        work()
        bar.close()
        last = re.search(COST, bar.fp.getvalue().splitlines()[-1])
        work()
        assert last and last[0] in str(bar)

    def test_a_bar_that_draws_nothing_works(self, measure):
        measure(progress_bars=True)
        for _ in self.std.tqdm(range(3), disable=True):
            work()

    def test_undone_exactly_and_switched_by_later_calls(self, measure):
        before = vars(self.std.tqdm)["format_dict"]
        measure()
        carbon_otel.instrument(progress_bars=True)
        carbon_otel.instrument(progress_bars=True)
        bar = self.bar()
        work()
        assert len(re.findall(COST, str(bar))) == 1
        carbon_otel.instrument(progress_bars=False)
        bar.postfix = "mine"
        assert str(self.bar()).count("J") == 0
        carbon_otel.instrument(progress_bars=True)
        assert len(re.findall(COST, str(bar))) == 1
        carbon_otel.uninstrument()
        assert vars(self.std.tqdm)["format_dict"] is before

    def test_a_fault_of_ours_leaves_the_bar(self, measure, monkeypatch, caplog):
        measure(progress_bars=True)
        bar = self.bar()
        monkeypatch.setattr(progress_bars.quantities, "energy", lambda joules: 1 / 0)
        work()
        assert "0/10 [" in str(bar)
        assert "showing a cost in a bar" in caplog.text


class TestRich:
    @pytest.fixture(autouse=True)
    def rich(self):
        self.progress = pytest.importorskip("rich.progress")

    def display(self, *columns):
        from rich.console import Console

        console = Console(file=io.StringIO(), width=120, force_terminal=True)
        return self.progress.Progress(*columns, console=console, auto_refresh=False)

    def shown(self, display):
        from rich.console import Console

        console = Console(file=io.StringIO(), width=120)
        console.print(display.get_renderable())
        return console.file.getvalue()

    def test_each_bar_has_its_cost_in_a_further_column(self, measure):
        measure(progress_bars=True)
        display = self.display()
        display.add_task("first", total=10)
        self.shown(display)
        for _ in range(10):
            work()
        display.add_task("second", total=10)
        self.shown(display)
        work()
        lines = self.shown(display).splitlines()
        costs = [float(re.search(r"([\d.]+) J,", line)[1]) for line in lines]  # read one after the other
        assert len(costs) == 2 and costs[0] > costs[1] > 0
        assert len(display.columns) == len(self.progress.Progress.get_default_columns())

    def test_a_finished_bar_keeps_its_cost(self, measure):
        measure(progress_bars=True)
        display = self.display()
        task = display.add_task("first", total=10)
        self.shown(display)
        work()
        display.update(task, completed=10)
        first = self.shown(display)
        work()
        assert re.search(COST, first)[0] == re.search(COST, self.shown(display))[0]

    def test_columns_of_the_program_and_a_name_with_markup(self, measure):
        measure(progress_bars=True)
        display = self.display("{task.description}", self.progress.BarColumn())
        display.add_task("mine", total=10)
        self.shown(display)
        work()
        assert re.search(rf"mine .* {COST}", self.shown(display))

    def test_undone_exactly(self, measure):
        before = vars(self.progress.Progress)["make_tasks_table"]
        measure(progress_bars=True)
        display = self.display()
        display.add_task("first", total=10)
        carbon_otel.uninstrument()
        assert vars(self.progress.Progress)["make_tasks_table"] is before
        assert not re.search(COST, self.shown(display))


@pytest.mark.parametrize("bar", ["TQDMProgressBar", "RichProgressBar"])
def test_lightning(measure, bar, monkeypatch, capsys):
    torch = pytest.importorskip("torch")
    lightning = pytest.importorskip("lightning.pytorch")
    callbacks = pytest.importorskip("lightning.pytorch.callbacks")
    warnings.simplefilter("ignore")
    measure(progress_bars=True)

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(4, 1)

        def training_step(self, batch, _):
            time.sleep(0.02)
            loss = self.layer(batch[0]).square().mean()
            self.log("mine", loss, prog_bar=True)
            return loss

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.01)

    monkeypatch.setenv("COLUMNS", "150")
    monkeypatch.setenv("FORCE_COLOR", "1")
    data = torch.utils.data.TensorDataset(torch.ones(20, 4))
    lightning.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        callbacks=[getattr(callbacks, bar)(refresh_rate=1)],
    ).fit(Module(), torch.utils.data.DataLoader(data, batch_size=4))
    out, err = capsys.readouterr()
    plain = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", out + err)
    assert re.search(COST, plain) and "mine" in plain, plain[-2000:]
    assert sys.modules["tqdm.std"]
