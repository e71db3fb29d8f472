from carbon_otel.cli import app

app(prog_name="carbon-otel")
