"""Gradient boosting with a search by Optuna. No stage is written by hand.

    pip install xgboost-cpu optuna pandas scikit-learn && python examples/boosting.py

The study is a stage, each trial another in it, and in a trial the training and the prediction.
"""

from __future__ import annotations

import numpy as np
import optuna
import pandas as pd
import xgboost

import carbon_otel


def table(rows: int = 100_000) -> pd.DataFrame:
    """Customers, with what they have bought."""
    random = np.random.default_rng(0)
    customers = pd.DataFrame({"customer": np.arange(rows), "age": random.integers(18, 90, rows)})
    bought = pd.DataFrame(
        {"customer": random.integers(0, rows, 5 * rows), "amount": random.gamma(2, 20, 5 * rows)}
    )
    sums = bought.groupby("customer").sum().reset_index()
    joined = customers.merge(sums, on="customer", how="left").fillna({"amount": 0})
    joined["returns"] = (joined["amount"] / 200 + joined["age"] / 100 + random.normal(0, 0.3, rows)) > 1
    return joined


def matrices(data: pd.DataFrame) -> tuple[xgboost.DMatrix, xgboost.DMatrix]:
    """One half to train on, the other to test."""
    half = len(data) // 2
    features, labels = data[["age", "amount"]], data["returns"]
    return (
        xgboost.DMatrix(features[:half], labels[:half]),
        xgboost.DMatrix(features[half:], labels[half:]),
    )


def search(train: xgboost.DMatrix, test: xgboost.DMatrix, trials: int = 5) -> optuna.Study:
    """Look for the best depth and rate."""

    def error(trial: optuna.Trial) -> float:
        settings = {
            "objective": "binary:logistic",
            "max_depth": trial.suggest_int("max_depth", 2, 8),
            "eta": trial.suggest_float("eta", 0.05, 0.5, log=True),
        }
        model = xgboost.train(settings, train, num_boost_round=50)
        return float(np.mean((model.predict(test) > 0.5) != test.get_label()))

    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0))
    study.optimize(error, n_trials=trials)
    return study


def main() -> None:
    """Search, and print what the stages have used."""
    carbon_otel.instrument(zone="FR")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = search(*matrices(table()))
    print(f"error {study.best_value:.3f} with {study.best_params}")
    carbon_otel.flush()
    for kind, cost in carbon_otel.footprint().stages.items():
        print(f"{kind:<16} {cost.energy_j:8.2f} J {cost.emissions_g * 1000:8.3f} mg CO2e")


if __name__ == "__main__":
    main()
