"""From a wheel in a clean virtual environment: twistd lists dwaarx, and the script works."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_wheel_in_a_clean_environment(tmp_path: Path) -> None:
    # With the checkout on the path, pip would find dwaarx already there.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def call(*words: str | Path) -> str:
        done = subprocess.run(
            list(map(str, words)),
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    venv = tmp_path / "venv"
    call(sys.executable, "-m", "venv", venv)
    pip = (venv / "bin" / "python", "-m", "pip", "--disable-pip-version-check", "-q")
    call(*pip, "wheel", "--no-deps", "--wheel-dir", tmp_path, ROOT)
    (wheel,) = tmp_path.glob("dwaarx-*.whl")
    call(*pip, "install", wheel)

    assert "dwaarx" in call(venv / "bin" / "twistd", "--help")
    assert "--config" in call(venv / "bin" / "twistd", "dwaarx", "--help")
    (tmp_path / "Dwaarfile").write_text('localhost {\n    respond "hello"\n}\n')
    assert "OK" in call(venv / "bin" / "dwaarx", "check", "Dwaarfile")
    typed = "import dwaarx, importlib.resources as r; assert (r.files(dwaarx)/'py.typed').is_file()"
    call(venv / "bin" / "python", "-c", typed)
