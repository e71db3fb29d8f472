"""A server flushes its session at its shutdown, because its process ends by a signal, without atexit."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

from carbon_otel import runtime
from carbon_otel.instrumentation.uvicorn import UvicornIntegration


class Server:
    """The part of uvicorn's Server that is patched."""

    def __init__(self, events):
        self.events = events

    async def shutdown(self, sockets=None):
        self.events.append(f"shutdown {sockets}")


def shut_down(monkeypatch, active):
    events: list[str] = []
    undo = UvicornIntegration().connect(SimpleNamespace(Server=Server))
    monkeypatch.setattr(runtime, "begun", lambda: active(events))
    try:
        asyncio.run(Server(events).shutdown(sockets=3))
    finally:
        undo()
    return events


def test_the_session_is_flushed_after_a_servers_shutdown(monkeypatch):
    def active(events):
        return SimpleNamespace(
            prepare_exit=lambda timeout_s: events.append("written"),
        )

    assert shut_down(monkeypatch, active) == ["shutdown 3", "written"]


def test_an_unmeasured_server_shuts_down(monkeypatch):
    assert shut_down(monkeypatch, lambda events: None) == ["shutdown 3"]


def test_a_fault_of_carbon_otel_does_not_reach_the_server(monkeypatch, caplog):
    def active(events):
        raise RuntimeError("in the session")

    assert shut_down(monkeypatch, active) == ["shutdown 3"]
    assert "in the session" in caplog.text


def test_the_undo_restores_the_class():
    before = Server.shutdown
    UvicornIntegration().connect(SimpleNamespace(Server=Server))()
    assert Server.shutdown is before
