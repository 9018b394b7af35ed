"""The benchmarks run, and print what their README says; what they measure is not judged here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_handshakes(tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    words = ["--names", "6", "--some", "3", "--rounds", "2", "--seconds", "0.1", "--clients", "2"]
    done = subprocess.run(
        [
            sys.executable,
            BENCHMARKS / "handshakes.py",
            *words,
            "--folder",
            tmp_path / "storages",
            "--json",
            results,
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = ["1 name", "3 names", "6 names, uniform", "6 names, zipf"]
    for row in rows:
        found = [line for line in done.stdout.splitlines() if line.startswith(f"{row}  ")]
        assert len(found) == 3, done.stdout  # a line in each table
    cases = json.loads(results.read_text())
    assert [case["title"] for case in cases][: len(rows)] == rows
    for case in cases:
        assert len(case["cpu"]) == len(case["rate"]) == 2
        assert min(case["cpu"]) >= 0
        assert min(case["rate"]) > 0
        assert case["start"] > 0
        assert case["started"]["now"] > 1
