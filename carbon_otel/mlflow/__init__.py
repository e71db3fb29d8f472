"""Energy and emissions as metrics and tags of MLflow runs. carbon_otel never imports MLflow; the program does."""
