"""A server that shuts down writes what it has used: its process ends by a signal, without atexit."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

from carbon_otel import runtime
from carbon_otel.instrumentation import uvicorn


class Server:
    """As uvicorn's, at its `shutdown`."""

    def __init__(self, events):
        self.events = events

    async def shutdown(self, sockets=None):
        self.events.append(f"shutdown {sockets}")


def shut_down(monkeypatch, active):
    events: list[str] = []
    undo = uvicorn.patch(SimpleNamespace(Server=Server))
    monkeypatch.setattr(runtime, "active", lambda: active(events))
    try:
        asyncio.run(Server(events).shutdown(sockets=3))
    finally:
        undo()
    return events


def test_after_its_shutdown_it_is_written(monkeypatch):
    def active(events):
        return SimpleNamespace(
            farewell=lambda timeout_s: events.append("written"),
        )

    assert shut_down(monkeypatch, active) == ["shutdown 3", "written"]


def test_nothing_is_written_where_nothing_is_measured(monkeypatch):
    assert shut_down(monkeypatch, lambda events: None) == ["shutdown 3"]


def test_a_fault_of_ours_does_not_reach_the_server(monkeypatch, caplog):
    def active(events):
        raise RuntimeError("ours")

    assert shut_down(monkeypatch, active) == ["shutdown 3"]
    assert "ours" in caplog.text


def test_undone_it_is_as_it_was():
    before = Server.shutdown
    uvicorn.patch(SimpleNamespace(Server=Server))()
    assert Server.shutdown is before
