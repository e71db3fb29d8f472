"""`python -m carbon_otel.cli`: the command `carbon-otel`."""

from carbon_otel.cli import app

app(prog_name="carbon-otel")
