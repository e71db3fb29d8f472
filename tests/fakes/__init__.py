"""Stand-ins for hardware: sysfs trees, C stubs of the vendors' libraries, devices on a virtual clock."""
