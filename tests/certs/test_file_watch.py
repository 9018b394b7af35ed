from __future__ import annotations

import os
from pathlib import Path

import pytest

from dwaarx.certs.file_watch import PATIENCE, FileWatch, signature
from dwaarx.config.model import CertificateFiles


@pytest.fixture
def source(tmp_path: Path) -> tuple[CertificateFiles, ...]:
    files = CertificateFiles(tmp_path / "a.pem", tmp_path / "a.key", tmp_path / "a.ocsp")
    for path in (files.certificate, files.key, tmp_path / "a.ocsp"):
        path.write_bytes(b"one")
    return (files,)


@pytest.fixture
def watch(source: tuple[CertificateFiles, ...]) -> FileWatch:
    watch = FileWatch()
    watch.note(source)
    return watch


def test_what_has_not_changed(watch: FileWatch) -> None:
    assert watch.changed() == []


@pytest.mark.parametrize("which", ["a.pem", "a.key", "a.ocsp"])
def test_each_file_counts(watch, source, tmp_path, which) -> None:
    (tmp_path / which).write_bytes(b"longer")
    assert watch.changed() == [source]
    assert watch.changed() == []


def test_a_new_file_of_the_same_age_and_size(watch, source, tmp_path) -> None:
    """As `cp --preserve`, or an archive, does it."""
    path, new = tmp_path / "a.pem", tmp_path / "new"
    new.write_bytes(b"two")
    at = path.stat().st_mtime_ns
    os.utime(new, ns=(at, at))
    new.rename(path)
    assert watch.changed() == [source]


def test_a_link_that_points_elsewhere(tmp_path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.pem").write_bytes(b"")
    link = tmp_path / "live"
    link.symlink_to("one")
    source = (CertificateFiles(link / "a.pem", link / "a.pem"),)
    watch = FileWatch()
    watch.note(source)
    link.unlink()
    link.symlink_to("two")
    assert watch.changed() == [source]


def test_missing_files_come_and_go(watch, source, tmp_path) -> None:
    (tmp_path / "a.key").unlink()
    assert signature(source)[1] is None
    assert watch.changed() == [source]
    assert watch.changed() == []
    (tmp_path / "a.key").write_bytes(b"one")
    assert watch.changed() == [source]


def test_what_cannot_be_used_is_tried_at_each_look_and_told_once(watch, source) -> None:
    assert watch.waited(source, 100.0) == 0.0
    assert not watch.failed(source, 100.0)
    assert watch.changed() == [source] == watch.changed()
    assert not watch.failed(source, 100.0 + PATIENCE - 1)
    assert watch.waited(source, 130.0) == 30.0
    assert watch.failed(source, 100.0 + PATIENCE)
    assert not watch.failed(source, 1000.0)
    assert watch.used(source)
    assert not watch.used(source)
    assert watch.changed() == []


def test_whoever_asked_was_told(watch, source) -> None:
    watch.told(source, 100.0)
    assert watch.changed() == [source]
    assert not watch.failed(source, 100.0 + PATIENCE)
    assert watch.used(source)


def test_a_clock_that_is_set_back_does_not_make_it_silent(watch, source) -> None:
    assert not watch.failed(source, 1e9)
    assert not watch.failed(source, 100.0)
    assert watch.failed(source, 100.0 + PATIENCE)


def test_sources_that_are_removed(watch, source, tmp_path) -> None:
    watch.failed(source, 0.0)
    watch.remove(source)
    (tmp_path / "a.pem").write_bytes(b"new")
    assert watch.changed() == []
