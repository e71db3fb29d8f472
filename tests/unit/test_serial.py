"""Calls that come in during other calls: made later, once, and without a wait."""

from __future__ import annotations

import logging
import os
import threading

from carbon_otel import guard
from carbon_otel.serial import Serial


def test_a_call_made_within_a_call_comes_after_it():
    serial, order = Serial("test"), []

    def outer() -> None:
        order.append("outer begins")
        serial.run(order.append, "inner")
        order.append("outer ends")

    serial.run(outer)
    assert order == ["outer begins", "outer ends", "inner"]


def test_a_thread_leaves_its_call_to_the_thread_that_is_busy():
    serial, order = Serial("test"), []
    inside, go = threading.Event(), threading.Event()

    def slow() -> None:
        inside.set()
        assert go.wait(20)
        order.append("slow")

    busy = threading.Thread(target=serial.run, args=(slow,), daemon=True)
    busy.start()
    assert inside.wait(20)
    serial.run(order.append, "fast")  # returns at once
    assert order == []
    go.set()
    busy.join(20)
    assert order == ["slow", "fast"]


def test_every_call_of_many_threads_is_made_once_and_alone():
    serial, count = Serial("test"), [0]

    def add() -> None:
        count[0] += 1

    threads = [
        threading.Thread(target=lambda: [serial.run(add) for _ in range(5000)], daemon=True) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert count == [40_000]


def test_a_call_that_fails_is_logged_and_the_next_one_is_made(caplog):
    guard.forget()
    serial, order = Serial("adding up"), []

    def outer() -> None:
        serial.run(order.append, "next")
        raise ValueError("no")

    with caplog.at_level(logging.WARNING):
        serial.run(outer)
    assert order == ["next"]
    assert "adding up failed" in caplog.text


def test_a_child_forked_during_a_call_makes_its_own_calls():
    serial, made = Serial("test"), []
    status = []

    def fork() -> None:
        serial.run(made.append, "parent")
        pid = os.fork()
        if pid == 0:
            serial.run(made.append, "child")
            os._exit(0 if made == ["child"] else 1)
        status.append(os.waitpid(pid, 0)[1])

    serial.run(fork)
    assert status == [0]
    assert made == ["parent"]
