"""What is built holds what it should; from the wheel in a clean environment dwaarx works."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


# What stands beside the checkout's files and is no part of them; a `build` folder of an older
# version would even find its way into the wheel.
NO_SOURCE = shutil.ignore_patterns(
    ".*", "__pycache__", "build", "dist", "*.egg-info", "dropin.cache", "run"
)


def call(folder: Path, *words: str | Path) -> str:
    # With the checkout on the path, pip would find dwaarx already there.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        list(map(str, words)),
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(
        shutil.copytree(ROOT, tmp_path_factory.mktemp("built") / "dwaarx", ignore=NO_SOURCE)
    )


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a clean virtual environment."""
    venv = tmp_path_factory.mktemp("clean") / "venv"
    call(ROOT, sys.executable, "-m", "venv", venv)
    return venv / "bin" / "python"


@pytest.fixture(scope="module")
def wheel(source: Path, python: Path) -> Path:
    words = (python, "-m", "pip", "-q", "wheel", "--no-deps", "--wheel-dir", source / "dist")
    call(source, *words, source)
    (found,) = (source / "dist").glob("dwaarx-*.whl")
    return found


def test_the_wheel_holds_the_package(source: Path, wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    package = {path.relative_to(source) for path in (source / "dwaarx").rglob("*.*")}
    plugin = Path("twisted/plugins/dwaarx_plugin.py")
    assert names == {str(path) for path in [*package, plugin]}
    assert {"dwaarx/py.typed", "dwaarx/config/dwaarfile.lark"} <= names
    assert any(name.endswith("/licenses/LICENSE") for name in zipfile.ZipFile(wheel).namelist())


def test_the_source_distribution_holds_all(source: Path, tmp_path: Path) -> None:
    call(source, sys.executable, "-m", "build", "--sdist", "--outdir", tmp_path)
    (archive,) = tmp_path.glob("dwaarx-*.tar.gz")
    with tarfile.open(archive) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    for folder in ("dwaarx", "twisted", "tests", "docs", "config", "tools"):
        for path in (source / folder).rglob("*.*"):
            assert str(path.relative_to(source)) in names
    for name in ("README.md", "CHANGELOG.md", "LICENSE", "Makefile", "tox.ini", "setup.cfg"):
        assert name in names


def test_wheel_in_a_clean_environment(wheel: Path, python: Path, tmp_path: Path) -> None:
    programs = python.parent
    call(tmp_path, python, "-m", "pip", "-q", "install", wheel)

    assert "dwaarx" in call(tmp_path, programs / "twistd", "--help")
    assert "--config" in call(tmp_path, programs / "twistd", "dwaarx", "--help")
    (tmp_path / "Dwaarfile").write_text('localhost {\n    respond "hello"\n}\n')
    assert "OK" in call(tmp_path, programs / "dwaarx", "check", "Dwaarfile")
    typed = "import dwaarx, importlib.resources as r; assert (r.files(dwaarx)/'py.typed').is_file()"
    call(tmp_path, python, "-c", typed)
