"""The functions, with a frontend that only notes what it is asked."""

import re
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography.x509 import ocsp
from twisted.internet.defer import Deferred, succeed
from twisted.python.failure import Failure

from dwaarx.certs.errors import AcmeError, CertificateError, CertificateErrors, OcspError
from dwaarx.certs.record import Held
from dwaarx.certs.stapling import Outcome
from dwaarx.certs.status import CertificateStatus, ReloadOutcome
from dwaarx.config.model import Address, CertificateFiles
from dwaarx.console.evaluate import evaluate, fresh
from dwaarx.console.functions import Console
from dwaarx.dns.forwarder import ServerStatus
from dwaarx.listening import BindStatus
from tests.certs import pki

NAMES = [
    "generateOCSPResponse",
    "reloadAllCertificates",
    "reloadConfig",
    "refreshOCSP",
    "renewCertificate",
    "addTLSLocal",
    "addDOHLocal",
    "showCertificates",
    "showOCSPCounters",
    "showTLSFrontends",
    "showDOHFrontends",
    "showServers",
    "showBinds",
    "showVersion",
    "help",
]


class Manager:
    outcomes: tuple = ()
    refreshed: tuple = ()

    def __init__(self):
        self.asked = []
        self.renewed = Deferred()
        self.stapling = SimpleNamespace(counts=Counter(good=3, unreachable=1))

    def reload(self):
        return list(self.outcomes)

    def status(self):
        return [
            CertificateStatus(
                names=("dns.test", "*.dns.test"),
                issuer="CN=Test CA",
                serial="1f",
                not_after=datetime(2027, 1, 1, tzinfo=UTC),
                key="ECDSA P-256",
                source="files /dns.pem",
                staple="none",
                why_not_stapled="the response has expired",
                guard="OCSP http://ocsp.test",
                problem="/dns.key: is not the key of the certificate in /dns.pem",
                next_attempt=None,
            )
        ]

    def refresh(self, name):
        if name not in (None, "dns.test"):
            raise LookupError(f"there is no certificate for {name}")
        self.asked.append(name)
        return succeed(list(self.refreshed))

    def renew(self, name):
        if name == "unknown.test":
            raise LookupError(f"there is no certificate for {name}")
        if name == "files.test":
            raise CertificateErrors([CertificateError(Path("/dns.pem"), "is a file of yours")])
        return self.renewed


class Forwarder:
    def servers(self):
        return [ServerStatus("", "udp", "192.0.2.53:53", 1, 20, 3, 1.5)]


def bind(address, protocols, doh_paths=()):
    return BindStatus(
        address=address,
        protocols=protocols,
        names=("*",),
        origin="Dwaarfile",
        connections=1,
        accepted=20,
        tls_failures=3,
        certificates=("dns.test",),
        doh_paths=doh_paths,
    )


class Frontend:
    def __init__(self):
        self.manager = Manager()
        self.forwarder = Forwarder()
        self.added = []

    def reload(self):
        return "2 sites, 3 listeners"

    def add_tls_local(self, address, sources):
        self.added.append(("dot", address, sources))
        return f"now listening on {address}"

    def add_doh_local(self, address, sources, paths):
        self.added.append(("doh", address, sources, paths))
        return f"now listening on {address}"

    def binds(self):
        return [
            bind("0.0.0.0:80", ("http",)),
            bind("0.0.0.0:443", ("https/1.1", "h2", "doh"), ("/dns-query", "/q")),
            bind("0.0.0.0:853", ("dot",)),
        ]


@pytest.fixture
def frontend():
    return Frontend()


@pytest.fixture
def call(frontend):
    """Evaluate an expression; give its value, or raise its error."""
    namespace = fresh(Console(frontend).namespace())

    def call(expression):
        outcome = evaluate(expression, namespace)
        if outcome.error is not None:
            raise AssertionError(outcome.error)
        return outcome.value

    return call


def fails(call, expression):
    with pytest.raises(AssertionError) as caught:
        call(expression)
    return str(caught.value)


def test_the_functions_that_are_there(frontend):
    assert list(Console(frontend).namespace()) == NAMES


def test_help_lists_every_function_with_one_line(call):
    lines = repr(call("help()")).splitlines()
    assert [line.split()[0] for line in lines] == NAMES
    assert all(line.endswith(".") and len(line) <= 100 for line in lines)


def test_help_tells_all_about_one(call):
    text = repr(call("help(generateOCSPResponse)"))
    assert text.startswith(
        "generateOCSPResponse(certificate, caCertificate, caKey, output, days, minutes=0)\n\n"
    )
    assert "days, minutes" in text
    assert call("help('generateOCSPResponse')") == text
    assert fails(call, "help('showBind')") == (
        "ConsoleError: there is no function showBind; did you mean showBinds?"
    )
    assert "help() lists" in fails(call, "help('zzz')")
    assert repr(call("help(len)")).startswith("Return the number of items")


def test_a_function_without_its_parentheses_tells_what_it_does(call):
    assert repr(call("showBinds")) == (
        "showBinds()  Show every address that is listened on, and what it serves."
    )


# --- acting -----------------------------------------------------------------------


@pytest.fixture
def files(tmp_path):
    ca = pki.make_ca()
    leaf = pki.make_leaf(ca)
    other = pki.make_ca("Other")
    for name, entity in {"certificate": leaf, "ca": ca, "other": other}.items():
        (tmp_path / f"{name}.pem").write_bytes(entity.pem)
        (tmp_path / f"{name}.key").write_bytes(entity.key_pem)
    return tmp_path


def generate(folder, ca="ca", key="ca", output="out.der", rest="7"):
    return (
        f"generateOCSPResponse('{folder}/certificate.pem', '{folder}/{ca}.pem', "
        f"'{folder}/{key}.key', '{folder}/{output}', {rest})"
    )


def test_generate_writes_a_response_and_says_how_long_it_is_good(call, files):
    said = call(generate(files, rest="0, 30"))
    assert f"wrote {files}/out.der: good until " in said
    response = ocsp.load_der_ocsp_response((files / "out.der").read_bytes())
    assert response.certificate_status is ocsp.OCSPCertStatus.GOOD


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ca": "other", "key": "other"}, OcspError.__name__),
        ({"key": "other"}, OcspError.__name__),
        ({"output": "none/out.der"}, "CertificateError: .*out.der: cannot be written"),
        ({"ca": "missing"}, "CertificateError: .*missing.pem"),
        ({"rest": "0"}, "ConsoleError: days and minutes are both 0"),
        ({"rest": "'7'"}, "ConsoleError: days must be a whole number"),
        ({"rest": "-1"}, "ConsoleError: days must not be negative"),
    ],
)
def test_generate_refuses_with_the_reason(call, files, changes, message):
    assert re.match(message, fails(call, generate(files, **changes)))
    assert not (files / "out.der").exists()


def test_generate_wants_paths(call):
    assert "caKey is the path of a file" in fails(
        call, "generateOCSPResponse('/a', '/b', None, '/d', 1)"
    )


SOURCE = (CertificateFiles(Path("/a.pem"), Path("/a.key")),)


def test_reload_names_what_was_reloaded(call, frontend):
    frontend.manager.outcomes = (
        ReloadOutcome(SOURCE, "files /a.pem (staple good)"),
        ReloadOutcome(SOURCE, "internal localhost"),
    )
    assert call("reloadAllCertificates()") == (
        "reloaded files /a.pem (staple good)\nreloaded internal localhost"
    )
    frontend.manager.outcomes = ()
    assert call("reloadAllCertificates()") == "there are no certificates"


def test_reload_names_what_was_kept_and_why(call, frontend):
    frontend.manager.outcomes = (
        ReloadOutcome(SOURCE, "files /a.pem", "/a.key: is not the certificate's key"),
        ReloadOutcome(SOURCE, "internal localhost"),
    )
    assert fails(call, "reloadAllCertificates()") == (
        "ConsoleError: 1 of 2 could not be loaded\n"
        "kept files /a.pem: /a.key: is not the certificate's key\n"
        "reloaded internal localhost"
    )


def test_reload_config_says_what_changed(call):
    assert repr(call("reloadConfig()")) == "2 sites, 3 listeners"


def test_reload_config_raises_with_the_reason(call, frontend):
    def reload():
        raise CertificateError(Path("/a.pem"), "cannot be read")

    frontend.reload = reload
    assert fails(call, "reloadConfig()") == "CertificateError: /a.pem: cannot be read"


def test_add_tls_local(call, frontend):
    assert call("addTLSLocal('127.0.0.1', '/a.pem', '/a.key')") == "now listening on 127.0.0.1:853"
    call("addTLSLocal('[::1]:8853', ['/a.pem'], ['/a.key'], {'ocspResponses': ['/a.der']})")
    assert frontend.added == [
        ("dot", Address("127.0.0.1", 853), SOURCE),
        (
            "dot",
            Address("::1", 8853),
            (CertificateFiles(Path("/a.pem"), Path("/a.key"), Path("/a.der")),),
        ),
    ]


def test_add_doh_local(call, frontend):
    call("addDOHLocal('::1', '/a.pem', '/a.key')")
    call("addDOHLocal('127.0.0.1:8443', '/a.pem', '/a.key', urls=['/q', '/r'], options={})")
    assert frontend.added == [
        ("doh", Address("::1", 443), SOURCE, ("/dns-query",)),
        ("doh", Address("127.0.0.1", 8443), SOURCE, ("/q", "/r")),
    ]


# --- staples and certificates -------------------------------------------------------


def outcome(name, words, good):
    source = (CertificateFiles(Path(name), Path("/k")),)
    return Outcome(Held(source).records[0], words, good)


def came(deferred):
    """What a function gave later: its value, or what its error says."""
    results = []
    deferred.addBoth(results.append)
    [result] = results
    return str(result.value) if isinstance(result, Failure) else repr(result)


def test_refresh_of_all(call, frontend):
    assert came(call("refreshOCSP()")) == "no certificate has an OCSP responder"
    frontend.manager.refreshed = (outcome("/a.pem", "stapled, good until then", True),)
    assert came(call("refreshOCSP()")) == "files /a.pem: stapled, good until then"
    assert frontend.manager.asked == [None, None]


def test_a_refresh_that_fails_is_an_error_that_names_all(call, frontend):
    frontend.manager.refreshed = (
        outcome("/a.pem", "stapled, good until then", True),
        outcome("/b.pem", "http://ocsp.test: it did not answer", False),
    )
    assert came(call("refreshOCSP('dns.test')")).splitlines() == [
        "1 of 2 could not be refreshed",
        "files /b.pem: http://ocsp.test: it did not answer",
        "files /a.pem: stapled, good until then",
    ]
    assert frontend.manager.asked == ["dns.test"]


@pytest.mark.parametrize("function", ["refreshOCSP", "renewCertificate"])
def test_a_name_that_no_certificate_has(call, function):
    error = fails(call, f"{function}('unknown.test')")
    assert error == "ConsoleError: there is no certificate for unknown.test"


def test_renewal_waits_until_the_certificate_is_in_use(call, frontend):
    deferred = call("renewCertificate('dns.test')")
    assert not deferred.called
    frontend.manager.renewed.callback(["dns.test: good until then", "internal dns.test: done"])
    assert came(deferred) == "dns.test: good until then\ninternal dns.test: done"


def test_a_renewal_that_fails_says_why(call, frontend):
    deferred = call("renewCertificate('dns.test')")
    frontend.manager.renewed.errback(AcmeError("dns.test: the CA says no"))
    assert came(deferred) == "dns.test: the CA says no"


def test_files_are_not_renewed(call):
    error = fails(call, "renewCertificate('files.test')")
    assert error == "CertificateErrors: /dns.pem: is a file of yours"


@pytest.mark.parametrize("function", ["addTLSLocal", "addDOHLocal"])
def test_an_unknown_option_is_refused_and_nothing_is_added(call, frontend, function):
    error = fails(call, f"{function}('::1', '/a', '/k', options={{'ocspResponse': ['/r']}})")
    assert error == ("ConsoleError: unknown option 'ocspResponse'; did you mean 'ocspResponses'?")
    assert frontend.added == []


# --- showing ----------------------------------------------------------------------


def test_show_certificates(call):
    [row] = call("showCertificates()")
    assert row["names"] == ("dns.test", "*.dns.test")
    assert row["why not stapled"] == "the response has expired"
    assert row["guard"] == "OCSP http://ocsp.test"
    assert row["problem"].startswith("/dns.key: is not the key")
    assert row["next attempt"] is None
    text = repr(call("showCertificates()"))
    for word in ("dns.test, *.dns.test", "CN=Test CA", "1f", "2027-01-01", "ECDSA P-256"):
        assert word in text


def test_show_ocsp_counters(call):
    rows = [(row["outcome"], row["count"]) for row in call("showOCSPCounters()")]
    assert rows == [("good", 3), ("unreachable", 1)]


def test_show_frontends(call):
    assert [row["address"] for row in call("showTLSFrontends()")] == ["0.0.0.0:853"]
    [doh] = call("showDOHFrontends()")
    assert (doh["address"], doh["urls"]) == ("0.0.0.0:443", ("/dns-query", "/q"))
    assert "TLS failures" in repr(call("showTLSFrontends()"))


def test_show_binds(call):
    table = call("showBinds()")
    assert [row["address"] for row in table] == ["0.0.0.0:80", "0.0.0.0:443", "0.0.0.0:853"]
    assert "https/1.1, h2, doh" in repr(table)


def test_show_servers(call):
    [row] = call("showServers()")
    assert row["address"] == "192.0.2.53:53"
    assert row["latency ms"] == 1.5


def test_show_version(call):
    words = repr(call("showVersion()"))
    assert words.startswith("dwaarx 0.")
    for part in ("Python 3.", "Twisted ", "OpenSSL "):
        assert part in words
