"""The content of the wheel and the sdist, and the wheel with its base dependencies alone."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = {"typer", "rich", "click", "grpc", "pydantic", "mlflow", "sklearn", "opentelemetry.exporter"}

pytestmark = pytest.mark.package


def run(
    *command: str | Path, cwd: Path, returncode: int = 0, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a command outside of the source tree and without the caller's packages."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**inherited, **variables},
        capture_output=True,
        text=True,
    )
    assert done.returncode == returncode, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def distributions(tmp_path_factory) -> tuple[Path, Path]:
    """The sdist of this tree, and the wheel that is built from the sdist."""
    folder = tmp_path_factory.mktemp("distributions")
    subprocess.run([sys.executable, "-m", "build", "--outdir", str(folder), str(ROOT)], check=True)
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return sdist, wheel


@pytest.fixture(scope="module")
def installed(distributions, tmp_path_factory) -> Path:
    """The scripts folder of a new virtual environment with the wheel and its base dependencies."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, with_pip=True)
    run(folder / "bin" / "python", "-m", "pip", "install", "--quiet", distributions[1], cwd=folder)
    return folder / "bin"


def package_files() -> set[str]:
    files = (file for file in (ROOT / "carbon_otel").rglob("*") if file.is_file())
    return {str(file.relative_to(ROOT)) for file in files if "__pycache__" not in file.parts}


def test_the_wheel_has_every_file_of_the_package_and_the_example_of_the_demo(distributions):
    names = zipfile.ZipFile(distributions[1]).namelist()
    shipped = {name for name in names if ".dist-info/" not in name}
    assert shipped == package_files() | {"carbon_otel/cli/_examples/random_forest.py"}
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_the_sdist_has_the_sources_the_tests_and_the_documents(distributions):
    with tarfile.open(distributions[0]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert package_files() <= names
    assert {
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "tests/conftest.py",
    } <= names
    assert "examples/random_forest.py" in names


PROGRAM = """
import sys, carbon_otel
imported = set(sys.modules)
carbon_otel.instrument(zone="FR")
with carbon_otel.stage("training") as s:
    sum(range(100_000))
print(carbon_otel.__file__)
print(s.footprint.method)
carbon_otel.uninstrument()
print(*sorted(imported))
print(*sorted(sys.modules))
"""


def heavy(modules: str) -> set[str]:
    loaded = modules.split()
    return {
        name for name in HEAVY if any(module == name or module.startswith(f"{name}.") for module in loaded)
    }


def test_measuring_with_the_wheel_alone_loads_no_command_line_and_no_exporter(installed, tmp_path):
    out = run(installed / "python", "-c", PROGRAM, cwd=tmp_path).stdout.splitlines()
    file, method, imported, in_the_end = out
    assert Path(file).is_relative_to(installed.parent)
    assert method != "missing"
    assert "carbon_otel.stages.api" in imported
    assert heavy(imported) == heavy(in_the_end) == set()


def test_measuring_loads_none_of_the_extras_that_are_installed(tmp_path):
    out = run(sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{PROGRAM}", cwd=tmp_path)
    *_, imported, in_the_end = out.stdout.splitlines()
    assert heavy(imported) == heavy(in_the_end) == set()


def test_the_command_works_after_a_plain_install(installed, tmp_path):
    commands = run(installed / "carbon-otel", "--help", cwd=tmp_path, COLUMNS="80").stdout
    assert all(name in commands for name in ("demo", "run", "report", "doctor", "collector"))
    assert "France" in run(installed / "carbon-otel", "doctor", cwd=tmp_path, CARBON_OTEL_ZONE="FR").stdout


OVER_GRPC = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}


def test_a_missing_grpc_exporter_is_one_line_with_the_command_that_installs_it(installed, tmp_path):
    program = "import carbon_otel; carbon_otel.instrument(zone='FR'); carbon_otel.uninstrument()"
    errors = run(installed / "python", "-c", program, cwd=tmp_path, **OVER_GRPC).stderr
    lines = [line for line in errors.splitlines() if "grpc" in line.lower()]
    assert len(lines) == 1 and 'pip install "carbon-otel[grpc]"' in lines[0]
    assert "Traceback" not in errors


def test_the_check_of_a_collector_names_the_missing_grpc_exporter(installed, tmp_path):
    command = (installed / "carbon-otel", "collector", "check")
    done = run(*command, cwd=tmp_path, returncode=1, COLUMNS="200", **OVER_GRPC)
    assert 'pip install "carbon-otel[grpc]"' in done.stdout
