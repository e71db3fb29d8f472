"""Raw readings from hardware, one file per kind; and the models used where no sensor exists."""
