"""MLflow runs as stages: a run is measured from its start to its end."""
