"""Hardware as real as it gets without any: sysfs trees, a C stub of libnvidia-ml, devices on a virtual clock."""
