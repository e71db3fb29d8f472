"""Emission factors: from joules to grams of CO2 equivalent, by the grid's intensity and the PUE."""
