"""Raw readings from hardware, one file per kind, and models of components without a sensor."""
