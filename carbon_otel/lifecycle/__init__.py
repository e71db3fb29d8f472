"""The cost of a model over its whole life, read from the runs of an MLflow store."""
