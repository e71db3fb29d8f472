"""Forecasts in a running measurement: of an estimator on this machine, held against what was measured, in a loop."""
