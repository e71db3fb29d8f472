"""Energy and emissions as metrics and tags of MLflow runs. MLflow is noticed when it is there, never imported."""
