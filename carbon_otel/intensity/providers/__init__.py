"""One file for each provider of carbon intensities."""
