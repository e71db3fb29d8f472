"""Every command and all code of the pages runs with the extras that the page names, and prints what it says."""

from __future__ import annotations

import sys

import pytest

from tests.docs import quickstarts
from tests.docs.pages import PAGES, ROOT, Block
from tests.integration import receivers

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# Blocks that do not run here, by page and first line, each with the reason.
NOT_RUN = {
    (
        "README.md",
        'pip install -e ".[all]" && carbon-otel demo',
    ): "installs from a registry; the demo runs in tests/integration/test_demo.py",
    ("README.md", 'pip install -e ".[all,test]" && pytest'): "it would run this test",
    ("CONTRIBUTING.md", 'pip install -e ".[all,test]"'): "installs from a registry",
    (
        "CONTRIBUTING.md",
        "ruff check . && ruff format --check . && mypy && pytest tests/unit",
    ): "the gate itself",
    (
        "carbon_otel/otel/README.md",
        "export OTEL_EXPORTER_OTLP_ENDPOINT=https://logfire-eu.pydantic.dev",
    ): "needs a network and a write token",
    (
        "carbon_otel/mlflow/README.md",
        "carbon-otel run --children --zone FR -- "
        "mlflow models serve -m models:/churn/1 --env-manager local --workers 2",
    ): "serves until it is stopped; tests/integration/test_life.py runs it",
    (
        "collector/README.md",
        "cp collector/.env.example collector/.env  # and write two passwords into it",
    ): "needs docker; the files are checked by tests/collector/test_files.py",
    (
        "collector/README.md",
        "export OTELCOL_STORAGE=$HOME/.local/state/otelcol UPSTREAM_ENDPOINT=otlp.example:4317",
    ): "needs an upstream; tests/collector/test_deployments.py starts the collector so",
    (
        "collector/README.md",
        'export OTELCOL_LISTEN=0.0.0.0 OTELCOL_TLS=/etc/otelcol/tls OTELCOL_TOKEN="${TOKEN:?}"',
    ): "needs a certificate; tests/collector/test_deployments.py starts the collector so",
    (
        "collector/README.md",
        "export OTEL_EXPORTER_OTLP_ENDPOINT=https://collector.example:4318",
    ): "needs a token; tests/collector/test_deployments.py sends so",
    ("tests/hardware/README.md", "pytest -m gpu -s tests/hardware"): "needs a real GPU",
    (
        "examples/savings/README.md",
        "python examples/savings/pruned_forest.py",
    ): "tests/integration/test_examples.py runs it",
}
LANGUAGES = {"bash", "ipython", "python", "text", "toml"}

BLOCKS = [block for page in PAGES.values() for block in page.blocks()]
# The blocks of quickstarts.PAGE are files and their commands, which test_quickstarts.py runs.
HERE = [block for block in BLOCKS if block.page != quickstarts.PAGE]
COMMANDS = [b for b in HERE if b.language == "bash" and (b.page, b.first_line) not in NOT_RUN]


def name_of(block: Block) -> str:
    return f"{block.page}:{block.line}"


@pytest.mark.parametrize("block", COMMANDS, ids=name_of)
def test_commands(block, reader):
    with receivers.serving(receivers.Receiver) as sink:
        code = block.code.replace("http://127.0.0.1:4318", sink.url)
        reader(block.page, "bash", "-euo", "pipefail", "-c", code)
        if "OTEL_EXPORTER_OTLP_ENDPOINT" in code and "train.py" in code:
            assert sink.spans() and sink.metrics()


@pytest.mark.parametrize("page", sorted({block.page for block in HERE if block.language == "python"}))
def test_python(page, reader):
    # The reader's own library, and IPython for cells.
    reader(page, "python", "-m", "tests.docs.run_page", page, more=("scikit-learn", "ipython"))


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "toml"], ids=name_of)
def test_toml(block):
    assert tomllib.loads(block.code)


def test_every_block_names_its_language_and_none_is_indented():
    assert {block.language for block in BLOCKS} <= LANGUAGES
    for page in PAGES.values():
        previous = ""
        for line in page.prose.splitlines():
            assert not (line.startswith("    ") and not previous.strip()), (
                f"{page.name}: fence {line.strip()!r}"
            )
            previous = line


@pytest.mark.parametrize(("page", "first_line"), NOT_RUN)
def test_the_list_of_blocks_that_do_not_run_is_not_stale(page, first_line):
    assert first_line in [block.first_line for block in PAGES[page].blocks("bash")]
    paths = [word for word in NOT_RUN[page, first_line].split() if word.startswith("tests/")]
    assert all((ROOT / path).exists() for path in paths)
