from __future__ import annotations

import contextlib
import gc
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dwaarx.config import ConfigError, Problem, default_path, load, parse, reader
from dwaarx.config.errors import MAX_PROBLEMS
from dwaarx.config.model import (
    AutomaticCertificates,
    Config,
    DnsOverHttps,
    InternalCertificate,
    Redirect,
    Respond,
    ReverseProxy,
)
from tests.config.reading import problem, problems, read
from tests.config.strategies import dwaarfiles
from tests.config.test_fmt import EXAMPLES

# DESIGN.md's example, without what is not available yet.
WHOLE = """
{                                   # global options, all optional
    http_port 80                    # plain HTTP: redirects to HTTPS, ACME http-01; 0 = off
    https_port 443
    bind 127.0.0.1 ::1              # default: every address
    storage /var/lib/dwaarx         # default: that for root, else $XDG_DATA_HOME/dwaarx
    workers 1                       # N or auto
    console unix                    # STORAGE/console.sock, mode 0600 (default)
    email ops@example.com
    acme_ca https://ca.example/directory /etc/ssl/private-ca.pem   # repeat for fallbacks
    auto_https disable_redirects
    ocsp {
        refresh 12h
        timeout 10s
        max_age 7d                  # a staple fetched longer ago is not sent
        allow_responder 10.0.0.0/8  # exceptions to the responder blocklist, for a private PKI
    }
    timeouts {
        handshake 10s
        read_header 10s
        read_body 30s
        idle 60s
        drain 30s
    }
}

example.com { reverse_proxy localhost:3000 }           # certificate by ACME

api.example.com, *.api.example.com {
    tls /etc/dwaarx/api.pem /etc/dwaarx/api.key {   # the block is optional
        ocsp /etc/dwaarx/api.ocsp.der
    }
    reverse_proxy {
        to app1:8080 app2:8080
    }
}

localhost {
    tls internal
    respond "hello" 200
}

dns.example.com {
    tls internal
    dns_over_tls                    # :853; an argument is the address
    dns_over_https /dns-query       # path(s) on the HTTPS port, the default one here
    reverse_proxy localhost:3000    # everything else
}

resolvers {                         # the pool that DoT and DoH forward to
    to 192.0.2.53 udp://192.0.2.54:5300 tcp://192.0.2.55
    policy least_outstanding        # round_robin, first, random, hash
    record hello.test A 127.0.0.1   # local answers
    allow 127.0.0.0/8 ::1           # who may ask; default: loopback and private networks
}
resolvers corp.example 10.in-addr.arpa { to 10.0.0.53 }   # a pool for names under these
"""

# The complete example of the page on OCSP stapling in Dwaar's documentation.
DWAAR = """
# ACME cert — OCSP stapling automatic
example.com {
    reverse_proxy localhost:3000
}

# Manual cert — OCSP stapling active if /etc/dwaar/certs/api.example.com.pem
# contains the full chain (leaf + issuer)
api.example.com {
    reverse_proxy localhost:8080
    tls /etc/dwaar/certs/api.example.com.pem /etc/dwaar/certs/api.example.com.key
}

# Self-signed cert — OCSP not applicable, silently skipped
localhost {
    reverse_proxy localhost:3000
    tls internal
}
"""


def test_the_whole_example() -> None:
    config = read(WHOLE)
    assert [str(site.addresses[0]) for site in config.sites] == [
        "https://example.com:443",
        "https://api.example.com:443",
        "https://localhost:443",
        "https://dns.example.com:443",
    ]
    assert [[type(route) for route in site.routes] for site in config.sites] == [
        [ReverseProxy],
        [ReverseProxy],
        [Respond],
        [DnsOverHttps, ReverseProxy],
    ]
    assert [str(address) for address in config.sites[3].dns_over_tls] == [
        "127.0.0.1:853",
        "[::1]:853",
    ]
    assert len(config.resolvers) == 2
    assert config == read(WHOLE)
    # A reload must see that nothing changed when only lines have moved.
    assert config == read("# moved\n\n" + WHOLE)


def test_dwaars_example_is_taken_as_it_is() -> None:
    first, second, third = (site.certificate for site in read(DWAAR).sites)
    assert isinstance(first, AutomaticCertificates)
    assert first.internal is None
    assert isinstance(second, tuple)
    assert isinstance(third, InternalCertificate)
    one_line = DWAAR.replace("{\n    reverse_proxy localhost:3000\n}", "{ reverse_proxy a:1 }")
    assert read(one_line).sites[0].certificate == first


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_the_examples_of_the_package(path: Path) -> None:
    assert isinstance(load(path), Config)


# A Dwaarfile of every day, each time with one mistake.
BROKEN = {
    "missing brace": (
        "example.com {\n    tls internal\n    reverse_proxy localhost:3000\n",
        ["1:13: this `{` is never closed: expected a `}`"],
    ),
    "misspelt directive": (
        "localhost {\n    reverse_prxoy localhost:3000\n}\n",
        ["2:5: `reverse_prxoy` is not a directive of a site; did you mean `reverse_proxy`?"],
    ),
    "two on a line": (
        "localhost {\n    reverse_proxy localhost:3000 tls internal\n}\n",
        ["2:34: `tls` begins a directive: expected it on a line of its own"],
    ),
    "key forgotten": (
        "a.test {\n    tls /etc/a.pem\n}\n",
        [
            (
                "2:9: a word is missing after `/etc/a.pem`: expected "
                "`tls CERT KEY { ocsp FILE }`, `tls internal` or `tls { dns … }`"
            )
        ],
    ),
    "a port that is none": (
        "localhost {\n    reverse_proxy localhost:http\n}\n",
        ["2:19: `http` is not a port: expected a number from 1 to 65535"],
    ),
    "a duration without unit": (
        "{\n    timeouts {\n        idle 60\n    }\n}\n",
        ["3:14: `60` is not a duration: expected one such as 500ms, 10s, 5m, 12h, 7d"],
    ),
    "a site twice": (
        "localhost {\n    respond a\n}\n\nlocalhost {\n    respond b\n}\n",
        ["5:1: the address https://localhost:443 is taken already, by the site at Dwaarfile:1:1"],
    ),
    "quote forgotten": (
        'localhost {\n    respond "hello 200\n}\n',
        ['2:13: this quote is never closed: expected `"`'],
    ),
    "brace without space": (
        "localhost{\n    respond hello\n}\n",
        [
            (
                "1:10: a brace in `localhost{` has no partner: put a space before a brace that "
                "opens or closes a block, and quotes around a word that holds one"
            )
        ],
    ),
    "brace on a line of its own": (
        "localhost\n{\n    respond hello\n}\n",
        [
            "1:1: expected `{` after the address of a site (`localhost`)",
            "2:1: this `{` belongs at the end of the line before",
        ],
    ),
    "comma before the brace": (
        "localhost,\na.localhost,\n{\n    respond hello\n}\nb.localhost { }",
        ["3:1: this `{` belongs at the end of the line before"],
    ),
    "options in a site": (
        "localhost {\n    https_port 8443\n}\n",
        [
            (
                "2:5: `https_port` is not a directive of a site: it stands in the block of "
                "global options at the top of the file"
            )
        ],
    ),
    "a misspelt resolvers": (
        "resolver { to 192.0.2.1 }\n",
        [
            (
                "1:12: `to` is not a directive of a site: it stands in the block of `resolvers` "
                "or `reverse_proxy`"
            ),
        ],
    ),
    "a network with host bits": (
        "resolvers {\n    allow 192.0.2.1/24\n}\n",
        ["2:11: `192.0.2.1/24` has bits behind its prefix; did you mean `192.0.2.0/24`?"],
    ),
    "a status that is none": (
        'localhost {\n    respond "gone" 1410\n}\n',
        ["2:20: `1410` is not a status code: expected a number from 200 to 599"],
    ),
    "a misspelt placeholder": (
        "localhost {\n    redir https://{hosts}{uri}\n}\n",
        ["2:11: there is no placeholder `{hosts}`; did you mean `host`?"],
    ),
    "several at once": (
        "{\n    htps_port 1\n}\nlocalhost {\n    bind x\n    respond\n}\nresolvers { to y }\n",
        [
            "2:5: `htps_port` is not a directive of the global options; did you mean `https_port`?",
            "5:10: `x` is not a local IP address: expected one such as 127.0.0.1 or ::1",
            '6:5: a word is missing: expected `respond [MATCHER] "BODY" [STATUS]`',
            "8:16: `y` does not begin with an IP address: names are not looked up here",
        ],
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_dwaarfiles(name: str) -> None:
    text, expected = BROKEN[name]
    assert problems(text) == expected


def test_snippets_and_environment_in_a_site() -> None:
    config = read(
        """
        (common) {
            respond /health ok
        }
        {$HOST:localhost} {
            import common
            redir /old {$TARGET} permanent
        }
        """,
        {"TARGET": "/new", "HOME": "/h"},
    )
    (site,) = config.sites
    assert [type(route) for route in site.routes] == [Redirect, Respond]


def test_the_default_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DWAARX_TEST_HOST", "env.localhost")
    (site,) = parse("{$DWAARX_TEST_HOST} { respond x }", "Dwaarfile").sites
    assert site.addresses[0].host == "env.localhost"


def test_default_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = tmp_path / "one", tmp_path / "two"
    monkeypatch.setattr(reader, "DEFAULT_PATHS", (first, second))
    with pytest.raises(ConfigError, match="there is neither"):
        default_path()
    second.write_text("")
    assert default_path() == second
    first.write_text("")
    assert default_path() == first


@pytest.mark.parametrize("collecting", [True, False])
def test_the_collector_is_left_as_it_was(collecting: bool) -> None:
    before = gc.isenabled()
    try:
        (gc.enable if collecting else gc.disable)()
        read("localhost { }")
        problem("x")
        assert gc.isenabled() is collecting
    finally:
        (gc.enable if before else gc.disable)()


def test_too_many_problems() -> None:
    found = problems("nonsense\n" * 1000)
    assert len(found) == MAX_PROBLEMS + 1
    assert found[-1] == f"{MAX_PROBLEMS}:1: too many problems: what follows was not looked at"


def test_the_same_problem_is_said_once() -> None:
    text = "(s) { respont x }\nhttp://a.test {\nimport s\n}\nhttp://b.test {\nimport s\n}"
    assert len(problems(text)) == 1


def test_long_and_strange_words_are_shown_safely() -> None:
    shown = problem('"\n\t' + "x" * 1000 + '"')
    assert shown.startswith("1:1: expected `{` after the address of a site (`\\n\\txxx")
    assert len(shown) < 200


@given(st.text(max_size=200) | dwaarfiles())
def test_nothing_escapes_but_config_errors(text: str) -> None:
    found: tuple[Problem, ...] | Config
    try:
        found = parse(text, "/nonexistent/Dwaarfile", {"HOME": "/h", "X": "import"})
    except ConfigError as error:
        found = error.problems
    if isinstance(found, Config):
        return
    assert found
    for each in found:
        assert each.location.line >= 1
        assert each.location.column >= 1
        assert each.message.isprintable()
        assert len(each.message) < 2000


@pytest.mark.parametrize(
    "piece",
    [
        "a.test {{\ntls internal\n}}\n",
        "a.test, b.test {{\n}}\n",
        "h{}-{}.test {{ tls {{ must_staple }} }}\n",
        "h{}.localhost {{ }}\n",
        "h.localhost {{ bind 127.0.{}.{} }}\n",
        "http://a.test {{ respond /{} x }}\n",
        "resolvers {} {{ to 1.1.1.1 }}\n",
        "http://a.test,\n",
        "import x*/{}\n",
    ],
)
def test_hostile_dwaarfiles_take_linear_time(piece: str) -> None:
    in_linear_time("", piece, "")


@pytest.mark.parametrize(
    ("before", "piece"),
    [
        ("localhost {\nbind ", "127.0.{}.{} "),
        ("localhost {\n", "tls {}.{}.pem x.key\n"),
        ("localhost {\n", "respond /{}/{} x\n"),
        ("localhost {\ndns_over_https ", "/{}/{} "),
        ("localhost {\ndns_over_tls ", "127.0.{}.{} "),
        ("localhost {\nreverse_proxy ", "127.0.{}.{} "),
        ("resolvers {\n", "record a{}.b{} A 127.0.0.1\n"),
        ("resolvers {\nto ", "127.0.{}.{} "),
        ("resolvers {\nallow ", "127.0.{}.{} "),
    ],
)
def test_hostile_blocks_take_linear_time(before: str, piece: str) -> None:
    in_linear_time(before, piece, "\n}\n")


@pytest.mark.parametrize(
    "piece",
    [
        "a{}-{}.test, ",
        "a.test, ",
        "*.a{}-{}.test, ",
        "a{}-{}.test:80, ",
        "a{0}-{1}.test {{ }}\na{0}-{1}.test:444 {{ tls {{ profile x }} }}\n",
    ],
)
def test_hostile_addresses_take_linear_time(piece: str) -> None:
    in_linear_time("", piece, "localhost { }\n")


def in_linear_time(before: str, piece: str, after: str) -> None:
    def seconds(count: int) -> float:
        text = before + "".join(piece.format(n // 256, n % 256) for n in range(count)) + after
        begin = time.process_time()
        with contextlib.suppress(ConfigError):
            parse(text, "/nonexistent/Dwaarfile", {"HOME": "/h"})
        return time.process_time() - begin

    # Ten times the text: ten times as long, and some for the machine; quadratic is a hundred.
    assert seconds(5000) < max(40 * seconds(500), 2)
