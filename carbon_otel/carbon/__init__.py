"""From joules to grams of CO2 equivalent: grid intensity tables and PUE."""
