"""Energy and carbon before the run: from the model and the hardware to an interval with its assumptions."""
