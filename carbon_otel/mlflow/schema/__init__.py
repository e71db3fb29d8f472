"""The names of the metrics and tags in MLflow, and the text of their values."""
