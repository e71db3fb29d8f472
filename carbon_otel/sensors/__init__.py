"""Raw readings from hardware, one file per kind, and the models of components without a sensor."""
