"""The plugin that vLLM calls in each of its processes."""

from __future__ import annotations

import importlib
import os
import re
from pathlib import Path

import pytest

import carbon_otel
from carbon_otel import runtime
from carbon_otel.entry_points import vllm
from tests.fakes.powercap import server

PROJECT = Path(carbon_otel.__file__).parents[1] / "pyproject.toml"


@pytest.fixture
def asked(monkeypatch, tmp_path):
    monkeypatch.setenv("CARBON_OTEL_VLLM_PROCESSES", "true")
    monkeypatch.setenv("CARBON_OTEL_POWERCAP_ROOT", str(server(tmp_path).root))


def test_the_entry_point_leads_to_it():
    table = PROJECT.read_text().partition('[project.entry-points."vllm.general_plugins"]')[2]
    module, function = re.findall(r'carbon_otel = "(.*):(.*)"', table)[0]
    assert getattr(importlib.import_module(module), function) is vllm.begin


def test_without_the_setting_it_does_nothing():
    vllm.begin()
    assert runtime.begun() is None


def test_with_the_setting_the_process_is_measured_once(asked):
    vllm.begin()
    first = runtime.begun()
    vllm.begin()
    assert first is not None and runtime.begun() is first


def test_a_measurement_of_the_program_goes_on(asked):
    carbon_otel.instrument(zone="FR")
    first = runtime.begun()
    vllm.begin()
    assert runtime.begun() is first


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_engine_begins_a_measurement_of_its_own(asked):
    carbon_otel.instrument(zone="FR")
    child = os.fork()
    if child == 0:
        before = runtime.begun()
        vllm.begin()
        begun = runtime.begun()
        fine = before is None and begun is not None and begun.options.settings.zone == "FR"
        carbon_otel.uninstrument()
        os._exit(0 if fine else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_wrong_setting_raises_nothing_into_vllm(asked, monkeypatch, caplog):
    monkeypatch.setenv("CARBON_OTEL_VLLM_PROCESSES", "perhaps")
    vllm.begin()
    assert runtime.begun() is None and "CARBON_OTEL_VLLM_PROCESSES" in caplog.text


def test_it_can_be_switched_off(asked, monkeypatch):
    monkeypatch.setenv("CARBON_OTEL_DISABLED", "true")
    vllm.begin()
    assert runtime.begun() is None
