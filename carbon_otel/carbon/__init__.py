"""Emission factors: from joules to grams of CO2 equivalent, by grid intensity and PUE."""
