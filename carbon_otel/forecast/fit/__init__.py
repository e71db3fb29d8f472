"""Fits the constants in `data/fitted.json` from the tables beside it: `python -m carbon_otel.forecast.fit`.

A forecast reads the constants alone. What they are worth is scored by leaving out each family of models in
turn, so a run never helps to fit the prior that judges it: `pytest tests/forecast -s` prints the scores.
"""
