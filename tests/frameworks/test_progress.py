"""Loops of PyTorch and of boosting libraries that forecast themselves.

Their steps take what the machine gives them, so nothing is asserted about how good the forecast is:
`tests/forecast` asserts that on their timelines.
"""

from __future__ import annotations

import time

import pytest

import carbon_otel
from carbon_otel import runtime
from tests.fakes.drawing import Drawing
from tests.fakes.powercap import server
from tests.forecast.measurement import Told


def torch_loop(progress):
    torch = pytest.importorskip("torch")
    model = torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.ReLU(), torch.nn.Linear(64, 1))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 60)
    data = torch.utils.data.TensorDataset(torch.randn(256, 32), torch.randn(256, 1))
    loader = torch.utils.data.DataLoader(data, batch_size=32)
    for epoch in progress(range(60)):
        for features, target in loader:
            optimizer.zero_grad()
            torch.nn.functional.mse_loss(model(features), target).backward()
            optimizer.step()
        schedule.step()
        if epoch % 3 == 0:
            with torch.no_grad():
                model(data.tensors[0])
        time.sleep(0.2 if epoch == 0 else 0.05)


def xgboost_loop(progress):
    xgboost = pytest.importorskip("xgboost")
    numpy = pytest.importorskip("numpy")
    features = numpy.random.default_rng(0).random((200, 4))
    loop = progress(total=60)

    class Count(xgboost.callback.TrainingCallback):
        def after_iteration(self, model, epoch, evals_log):
            time.sleep(0.05)
            loop.update()
            return False

    with loop:
        data = xgboost.DMatrix(features, features[:, 0])
        xgboost.train(
            {"eta": 0.3},
            data,
            60,
            callbacks=[Count(), xgboost.callback.LearningRateScheduler(lambda i: 0.3 / (i + 1))],
        )


def lightgbm_loop(progress):
    lightgbm = pytest.importorskip("lightgbm")
    numpy = pytest.importorskip("numpy")
    features = numpy.random.default_rng(0).random((200, 4))
    loop = progress(total=60)

    def count(_):
        time.sleep(0.05)
        loop.update()

    with loop:
        data = lightgbm.Dataset(features, features[:, 0])
        lightgbm.train({"verbose": -1}, data, 60, callbacks=[count])


@pytest.mark.parametrize("loop", [torch_loop, xgboost_loop, lightgbm_loop])
def test_a_real_loop_forecasts_itself(loop, tmp_path):
    told = Told()
    with Drawing(server(tmp_path), zones=1, watts=50) as host:
        carbon_otel.instrument(zone="FR", powercap_root=host.root, interval_s=0.1)
        runtime.active().engine.sinks.add(told)
        with carbon_otel.stage("training") as stage:
            loop(carbon_otel.progress)
        carbon_otel.uninstrument()
    own = [f for kind, f in told.foresights if kind == "training"]
    assert own and own[-1].done == 1 and own[-1].measured_j is not None
    assert 0 < own[-1].measured_j <= stage.footprint.energy_j * 1.001
    assert [f.done for f in own] == sorted(f.done for f in own) and own[0].done >= 0.05
