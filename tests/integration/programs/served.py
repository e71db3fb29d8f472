"""A WSGI application that is measured before its server forks."""

import os

import carbon_otel

carbon_otel.instrument(zone="FR", interval_s=0.25)


def app(environ, start_response):
    with carbon_otel.stage("inference", "predict"):
        sum(i * i for i in range(50_000))
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]
