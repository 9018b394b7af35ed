from __future__ import annotations

import os
from ipaddress import ip_network
from pathlib import Path

import pytest

from dwaarx.config import parse
from dwaarx.config.model import (
    Address,
    ConsoleOff,
    ConsoleSsh,
    ConsoleUnix,
    OcspOptions,
    Timeouts,
)
from dwaarx.config.options import LETS_ENCRYPT
from tests.config.reading import option_problem, problem, problems, read


def test_defaults() -> None:
    config = read("")
    assert (config.http_port, config.bind) == (80, ())
    assert config.redirect_http
    assert config.console == ConsoleUnix()
    assert config.timeouts == Timeouts()
    assert config.ocsp == OcspOptions()
    assert config.certificate_cache == 10_000
    assert config.acme_cas == (LETS_ENCRYPT,)
    assert (config.sites, config.resolvers) == ((), ())


def test_all_of_them() -> None:
    config = parse(
        """{
            http_port 0
            https_port 8443
            bind 127.0.0.1 [::1] 2001:DB8::1
            storage data
            workers 1
            console ssh 127.0.0.1:5199 { authorized_keys keys }
            auto_https disable_redirects
            timeouts {
                handshake 500ms
                read_header 1m30s
                read_body 12h
                idle 7d
                drain 0
            }
            certificate_cache 5
            ocsp {
                refresh 1h
                timeout 2s
                max_age 1d
                allow_responder 10.0.0.0/8 ::1
                allow_responder 127.0.0.1
            }
        }""",
        "/etc/x/Dwaarfile",
        {},
    )
    assert config.http_port == 0
    assert config.bind == ("127.0.0.1", "::1", "2001:db8::1")
    assert config.storage == Path("/etc/x/data")
    assert config.console == ConsoleSsh(Address("127.0.0.1", 5199), Path("/etc/x/keys"))
    assert not config.redirect_http
    assert config.timeouts == Timeouts(0.5, 90.0, 43200.0, 604800.0, 0.0)
    assert config.certificate_cache == 5
    networks = tuple(map(ip_network, ("10.0.0.0/8", "::1", "127.0.0.1")))
    assert config.ocsp == OcspOptions(3600.0, 2.0, 86400.0, networks)


@pytest.mark.parametrize(
    ("word", "console"),
    [
        ("unix", ConsoleUnix()),
        ("off", ConsoleOff()),
        ("ssh :22 { authorized_keys /k }", ConsoleSsh(Address("", 22), Path("/k"))),
        ("ssh [::1]:22 { authorized_keys /k }", ConsoleSsh(Address("::1", 22), Path("/k"))),
    ],
)
def test_consoles(word: str, console: object) -> None:
    assert read(f"{{\nconsole {word}\n}}").console == console


@pytest.mark.parametrize(
    ("uid", "environ", "folder"),
    [
        (0, {"HOME": "/root"}, "/var/lib/dwaarx"),
        (1000, {"HOME": "/home/a", "XDG_DATA_HOME": "/data"}, "/data/dwaarx"),
        (1000, {"HOME": "/home/a", "XDG_DATA_HOME": "relative"}, "/home/a/.local/share/dwaarx"),
        (1000, {"HOME": "/home/a"}, "/home/a/.local/share/dwaarx"),
    ],
)
def test_default_storage(
    uid: int, environ: dict[str, str], folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getuid", lambda: uid)
    assert read("", environ).storage == Path(folder)


def test_no_home_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home(_path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(os, "getuid", lambda: 1000)
    monkeypatch.setattr(Path, "expanduser", no_home)
    assert problem("", {"X": ""}).startswith("1:1: there is no home folder")
    assert read("{\nstorage /x\n}", {"X": ""}).storage == Path("/x")


@pytest.mark.parametrize(
    ("directive", "expected"),
    [
        ("http_port", "2:1: a word is missing: expected `http_port PORT`"),
        ("http_port 80 81", "2:14: `81` is one word too many: expected `http_port PORT`"),
        ("http_port 65536", "2:11: `65536` is not a port: expected a number from 0 to 65535"),
        ("https_port 0", "2:12: `0` is not a port: expected a number from 1 to 65535"),
        ("https_port 80", "1:1: http_port and https_port are both 80"),
        ("http_port 80 { x }", "2:1: `http_port` takes no block"),
        ("bind", "2:1: a word is missing: expected `bind ADDRESS…`"),
        (
            "bind localhost",
            "2:6: `localhost` is not a local IP address: expected one such as 127.0.0.1 or ::1",
        ),
        ("bind ::1 [::1]", "2:10: the address ::1 is given twice"),
        ("workers 2", "2:9: `workers 2` is not available yet"),
        ("workers auto", "2:9: `workers auto` is not available yet"),
        ("workers 0", "2:9: `0` is not a number of workers: expected `workers 1`"),
        ("workers x", "2:9: `x` is not a number of workers: expected `workers 1`"),
        ("acme_eab { x y }", "2:1: `acme_eab` is not a directive of the global options: give `ea"),
        ("acme_dns x", "2:1: `acme_dns` is not a directive of the global options: give `dns rfc"),
        ("acme_ca_root x", "2:1: `acme_ca_root` is not a directive of the global options: name"),
        ("ocsp_stapling off", "2:1: `ocsp_stapling` is not a directive of the global options: "),
        ("eab x y", "2:1: `eab` is not a directive of the global options: it stands in the block"),
        ("certificate_cache", "2:1: a word is missing: expected `certificate_cache NUMBER`"),
        ("certificate_cache 0", "2:19: `0` is not a number from 1 to 10000000"),
        ("certificate_cache ²", "2:19: `²` is not a number from 1 to 10000000"),
        ("certificate_cache 10000001", "2:19: `10000001` is not a number from 1 to 10000000"),
        ("ocsp", "2:1: a block is missing: expected `ocsp { … }`"),
        ("ocsp x { refresh 1h }", "2:6: `x` is one word too many: expected `ocsp { … }`"),
        ("ocsp { refresh 59s }", "2:16: `59s` does not fit here: expected from 1m to 7d"),
        ("ocsp { refresh 8d }", "2:16: `8d` does not fit here: expected from 1m to 7d"),
        ("ocsp { timeout 99ms }", "2:16: `99ms` does not fit here: expected from 100ms to 1m"),
        ("ocsp { timeout 61s }", "2:16: `61s` does not fit here: expected from 100ms to 1m"),
        ("ocsp { max_age 366d }", "2:16: `366d` does not fit here: expected from 5m to 365d"),
        ("ocsp { max_age 11h }", "2:16: `max_age` is shorter than `refresh` (11h and 12h): there"),
        ("ocsp { max_aeg 11h }", "2:8: `max_aeg` is not a directive of `ocsp`; did you mean"),
        ("ocsp { allow_responder }", "2:8: a word is missing: expected `allow_responder NETWORK…`"),
        ("ocsp { allow_responder 10.0.0.1/8 }", "2:24: `10.0.0.1/8` has bits behind its prefix"),
        ("ocsp { allow_responder ::1 ::1/128 }", "2:28: the network ::1/128 is given twice"),
        ("metrics 127.0.0.1:1", "2:1: `metrics` is not available yet"),
        ("auto_https of", "2:12: `of` does not fit here; did you mean `off`?"),
        ("auto_https disable_certs", "2:12: `auto_https disable_certs` is not available yet"),
        ("console", "2:1: a word is missing: expected `console unix|ssh|off`"),
        ("console shh", "2:9: there is no console `shh`; did you mean `ssh`?"),
        ("console unix x", "2:14: `x` is one word too many: expected `console unix`"),
        ("console off { x }", "2:1: `console` takes no block"),
        (
            "console ssh",
            "2:1: a word is missing: expected `console ssh ADDRESS { authorized_keys FILE }`",
        ),
        (
            "console ssh 127.0.0.1",
            "2:13: the port is missing in `127.0.0.1`: `127.0.0.1:PORT`",
        ),
        (
            "console ssh 127.0.0.1:1",
            "2:1: a block is missing: expected `console ssh ADDRESS { … }`",
        ),
        (
            "console ssh 127.0.0.1:1 { }",
            "2:1: a file of keys is missing: expected `console ssh ADDRESS { authorized_keys",
        ),
        ('console ssh 127.0.0.1:1 { authorized_keys "" }', "2:43: expected the path of a file"),
        ("timeouts x { idle 1s }", "2:10: `x` is one word too many: expected `timeouts { … }`"),
        ("timeouts", "2:1: a block is missing: expected `timeouts { … }`"),
        ("timeouts { idle 0 }", "2:17: expected a duration greater than 0"),
        ("timeouts { idle 4000d }", "2:17: `4000d` is too long: at most 3650d"),
        (
            "timeouts { idle 10 }",
            "2:17: `10` is not a duration: expected one such as 500ms, 10s, 5m, 12h, 7d",
        ),
        (
            "timeouts { idel 10s }",
            "2:12: `idel` is not a directive of `timeouts`; did you mean `idle`?",
        ),
        ("http_prot 80", "2:1: `http_prot` is not a directive of the global options; did you mean"),
        (
            "reverse_proxy a:1",
            "2:1: `reverse_proxy` is not a directive of the global options: it stands in a site's",
        ),
        ("{ x }", "2:1: a `{` must follow a directive on its line"),
    ],
)
def test_problems(directive: str, expected: str) -> None:
    assert option_problem(directive).startswith(expected)


def test_twice() -> None:
    assert problem("{\nhttp_port 1\nhttp_port 2\n}") == (
        "3:1: `http_port` is given twice; the first is at Dwaarfile:2:1"
    )


def test_a_snippet_imported_twice_is_twice() -> None:
    text = "(s) { http_port 1 }\n{\nimport s\nimport s\n}"
    assert problem(text) == "1:7: `http_port` is given twice; the first is at Dwaarfile:1:7"


def test_only_one_block_and_it_stands_first() -> None:
    assert problems("{\n}\n{\n}\nhttp://a.test { }") == [
        "3:1: there are two blocks of global options; the first is at Dwaarfile:1:1"
    ]
    assert problem("http://a.test { }\n{\n}") == (
        "2:1: the block of global options stands at the top, before all sites"
    )
