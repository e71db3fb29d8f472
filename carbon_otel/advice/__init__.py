"""What to do about the figures: advice computed from measured runs, and factors from the literature beside it."""
