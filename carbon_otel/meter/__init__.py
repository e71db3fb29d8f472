"""From raw readings to one monotone timeline of joules per device."""
