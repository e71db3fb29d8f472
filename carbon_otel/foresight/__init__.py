"""Forecasts in a running measurement: of an estimator here, of a loop, and held against what was measured."""
