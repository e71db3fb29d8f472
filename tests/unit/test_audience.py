"""Who hears what a measurement says of itself."""

from __future__ import annotations

import contextlib
import io
import logging
import multiprocessing
import sys

import pytest

from carbon_otel.guard import logger
from carbon_otel.ranks import group
from carbon_otel.session import audience

SLURM = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4"}


@contextlib.contextmanager
def unconfigured():
    """Standard error of a program that has not configured logging; pytest does that for each test."""
    with pytest.MonkeyPatch.context() as patch:
        written = io.StringIO()
        patch.setattr(sys, "stderr", written)
        patch.setattr(logging.root, "handlers", [])
        yield written


@pytest.fixture(autouse=True)
def no_rank(monkeypatch):
    monkeypatch.setattr(group, "rank", None)


@pytest.mark.parametrize(
    ("environment", "works_for_another"),
    [
        ({}, False),
        ({"RANK": "0", "WORLD_SIZE": "2"}, False),
        ({"RANK": "1", "WORLD_SIZE": "2"}, True),
        ({**SLURM, "SLURM_PROCID": "0"}, False),
        ({**SLURM, "SLURM_PROCID": "3"}, True),
        ({"SLURM_JOB_ID": "7"}, False),
    ],
)
def test_one_rank_speaks_for_all(environment, works_for_another):
    assert audience.is_worker(environment) == works_for_another


def test_a_process_of_multiprocessing_is_a_worker(monkeypatch):
    monkeypatch.setattr(multiprocessing.process, "_parent_process", object())
    assert audience.is_worker({})


@pytest.mark.parametrize("variable", ["PYTEST_VERSION", "PYTEST_CURRENT_TEST"])
def test_pytest_is_known_by_its_variables(variable):
    assert audience.is_test({variable: "x"}) and not audience.is_test({})


@pytest.mark.parametrize(
    ("module", "is_program"), [("__main__", True), ("library", False), ("carbon_otel.x", False)]
)
def test_the_caller_is_the_first_module_that_is_not_ours(module, is_program):
    ours: dict = {"__name__": "carbon_otel.compat.x", "audience": audience}
    exec("def begin():\n    return audience.called_by_program()", ours)
    caller: dict = {"__name__": module, "begin": ours["begin"]}
    exec("answer = begin()", caller)
    assert caller["answer"] == is_program


def test_the_start_of_the_interpreter_is_before_the_program():
    assert not audience.called_before_program()
    site: dict = {"__name__": "site", "audience": audience}
    exec("answer = audience.called_before_program()", site)
    assert site["answer"]


def test_without_logging_a_program_reads_standard_error_and_a_library_nothing():
    with unconfigured() as written:
        audience.say("measures cpu", on_terminal=True)
        audience.say("from a library", on_terminal=False)
    assert written.getvalue() == "carbon_otel: measures cpu\n"


def test_secrets_and_escapes_are_not_shown():
    with unconfigured() as written:
        audience.say("OTLP (http://me:word-of-mine@host) \x1b[31m\nmore", on_terminal=True)
    assert written.getvalue() == "carbon_otel: OTLP (http://***@host) \\x1b[31m\\nmore\n"


def test_a_handler_decides_alone(monkeypatch):
    heard = io.StringIO()
    with unconfigured() as written:
        logging.root.handlers = [logging.StreamHandler(heard)]
        audience.say("100 % of it", on_terminal=True)
        assert heard.getvalue() == ""  # the root shows warnings only
        monkeypatch.setattr(logger, "level", logging.INFO)
        logger.manager._clear_cache()
        audience.say("100 % of it", on_terminal=True)
    logger.manager._clear_cache()
    assert heard.getvalue() == "100 % of it\n" and written.getvalue() == ""


@pytest.mark.parametrize(
    ("where", "name", "value"),
    [
        (logger, "level", logging.WARNING),
        (logging.root, "level", logging.ERROR),
        (logger, "disabled", True),
        (logging.root.manager, "disable", logging.INFO),
    ],
)
def test_a_level_turns_the_lines_off(where, name, value, monkeypatch):
    monkeypatch.setattr(where, name, value)
    with unconfigured() as written:
        audience.say("measures cpu", on_terminal=True)
    assert written.getvalue() == ""
