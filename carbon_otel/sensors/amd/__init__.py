"""AMD GPUs, read through the library amdsmi."""
