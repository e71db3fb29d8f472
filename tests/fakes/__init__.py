"""Hardware as real as it gets without any: sysfs trees, and a C stub of libnvidia-ml."""
