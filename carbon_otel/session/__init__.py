"""The composition root: creates and connects sensors, meter, stages, carbon, sinks and integrations.

================  ==========================================================================================
`session`         a running measurement
`changes`         settings that a later call of `instrument()` names
`watchers`        what follows the application's own spans
`waiting`         a process that begins to measure at its first stage
`patches`         the patches of libraries
================  ==========================================================================================
"""
