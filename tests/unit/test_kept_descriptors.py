"""A program closes all descriptors, as a daemon does, and opens files of its own, which get the same numbers.

Whatever keeps a descriptor open must then neither read, change nor close the file of the program.
"""

from __future__ import annotations

import os

import pytest

from carbon_otel.mlflow.delivery.spool import Batch, Spool
from carbon_otel.provenance import Band
from carbon_otel.sensors import rapl
from carbon_otel.sensors.base import Device, SensorError
from carbon_otel.sensors.hwmon import HwmonPower
from carbon_otel.sensors.intel_gpu import IntelGpu
from carbon_otel.sensors.proc_stat import BusyTime
from tests.fakes import powercap

STORE = "http://one:5000"
STAT = "cpu  {busy} 0 0 100 0 0 0 0 0 0\n"


def zone(folder):
    tree = powercap.client(folder)
    readable, _ = rapl.select(rapl.zones(tree.root))
    return next(rapl.sensors(readable, "GenuineIntel")), tree.package[0].file


def device(kind):
    return Device("d", kind, "d", "measured.counter", Band(0.9, 1.1, "a test", "estimate"), "a test")


def card(folder):
    file = folder / "energy1_input"
    file.write_text("1000\n")
    return IntelGpu(file, device("gpu")), file


def hwmon_meter(folder):
    file = folder / "power1_average"
    file.write_text("1000\n")
    return HwmonPower(device("cpu"), [file], 1e-6, 100.0), file


def busy_time(folder):
    file = folder / "stat"
    file.write_text(STAT.format(busy=1000))
    return BusyTime(file), file


def in_place(file, text):
    """Write without making a new file, as the kernel does."""
    with file.open("r+") as opened:
        opened.write(text)
        opened.truncate()


class Program:
    """The program's own file, under all numbers that are open for a file of ours."""

    def __init__(self, path, content="1234"):
        self.path, self.content = path, content
        path.write_text(content)
        self.numbers = []

    def takes(self, file):
        for number in descriptors_of(file):
            opened = os.open(self.path, os.O_RDWR)
            os.dup2(opened, number)
            os.close(opened)
            self.numbers.append(number)
        assert self.numbers

    def is_left_alone(self):
        assert self.path.read_text() == self.content
        assert all(os.path.samestat(os.fstat(number), self.path.stat()) for number in self.numbers)
        assert all(os.lseek(number, 0, os.SEEK_CUR) == 0 for number in self.numbers)
        return True

    def close(self):
        for number in self.numbers:
            os.close(number)


def descriptors_of(file):
    """The numbers of the open descriptors of a file."""
    there = file.stat()
    found = []
    for number in range(3, 256):
        try:
            if os.path.samestat(os.fstat(number), there):
                found.append(number)
        except OSError:
            pass
    return found


@pytest.fixture(params=["1234", "1002001234", "no number", ""], ids=["low", "high", "text", "empty"])
def program(request, tmp_path):
    program = Program(tmp_path / "mine", request.param)
    yield program
    program.close()


@pytest.fixture(params=[zone, card, hwmon_meter, busy_time], ids=lambda build: build.__name__)
def reader(request, tmp_path):
    sensor, file = request.param(tmp_path)
    yield sensor, file
    sensor.close()


def test_a_sensor_reads_its_own_file_again(reader, program):
    sensor, file = reader
    before = sensor.read()
    program.takes(file)
    assert sensor.read() == before
    longer = STAT.format(busy=5000) if isinstance(sensor, BusyTime) else "5000000\n"
    in_place(file, longer)
    assert sensor.read() != before
    sensor.close()
    assert program.is_left_alone()


def test_a_sensor_whose_descriptor_is_closed_opens_its_file_again(reader):
    sensor, file = reader
    before = sensor.read()
    for number in descriptors_of(file):
        os.close(number)
    assert sensor.read() == before


def test_a_sensor_whose_file_has_gone_meanwhile_reads_nothing(reader, program):
    sensor, file = reader
    sensor.read()
    program.takes(file)
    file.unlink()
    with pytest.raises(SensorError):
        sensor.read()
    sensor.close()
    assert program.is_left_alone()


def batch(step):
    return Batch("r", 1, {"carbon/energy_wh": 0.1 * step}, {}, step, 1000)


def steps(spool):
    return [row.batch.step for row in spool.waiting(STORE)]


def test_a_spool_goes_on_in_its_own_file(tmp_path, program):
    spool = Spool.create(tmp_path / "state")
    spool.put(STORE, batch(1))
    program.takes(spool.path)
    assert spool.put(STORE, batch(2))
    assert steps(spool) == [1, 2]
    spool.done([1])
    path = spool.path
    spool.close()
    assert program.is_left_alone()
    left = Spool.open(path)
    assert steps(left) == [2]
    left.done([2])
    assert left.close() and not path.exists()


@pytest.mark.parametrize("act", [lambda spool: spool.done([1]), Spool.close, Spool._renew])
def test_no_act_of_a_spool_changes_a_file_of_the_program(act, tmp_path, program):
    spool = Spool.create(tmp_path / "state")
    spool.put(STORE, batch(1))
    program.takes(spool.path)
    act(spool)
    assert program.is_left_alone()
    spool.close()
    assert program.is_left_alone()


def test_a_spool_that_another_process_has_taken_meanwhile_is_left_to_it(tmp_path, program):
    spool = Spool.create(tmp_path / "state")
    spool.put(STORE, batch(1))
    program.takes(spool.path)
    other = Spool.open(spool.path)
    assert steps(other) == [1]
    assert not spool.put(STORE, batch(2))
    assert steps(spool) == [2], "the other process sends the first"
    spool.done([2])
    assert spool.close()
    assert steps(other) == [1]
    other.close()
    assert program.is_left_alone()


def test_a_spool_that_another_process_has_sent_meanwhile_is_not_sent_again(tmp_path, program):
    spool = Spool.create(tmp_path / "state")
    spool.put(STORE, batch(1))
    program.takes(spool.path)
    other = Spool.open(spool.path)
    other.done([1])
    other.close()
    assert steps(spool) == []
    spool.close()
    assert program.is_left_alone()
