"""A measured program in surroundings that replace, forbid or watch what it uses: it works as anywhere else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipapp
from pathlib import Path

import pytest

import carbon_otel
from tests.integration.processes import PROGRAMS

GUEST = str(PROGRAMS / "guest.py")
PACKAGE = Path(carbon_otel.__file__).parent
PREPARE = f"import sys\nsys.path.insert(0, {str(PROGRAMS)!r})\n"
WORKED = "modelled.utilisation"


def python(*arguments: str, **variables: str) -> tuple[str, str]:
    """What a Python process prints, to both streams. Fails if it does not end with status 0."""
    done = subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, done.stderr


def program(text: str, **variables: str) -> list[str]:
    """The lines that a program prints which may import `guest`; its other stream stays empty."""
    out, err = python("-c", PREPARE + text, **variables)
    assert err == ""
    return out.splitlines()


@pytest.mark.parametrize(
    "options",
    [
        ["-O"],
        ["-OO"],
        ["-P"] if sys.version_info >= (3, 11) else ["-B"],
        ["-X", "dev"],
        ["-W", "error"],
        ["-X", "dev", "-W", "error"],
        ["-X", "faulthandler", "-X", "tracemalloc=5"],
        ["-X", "importtime", "-X", "utf8"],
        ["-m", "coverage", "run", "--data-file=DATA"],
        ["-m", "trace", "--count", "--missing", "--no-report"],
        ["-m", "cProfile", "-o", "DATA"],
    ],
    ids=" ".join,
)
def test_options_of_the_interpreter(options, tmp_path):
    # Python itself warns of a fork with threads, from version 3.12.
    quiet = ["-W", "ignore:This process:DeprecationWarning"] if sys.version_info >= (3, 12) else []
    # Never the null device: as root, coverage would replace it by a file.
    options = [option.replace("DATA", str(tmp_path / "data")) for option in options]
    everything = [*quiet, *options] if options[0] == "-m" else [*options, *quiet]
    out, err = python(*everything, GUEST, "fork")
    assert out.splitlines()[-1] == WORKED
    assert "Warning" not in err and "Traceback" not in err


@pytest.mark.parametrize(
    "variables",
    [
        {"PYTHONHASHSEED": "0"},
        {"PYTHONDEVMODE": "1", "PYTHONASYNCIODEBUG": "1"},
        {"PYTHONWARNINGS": "error"},
        {"COVERAGE_CORE": "sysmon"},
    ],
    ids=str,
)
def test_variables_of_the_interpreter(variables):
    assert python(GUEST, **variables) == (f"{WORKED}\n", "")


@pytest.mark.parametrize("option", ["-I", "-S"])
def test_an_isolated_interpreter(option):
    places = [str(PACKAGE.parent), *(path for path in sys.path if "site-packages" in path)]
    text = f"import sys\nsys.path[:0] = {places!r}\n{PREPARE}import guest\nprint(guest.main())"
    assert python(option, "-c", text) == (f"{WORKED}\n", "")


def test_a_zip_file(tmp_path):
    folder = tmp_path / "app"
    folder.mkdir()
    shutil.copytree(PACKAGE, folder / "carbon_otel")
    (folder / "__main__.py").write_text(Path(GUEST).read_text())
    zipapp.create_archive(folder, tmp_path / "app.pyz")
    assert python(str(tmp_path / "app.pyz"), PYTHONPATH="") == (f"{WORKED}\n", "")


GEVENT = """
import logging
import gevent
logging.basicConfig(stream=sys.stdout)
from carbon_otel import runtime
from carbon_otel.stages.open_stage import current
print(guest.main())
carbon_otel.instrument(zone="FR", interval_s=0.05)
engine = runtime.active().engine
def work(name):
    with carbon_otel.stage("inference", name):
        gevent.sleep(0.05)
        return current.get().info.name
with carbon_otel.stage("training"):
    jobs = [gevent.spawn(work, name) for name in "ab"]
    gevent.joinall(jobs)
print(*(job.value for job in jobs))
def forever():
    with carbon_otel.stage("evaluation"):
        gevent.sleep(60)
job = gevent.spawn(forever)
gevent.sleep(0.01)
job.kill()
with gevent.Timeout(0.01, False):
    forever()
print(len(engine._open), carbon_otel.flush())
"""


@pytest.mark.parametrize("when", ["before", "after"])
def test_gevent(when):
    pytest.importorskip("gevent")
    patch, load = "from gevent import monkey; monkey.patch_all()\n", "import carbon_otel, guest\n"
    out = program((patch + load if when == "before" else load + patch) + GEVENT)
    assert out == [WORKED, "a b", "0 True"]


def test_uvloop():
    pytest.importorskip("uvloop")
    assert program("import uvloop, guest\nprint(guest.main(uvloop.run))") == [WORKED]


FROZEN = {
    "freezegun": "import freezegun; still = freezegun.freeze_time('2020-01-01')",
    "time_machine": "import time_machine; still = time_machine.travel(0, tick=False)",
    "time.time": "from unittest import mock; still = mock.patch('time.time')",
    "time.monotonic": "from unittest import mock; still = mock.patch('time.monotonic', return_value=3.0)",
    "time.monotonic_ns": "from unittest import mock; still = mock.patch('time.monotonic_ns', return_value=3)",
    "builtins.open": "from unittest import mock; still = mock.patch('builtins.open')",
    "os.environ": "from unittest import mock; still = mock.patch('os.environ', {})",
    "pyfakefs": "from pyfakefs.fake_filesystem_unittest import Patcher; still = Patcher()",
}


@pytest.mark.parametrize(
    ("replaced", "first"),
    [
        (replaced, first)
        for replaced in FROZEN
        for first in ("import", "instrument", "replace")
        # Where the file system is replaced first, the package's own files are missing.
        if replaced != "pyfakefs" or first == "instrument"
    ],
)
def test_clocks_files_and_variables_that_a_test_replaces(replaced, first):
    if "." not in replaced:
        pytest.importorskip(replaced)
    text = {
        "import": "import guest\nwith still: print(guest.main())",
        "replace": "with still:\n    import guest\n    print(guest.main())",
        "instrument": """
import carbon_otel, guest
carbon_otel.instrument(zone="FR", interval_s=0.05)
with still:
    with carbon_otel.stage("training") as s:
        for _ in range(100):
            guest.score()
    flushed = carbon_otel.flush()
with carbon_otel.stage("evaluation") as later:
    for _ in range(100):
        guest.score()
assert flushed and carbon_otel.flush()
for each in (s, later):
    assert each.footprint.energy_j > 0 and 0 < each.footprint.duration_s < 60, each.footprint
    # In a replaced file system, no other process can be met.
    assert {flag.partition(":")[0] for flag in each.footprint.flags} <= {"uncoordinated"}, each.footprint
    assert not each.footprint.gap_s, each.footprint
print(s.footprint.method)
""",
    }[first]
    quiet = (
        "import logging; logging.getLogger('carbon_otel').setLevel('ERROR')\n"
        if replaced == "pyfakefs"
        else ""
    )
    assert program(f"{FROZEN[replaced]}\n{quiet}{text}") == [WORKED]


def test_without_its_own_files_the_program_goes_on():
    pytest.importorskip("pyfakefs")
    text = """
import carbon_otel, logging
logging.basicConfig(stream=sys.stdout, format="%(message)s")
with still:
    carbon_otel.instrument(zone="FR")
    with carbon_otel.stage("training") as s:
        pass
print(s.footprint.method)
"""
    out = program(FROZEN["pyfakefs"] + text)
    assert out[0].startswith("reading the settings failed") and out[-1] == "missing"


RAISING = """
import logging, carbon_otel, guest
class Raising(logging.Handler):
    def emit(self, record):
        raise RuntimeError("a test fails on each line of the log")
logging.getLogger().addHandler(Raising())
"""
PROGRAMS_OF_THE_LIBRARY = {
    "reload of the package": """
import importlib, carbon_otel, guest
carbon_otel.instrument(zone="FR")
importlib.reload(carbon_otel)
print(guest.main())
""",
    "modules that are imported again": """
import guest
for name in [name for name in sys.modules if name.partition(".")[0] == "carbon_otel"]:
    del sys.modules[name]
print(guest.main())
""",
    "runpy": """
import runpy
runpy.run_module("guest", run_name="__main__")
""",
    "a log that is off": """
import logging, guest
logging.disable(logging.CRITICAL)
print(guest.main())
""",
    "no standard streams": """
import carbon_otel, guest
out, sys.stdout, sys.stderr = sys.stdout, None, None
carbon_otel.instrument()
print(guest.main(), file=out)
""",
    "closed standard streams": """
import carbon_otel, guest
out = sys.stdout
sys.stderr.close()
sys.stderr = sys.stdin
carbon_otel.instrument()
print(guest.main(), file=out)
""",
    "threads that switch all the time": """
import guest
sys.setswitchinterval(1e-6)
print(guest.main())
""",
    "trace functions": """
import threading, guest
threading.settrace(lambda *event: None)
sys.settrace(lambda *event: None)
sys.setprofile(lambda *event: None)
print(guest.main())
""",
    "a garbage collection at each allocation": """
import gc, guest
gc.set_threshold(1)
print(guest.main())
""",
}


@pytest.mark.parametrize("name", PROGRAMS_OF_THE_LIBRARY)
def test_what_the_standard_library_can_do(name):
    assert program(PROGRAMS_OF_THE_LIBRARY[name]) == [WORKED]


def test_a_process_without_any_descriptor():
    text = """
import os, carbon_otel, guest
for descriptor in range(3):
    os.close(descriptor)
carbon_otel.instrument(interval_s=0.05)
with carbon_otel.stage("training") as s:
    guest.score()
os._exit(0 if carbon_otel.flush() and s.footprint.method != "missing" else 1)
"""
    python("-c", PREPARE + text)


def test_a_program_that_closes_all_descriptors_and_opens_files_of_its_own(tmp_path):
    text = """
import os, pathlib, threading, time, carbon_otel
from tests.fakes import powercap
tree = powercap.client(pathlib.Path("tree").absolute())
carbon_otel.instrument(zone="FR", powercap_root=tree.root, interval_s=0.05)
# It imports modules, and Python would close a file that has got the number of a module's file.
for thread in threading.enumerate():
    if thread.name == "carbon_otel integrations":
        thread.join()
with carbon_otel.stage("training") as s:
    tree.package[0].add(5)
    os.closerange(3, 256)
    mine = [open(f"mine-{number}", "w+") for number in range(60)]
    for file in mine:
        file.write("123456789")
        file.flush()
    for _ in range(10):
        tree.package[0].add(1)
        time.sleep(0.05)
print(s.footprint.energy_j)
print(sorted(flag for flag in s.footprint.flags if "intel-rapl:0" in flag))
carbon_otel.flush()
carbon_otel.uninstrument()
for file in mine:
    file.seek(0)
    assert file.read() == "123456789"
"""
    root = str(PACKAGE.parent)
    out = subprocess.run(
        [sys.executable, "-c", text],
        env={**os.environ, "PYTHONPATH": root, "XDG_STATE_HOME": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert out.returncode == 0, out.stderr
    joules, flags = out.stdout.splitlines()
    assert 15 <= float(joules) * (1 + 1e-9) < 25 and flags == "[]", out.stdout + out.stderr


ISOLATED = (
    """
import carbon_otel
try:
    import _interpreters
    run = _interpreters.exec
except ImportError:
    import _xxsubinterpreters as _interpreters
    run = _interpreters.run_string
carbon_otel.instrument(zone="FR", interval_s=0.05)
inner = _interpreters.create()
with carbon_otel.stage("training") as s:
    failed = run(inner, """
    + repr(
        f"import sys\nsys.path[:] = {sys.path!r}\n"
        """
import carbon_otel
sys.stderr = sys.stdout
carbon_otel.instrument(zone="FR")
with carbon_otel.stage("training") as s:
    sum(range(100_000))
print(s.footprint.method)
carbon_otel.uninstrument()
sys.stdout.flush()
"""
    )
    + """)
_interpreters.destroy(inner)
print(failed, s.footprint.method, carbon_otel.flush())
"""
)

if sys.version_info >= (3, 12):  # before, sub-interpreters share their lock and may have daemon threads

    def test_isolated_sub_interpreters():
        """One has no threads of ours. The program goes on, and the main interpreter's figures include it."""
        out = program(ISOLATED)
        assert "a sub-interpreter cannot be measured by itself" in out[0]
        assert out[1:] == ["missing", f"None {WORKED} True"]


AUTORELOAD = '''
import pathlib, tempfile, time
from IPython.testing.globalipapp import start_ipython
folder = pathlib.Path(tempfile.mkdtemp())
sys.path.insert(0, str(folder))
def write(number):
    text = f"""
import carbon_otel
@carbon_otel.stage("training")
def fit(): return {number}
class Model:
    @carbon_otel.stage("training")
    def fit(self): return {number}
"""
    (folder / "mine.py").write_text(text)
write(1)
shell = start_ipython()
shell.run_cell("%load_ext autoreload")
shell.run_cell("%autoreload 2")
shell.run_cell("import carbon_otel, mine; from mine import fit, Model; model = Model()")
shell.run_cell("carbon_otel.instrument(zone='FR')")
shell.run_cell("print(fit(), mine.fit(), model.fit())")
time.sleep(1.1)  # autoreload compares times of files in seconds
write(1234)
shell.run_cell("print(fit(), mine.fit(), model.fit())")
shell.run_cell("carbon_otel.uninstrument()")
'''


def test_autoreload_of_ipython():
    """A name that was imported before gets the new code, as without the decorator."""
    pytest.importorskip("IPython")
    out, _ = python("-c", PREPARE + AUTORELOAD)
    assert [line for line in out.splitlines() if line[:1].isdigit()] == ["1 1 1", "1234 1234 1234"]


def test_tests_of_the_application_in_parallel(tmp_path):
    (tmp_path / "conftest.py").write_text("import carbon_otel\ncarbon_otel.instrument(zone='FR')\n")
    (tmp_path / "test_application.py").write_text(
        """
import carbon_otel, pytest

@pytest.fixture
@carbon_otel.stage("data_processing")
def rows():
    yield [1]

@pytest.mark.parametrize("number", range(4))
@carbon_otel.stage("training")
def test_training(rows, number):
    assert rows == [1]
"""
    )
    out, _ = python("-W", "error", "-m", "pytest", "-q", "-n2", "-p", "no:cacheprovider", str(tmp_path))
    assert "4 passed" in out
