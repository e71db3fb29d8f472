"""Energy outside of MLflow runs: stages with a lineage, and predictions of served models."""
