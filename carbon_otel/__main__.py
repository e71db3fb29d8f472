"""`python -m carbon_otel`: the command `carbon-otel`."""

from carbon_otel.cli import app

if __name__ == "__main__":
    app(prog_name="carbon-otel")
