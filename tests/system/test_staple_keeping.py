"""Staples outlive what happens to the service: kills, restarts, bad disks, and new certificates."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from dwaarx.certs.record import hexadecimal
from tests.certs.pki import make_response, utc_now
from tests.system.listeners import Listeners, shown, told
from tests.system.ocsp_peers import ALLOW, Handshake, Pki, Responder, curl_accepts, handshake
from tests.system.processes import PATIENCE, Service, free_port, program, until

Serve = Callable[[str], Service]


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return Pki(tmp_path)


@pytest.fixture
def listeners(pki: Pki) -> Listeners:
    return Listeners(pki)


@pytest.fixture
def responder(tmp_path: Path, pki: Pki) -> Iterator[Responder]:
    with Responder(tmp_path, pki.issuer) as running:
        yield running


def options(*lines: str) -> str:
    return ALLOW.replace("{", "\n    ".join(("{", *lines)), 1)


# --- kills and restarts -----------------------------------------------------


def first_handshakes(listeners: Listeners) -> list[Handshake]:
    """On each listener the first that it accepts, whatever becomes of it."""

    def first(port: int) -> Handshake:
        def attempt() -> Handshake | None:
            seen = handshake(port, "a.test", listeners.pki.trust)
            return None if "errno=111" in seen.text else seen  # nobody listens yet

        return until("the first handshake", attempt)

    with ThreadPoolExecutor(3) as pool:
        return list(pool.map(first, (listeners.https, listeners.doh, listeners.dot)))


def test_the_first_handshake_after_a_kill_is_stapled(
    pki: Pki, listeners: Listeners, responder: Responder, serve: Serve
) -> None:
    site = pki.leaf(ocsp=[responder.url], must_staple=True)
    service = serve(listeners.dwaarfile(site))
    listeners.wait(site)
    service.kill()
    responder.stop()
    assert "errno=111" in handshake(listeners.dot, "a.test", pki.trust).text
    service.launch()
    for seen in first_handshakes(listeners):
        assert seen.serial == site.serial
        assert seen.good
    assert curl_accepts(listeners.https, "a.test", pki.trust)
    assert len(told(service, "stapled")) == 1  # that was before


def test_what_lies_on_the_disk_is_not_believed(
    pki: Pki, responder: Responder, tmp_path: Path, serve: Serve
) -> None:
    port = free_port()
    reasons = {
        "changed": "the signature is not that of",
        "cut": "cannot be read as an OCSP response",
        "empty": "cannot be read as an OCSP response",
        "expired": "the response expired at",
        "other": "about another certificate",
        "unknown": "does not know the certificate",
        "folder": "cannot be read",
        "taken-away": None,  # which is no fault
    }
    sites = {name: pki.leaf(f"{name}.test", ocsp=[responder.url]) for name in reasons}
    blocks = "".join(
        f"{name}.test:{port} {{\nbind 127.0.0.1\n{site.tls}\nrespond hello\n}}\n"
        for name, site in sites.items()
    )
    service = serve(f"{{\nhttp_port 0\n{ALLOW}\n}}\n{blocks}")
    until("the staples", lambda: len(told(service, "stapled")) == len(sites))
    service.kill()
    responder.stop()
    leaves = {site.serial: name for name, site in sites.items()}
    files = {}
    for path in (service.storage / "ocsp").glob("*.der"):
        [name] = [
            name for serial, name in leaves.items() if serial.to_bytes(20) in path.read_bytes()
        ]
        files[name] = path
    assert files.keys() == sites.keys()
    whole = files["changed"].read_bytes()
    files["changed"].write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    files["cut"].write_bytes(files["cut"].read_bytes()[:-100])
    files["empty"].write_bytes(b"")
    old = utc_now() - timedelta(days=9)
    expired = make_response(sites["expired"].entity, validity=timedelta(days=8), this_update=old)
    files["expired"].write_bytes(expired)
    files["other"].write_bytes(make_response(pki.leaf("other.test", stem="x").entity))
    files["unknown"].write_bytes(make_response(sites["unknown"].entity, status="unknown"))
    files["folder"].unlink()
    files["folder"].mkdir()
    files["taken-away"].unlink()
    before = len(service.log())
    service.start()
    for name, site in sites.items():
        seen = handshake(port, f"{name}.test", pki.trust)
        assert seen.serial == site.serial, name
        assert not seen.stapled, name
    log = service.log()[before:]
    for name, reason in reasons.items():
        warnings = [
            line
            for line in log.splitlines()
            if "#warn] unstapled " in line and f"/{name}.test.pem" in line
        ]
        assert len(warnings) == (0 if reason is None else 1), name
        assert reason is None or reason in warnings[0], name
    responder.start()
    files["folder"].rmdir()
    service.console("refreshOCSP()")
    for name, site in sites.items():
        assert handshake(port, f"{name}.test", pki.trust).good, name
        assert site.entity.certificate.serial_number.to_bytes(20) in files[name].read_bytes()


def test_max_age(pki: Pki, listeners: Listeners, responder: Responder, serve: Serve) -> None:
    """It holds across restarts too, for it is the age of the file."""
    site = pki.leaf(ocsp=[responder.url])
    service = serve(listeners.dwaarfile(site, options("refresh 1m", "max_age 5m")))
    listeners.wait(site)
    service.stop()
    responder.stop()
    [kept] = (service.storage / "ocsp").glob("*.der")
    fetched = time.time() - 292
    os.utime(kept, (fetched, fetched))
    service.start()
    assert listeners.staples(site.serial) == {True}
    assert told(service, "unstapled") == []
    until("the end", lambda: listeners.staples(site.serial) == {False})
    assert time.time() - fetched >= 300
    [warning] = until("the warning", lambda: told(service, "unstapled"))
    assert "#warn]" in warning
    for _ in range(5):
        assert listeners.staples(site.serial) == {False}
    assert told(service, "unstapled") == [warning]
    assert shown(service)["staple"] == "none"
    service.stop()
    before = len(service.log())
    service.start()
    assert listeners.staples(site.serial) == {False}
    assert "the response was fetched too long ago" in service.log()[before:]
    responder.start()
    service.console("refreshOCSP()")
    assert listeners.staples(site.serial) == {True}


@pytest.mark.parametrize("how", ["read-only", "no folder"])
def test_a_disk_that_takes_nothing(
    pki: Pki, responder: Responder, tmp_path: Path, serve: Serve, how: str
) -> None:
    """Root may write everywhere, so the folder of staples is one where nobody may; or a file."""
    folder = tmp_path / "storage" / "ocsp"
    folder.parent.mkdir(mode=0o700)
    if how == "read-only":
        folder.symlink_to("/proc")
    else:
        folder.write_text("")
    port = free_port()
    sites = pki.leaves(3, ocsp=[responder.url])
    blocks = "".join(
        f"site{index}.test:{port} {{\nbind 127.0.0.1\n{site.tls}\nrespond hello\n}}\n"
        for index, site in enumerate(sites)
    )
    service = serve(f"{{\nhttp_port 0\n{ALLOW}\n}}\n{blocks}")
    until("the staples", lambda: len(told(service, "stapled")) == 3)
    service.console("refreshOCSP()")
    for index in range(3):
        assert handshake(port, f"site{index}.test", pki.trust).good
        assert curl_accepts(port, f"site{index}.test", pki.trust)
    [warning] = [line for line in service.log().splitlines() if "cannot be written" in line]
    assert "#warn]" in warning
    assert str(folder) in warning


# --- must-staple ------------------------------------------------------------


def test_must_staple_without_a_staple_from_the_start(
    pki: Pki, listeners: Listeners, responder: Responder, serve: Serve
) -> None:
    """There is no other to serve: it is served without, and that is an alarm."""
    responder.behave("http_503", retry_after=7200)
    site = pki.leaf(ocsp=[responder.url], must_staple=True)
    service = serve(listeners.dwaarfile(site))
    [alarm] = until("the alarm", lambda: told(service, "failed"))
    assert "#error]" in alarm
    assert "answers 503" in alarm
    assert listeners.staples(site.serial) == {False}
    assert not curl_accepts(listeners.https, "a.test", pki.trust)
    # The responder wants to be left alone for two hours, and is.
    said = service.console(
        "[row['next attempt'].timestamp() for row in showCertificates()][0]",
    )
    assert 7000 < float(said) - time.time() < 7300
    # Neither does somebody who asks for more, and leaves.
    asked = len(responder.seen())
    client = subprocess.Popen(
        [program("dwaarx"), "console", "--socket", service.storage / "console.sock",
         "refreshOCSP()"]
    )  # fmt: skip
    until("the console", lambda: service.log().count("console: opened") == 2)
    client.kill()
    client.wait(PATIENCE)
    assert listeners.staples(site.serial) == {False}
    assert len(responder.seen()) == asked
    responder.behave("good")
    # A restart forgets what it wanted.
    service.stop()
    service.start()
    listeners.wait(site)


# --- asking for it ----------------------------------------------------------


def test_refresh_on_the_console(
    pki: Pki, responder: Responder, tmp_path: Path, serve: Serve
) -> None:
    port = free_port()
    names = ("one.test", "two.test", "none.test")
    sites = {
        name: pki.leaf(name, ocsp=[responder.url] if name != "none.test" else []) for name in names
    }
    blocks = "".join(
        f"{name}:{port} {{\nbind 127.0.0.1\n{site.tls}\nrespond hello\n}}\n"
        for name, site in sites.items()
    )
    service = serve(f"{{\nhttp_port 0\n{ALLOW}\n}}\n{blocks}")
    until("the staples", lambda: len(told(service, "stapled")) == 2)

    def asked() -> list[int | None]:
        return [each.serial for each in responder.seen()]

    one, two = sites["one.test"].serial, sites["two.test"].serial
    assert sorted(asked(), key=str) == sorted((one, two), key=str)
    said = service.console("refreshOCSP()")
    assert said.count(": stapled, good until") == 2
    assert asked().count(one) == asked().count(two) == 2
    assert ": stapled" in service.console('refreshOCSP("two.test")')
    assert (asked().count(one), asked().count(two)) == (2, 3)
    assert ": stapled" in service.console(f'refreshOCSP("{sites["one.test"].certificate}")')
    assert (asked().count(one), asked().count(two)) == (3, 3)
    assert "there is no certificate for three.test" in service.refusal('refreshOCSP("three.test")')
    assert "no OCSP responder" in service.refusal('refreshOCSP("none.test")')
    responder.behave("unknown", leaf=sites["two.test"])
    said = service.refusal("refreshOCSP()")
    assert "1 of 2 could not be refreshed" in said
    assert f"{sites['two.test'].certificate}: " in said
    assert "does not know the certificate" in said
    assert f"{sites['one.test'].certificate}: stapled, good until" in said
    # Listeners that come from the console get their staples as well.
    dot = free_port()
    late = pki.leaf("late.test", ocsp=[responder.url])
    service.console(f'addTLSLocal("127.0.0.1:{dot}", "{late.certificate}", "{late.key}")')
    until("its staple", lambda: handshake(dot, "late.test", pki.trust).good)
    assert ": stapled" in service.console('refreshOCSP("late.test")')


# --- new files --------------------------------------------------------------


def test_new_files_go_live_with_their_staple(
    pki: Pki, listeners: Listeners, responder: Responder, tmp_path: Path, serve: Serve
) -> None:
    """No handshake on the way fails or lacks a staple; a pair that is half-written waits."""
    former = pki.leaf(ocsp=[responder.url])
    service = serve(listeners.dwaarfile(former))
    listeners.wait(former)
    new = pki.leaf(ocsp=[responder.url], stem="new", must_staple=True)
    responder.behave("good", leaf=new, delay=1.5)
    shutil.copy(new.certificate, former.certificate)
    assert "the key" in service.refusal("reloadAllCertificates()")
    assert listeners.staples(former.serial) == {True}
    shutil.copy(new.key, former.key)
    serials = set()

    def swapped() -> bool:
        seen = listeners.handshakes()
        assert all(each.good for each in seen), [each.text for each in seen]
        now = {each.serial for each in seen}
        serials.update(now)
        return now == {new.serial}

    until("the new certificate", swapped)
    assert serials == {former.serial, new.serial}
    for _ in range(5):
        assert swapped()
    assert curl_accepts(listeners.https, "a.test", pki.trust)
    assert len(responder.seen(new)) == 1
    [loaded] = told(service, "loaded")
    assert f"serial={hexadecimal(new.serial)}" in loaded


def test_must_staple_files_wait_for_their_staple(
    pki: Pki, listeners: Listeners, responder: Responder, serve: Serve
) -> None:
    former = pki.leaf(ocsp=[responder.url])
    service = serve(listeners.dwaarfile(former))
    listeners.wait(former)
    responder.behave("try_later")
    new = pki.leaf(ocsp=[responder.url], stem="a.test", must_staple=True)
    [alarm] = until("the alarm", lambda: told(service, "failed"))
    assert "#error]" in alarm
    for words in ("the former one stays", "must_staple=yes", "try later", "next_attempt="):
        assert words in alarm
    assert listeners.staples(former.serial) == {True}
    row = shown(service)
    assert row["serial"].lower() == f"{former.serial:x}".zfill(len(row["serial"]))
    assert "waits for its staple" in row["problem"]
    # An operator may ask again before its time.
    responder.behave("good")
    service.console("reloadAllCertificates()")
    until("the new one", lambda: listeners.handshakes()[0].serial == new.serial)
    assert listeners.staples(new.serial) == {True}
    assert curl_accepts(listeners.https, "a.test", pki.trust)
    assert shown(service)["problem"] == ""
