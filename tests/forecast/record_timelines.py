"""Record the time of each step of real loops: `python -m tests.forecast.record_timelines` (group frameworks).

The processor time of each step is recorded, in microseconds, the least of several recordings: on a shared machine
it is nearest to the time that the loop would take alone. `test_recorded.py` forecasts the loops from their first
5 %.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable
from pathlib import Path

FILE = Path(__file__).parent / "timelines.json"
RECORDINGS = 12
Step = Callable[[], None]


def torch_loop(step: Step) -> None:
    """Forty epochs of 25 steps with a schedule; the first reads the data, each ends with an evaluation."""
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.ReLU(), torch.nn.Linear(256, 10))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=1000)
    kept: dict[int, torch.Tensor] = {}
    for _ in range(40):
        for i in range(25):
            if i not in kept:
                kept[i] = torch.tensor([[float(j * k % 7) for j in range(64)] for k in range(128)])
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(kept[i]), torch.arange(128) % 10).backward()
            optimizer.step()
            schedule.step()
            if i == 24:
                with torch.no_grad():
                    for batch in kept.values():
                        model(batch)
            step()


def forest(step: Step) -> None:
    """Two hundred trees, one after another."""
    from sklearn.datasets import make_classification
    from sklearn.ensemble import RandomForestClassifier

    features, target = make_classification(2000, 20, random_state=0)
    model = RandomForestClassifier(warm_start=True, random_state=0)
    for trees in range(1, 201):
        model.set_params(n_estimators=trees)
        model.fit(features, target)
        step()


def boosting(step: Step) -> None:
    """Three hundred rounds of scikit-learn's gradient boosting."""
    from sklearn.datasets import make_classification
    from sklearn.ensemble import GradientBoostingClassifier

    features, target = make_classification(2000, 20, random_state=0)
    GradientBoostingClassifier(n_estimators=300).fit(features, target, monitor=lambda *_: step() is not None)


def xgboost_rounds(step: Step) -> None:
    """Four hundred rounds of XGBoost with a falling learning rate and an evaluation in each."""
    import xgboost
    from sklearn.datasets import make_classification

    features, target = make_classification(4000, 20, random_state=0)
    data = xgboost.DMatrix(features[:3000], target[:3000])
    held = xgboost.DMatrix(features[3000:], target[3000:])

    class Count(xgboost.callback.TrainingCallback):
        def after_iteration(self, model, epoch, evals_log):
            step()
            return False

    schedule = xgboost.callback.LearningRateScheduler(lambda i: 0.3 / (1 + i / 50))
    xgboost.train(
        {"nthread": 1}, data, 400, evals=[(held, "held")], verbose_eval=False, callbacks=[schedule, Count()]
    )


def record(loop: Callable[[Step], None]) -> list[int]:
    """Microseconds of processor time of each step."""
    times = [time.process_time()]
    loop(lambda: times.append(time.process_time()))
    return [round(1e6 * (b - a)) for a, b in itertools.pairwise(times)]


if __name__ == "__main__":
    loops = (torch_loop, forest, boosting, xgboost_rounds)
    lines = {}
    for loop in loops:
        recordings = [record(loop) for _ in range(RECORDINGS)]
        lines[loop.__name__] = [min(step) for step in zip(*recordings, strict=True)]
    FILE.write_text("{\n" + ",\n".join(f'"{n}": {json.dumps(t)}' for n, t in lines.items()) + "\n}\n")
