"""Loaded by the interpreter of a program under `carbon-otel run`."""

try:
    from carbon_otel.cli import autoload
except ImportError:  # another interpreter, which does not have us: the program runs unmeasured
    pass
else:
    autoload.load()
    autoload.chain()
