"""The examples run as they are."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_logfire_without_a_token(tmp_path):
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("LOGFIRE_", "OTEL_"))}
    done = subprocess.run(
        [sys.executable, EXAMPLES / "logfire_pipeline.py"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    for shown in ("pipeline", "data_processing", "rf", "accuracy 0."):
        assert shown in done.stdout
    assert float(done.stdout.split("training: ")[-1].removesuffix(" Wh\n")) > 0
