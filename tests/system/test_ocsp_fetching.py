"""What responders do wrong, and what dwaarx makes of it: every row at once, in one service.

First every responder is good, then each does what its row says, then each is good again. The
service is asked once each time for the staples of all, so that the rows are in each other's way
as they are in life.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import attrs
import pytest

from tests.system.ocsp_peers import Handshake, Pki, Responder, Site, curl_accepts, handshake
from tests.system.processes import Service, free_port, run, serving, until

# Where responders may be, and where one may not be.
ALLOWED = "127.0.1.0/24 ::1/128"
REFUSED = "127.0.0.1"

# Requests to one responder are a second apart: this many of them share the rows.
RESPONDERS = 10

# Long enough for a good responder on a busy machine.
TIMEOUT = 3

RETRY_AFTER = 3


LATE = f"did not answer within {TIMEOUT} s"


@attrs.frozen
class Row:
    """What a responder does, and words of the reason for which the answer is not used.

    `counter` is under what showOCSPCounters() counts it.
    """

    kind: str
    reason: str = ""
    counter: str = "good"
    options: dict[str, Any] = attrs.field(factory=dict)


FAILING = {
    "hanging": Row("hang", LATE, "timeout"),
    "dripping": Row("drip", LATE, "timeout", {"interval": 0.1}),
    "late": Row("good", LATE, "timeout", {"delay": TIMEOUT + 0.5}),
    "http-500": Row("http_500", "answers 500", "status"),
    "http-404": Row("http_404", "answers 404", "status"),
    "garbage": Row("garbage", "cannot be read as an OCSP response in DER", "malformed"),
    "nothing": Row("nothing", "cannot be read as an OCSP response in DER", "malformed"),
    "wrong-certificate": Row("wrong_certificate", "about another certificate", "mismatch"),
    "empty-list": Row("empty_list", "says nothing about any certificate", "mismatch"),
    "bad-signature": Row("bad_signature", "the signature is not that of", "signature"),
    "stranger": Row("stranger", "was not issued by the certificate's issuer", "signer"),
    "expired": Row("expired", "the response expired at", "expired"),
    "endless-validity": Row("no_next_update", "does not say until when", "expired"),
    "not-yet": Row("not_yet", "the response is not valid before", "not_yet"),
    "oversize": Row("oversize", "more than 65536 octets", "too_large"),
    "endless": Row("endless", "more than 65536 octets", "too_large"),
    "reset": Row("reset", "ended the connection", "broken"),
    "cut": Row("cut", "ended the connection", "broken"),
    "not-http": Row("not_http", "is no HTTP", "broken"),
    "delegate-expired": Row("delegate_expired", "expired at", "signer"),
    "delegate-without-eku": Row(
        "delegate_without_eku", "no extended key usage OCSPSigning", "signer"
    ),
    "try-later": Row("try_later", "answered with an error: try later", "unsuccessful"),
    "unauthorized": Row("unauthorized", "answered with an error: unauthorized", "unsuccessful"),
    "unknown": Row("unknown", "the responder does not know the certificate", "unknown"),
    "redirect-loop": Row("redirect_loop", "redirects more than 3 times", "refused"),
    "redirect-file": Row(
        "redirect", "only http and https are", "refused", {"to": "file:///etc/passwd"}
    ),
    "redirect-refused": Row("redirect", "a loopback address", "refused"),  # `to` comes later
    "down": Row("good", "cannot be reached", "unreachable"),  # it is stopped
    "busy": Row("http_503", "answers 503", "status", {"retry_after": RETRY_AFTER}),
}
ACCEPTED = {
    "good-again": Row("good"),
    "wrong-order": Row("wrong_order"),
    "delegate": Row("delegate"),
    "post-only": Row("refuse_get"),
    "by-name": Row("good", options={"by_name": True}),
    "short-validity": Row("good", options={"validity": 300}),
    "old": Row("good", options={"age": 7 * 86400, "validity": 3600}),
    "slow": Row("drip", options={"interval": 0.0002}),
    "redirect": Row("redirect"),
    "redirect-307": Row("redirect", options={"status": 307}),
    "second-responder": Row("good"),
    "ipv6": Row("good"),
}
# Without any staple, for these reasons: the first two are faults, the others are not.
NEVER = {
    "refused-address": "a loopback address",
    "ldap": "only http and https are",
    "no-responder": "names no OCSP responder",
    "self-signed": "self-signed",
    "no-issuer": "append it",
}
FAULTS = ("refused-address", "ldap")


@attrs.frozen
class Seen:
    """What was seen of one name while the responder did what its row says."""

    before: Handshake
    handshakes: dict[str, Handshake]  # by listener
    curl: bool
    log: str  # its lines, of that time
    why_not: str
    next_attempt: datetime | None
    after: Handshake
    log_after: str


@attrs.frozen
class Evidence:
    """All that was seen."""

    rows: dict[str, Seen]
    sites: dict[str, Site]
    refused: str  # what refreshOCSP() said of those that fail
    again: str  # and when all were good again
    counters: dict[str, int]
    log: str
    connections: int  # to where no responder may be
    busy: Responder
    times: tuple[datetime, datetime]  # before and after the failures


class Table:
    """The service with a site for each row, and its responders."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self.pki = Pki(folder)
        self.stack = stack
        self.ports = {name: free_port() for name in ("https", "doh", "dot")}
        self.victim = self.responder(REFUSED)
        self.elsewhere = self.responder("127.0.1.1")
        shared = [self.responder(f"127.0.1.{index + 2}") for index in range(RESPONDERS)]
        self.of = {
            name: shared[index % RESPONDERS] for index, name in enumerate((*FAILING, *ACCEPTED))
        }
        for name in ("down", "busy"):
            self.of[name] = self.responder("127.0.1.1")
        self.of["ipv6"] = self.responder("::1")
        self.sites = {name: self.site(name) for name in (*self.of, *NEVER)}
        self.service = self.serve()

    def responder(self, host: str) -> Responder:
        return self.stack.enter_context(Responder(self.folder, self.pki.issuer, host=host))

    def site(self, name: str) -> Site:
        host = f"{name}.test"
        if name == "self-signed":
            return self.self_signed(host)
        options: dict[str, Any] = {}
        if name in self.of:
            options["ocsp"] = [self.of[name].url]
        match name:
            case "second-responder":
                options["ocsp"] = [f"http://127.0.1.1:{free_port()}/", self.of[name].url]
            case "refused-address":
                options["ocsp"] = [self.victim.url]
            case "ldap":
                options["ocsp"] = ["ldap://127.0.1.1/ou=ocsp"]
            case "no-issuer":
                options["ocsp"] = [self.victim.url]
                options["chain"] = ()
        return self.pki.leaf(host, **options)

    def self_signed(self, host: str) -> Site:
        certificate, key = self.folder / f"{host}.pem", self.folder / f"{host}.key"
        run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
            "-nodes", "-days", "9", "-subj", f"/CN={host}", "-addext",
            f"subjectAltName=DNS:{host}", "-keyout", key, "-out", certificate)  # fmt: skip
        # Nothing else is asked of it than where it is.
        return Site(self.pki.issuer, certificate, key)

    def serve(self) -> Service:
        sites = "".join(
            f"""
{name}.test:{self.ports["https"]} {{
    bind 127.0.0.1
    {site.tls}
    dns_over_tls 127.0.0.1:{self.ports["dot"]}
    respond hello
}}
{name}.test:{self.ports["doh"]} {{
    bind 127.0.0.1
    {site.tls}
    dns_over_https
}}
"""
            for name, site in self.sites.items()
        )
        dwaarfile = f"""{{
    http_port 0
    ocsp {{
        allow_responder {ALLOWED}
        timeout {TIMEOUT}s
    }}
}}
{sites}"""
        return self.stack.enter_context(serving(self.folder, dwaarfile))

    def shake(self, name: str, listener: str) -> Handshake:
        alpn = {"https": "http/1.1", "doh": "h2", "dot": "dot"}[listener]
        trust, words = self.pki.trust, ["-alpn", alpn]
        if name in ("self-signed", "no-issuer"):
            trust = self.sites[name].certificate
            words.append("-partial_chain")
        return handshake(self.ports[listener], f"{name}.test", trust, *words)

    def misbehave(self) -> None:
        for name, row in {**FAILING, **ACCEPTED}.items():
            options = dict(row.options)
            to = self.victim if name == "redirect-refused" else self.elsewhere
            options.setdefault("to", f"{to.url}/{{request}}")
            self.of[name].behave(row.kind, leaf=self.sites[name], **options)
        self.of["down"].stop()

    def behave(self) -> None:
        self.of["down"].start()
        for name in (*FAILING, *ACCEPTED):
            self.of[name].behave(leaf=self.sites[name])

    def lines(self, name: str, log: str) -> str:
        path = str(self.sites[name].certificate)
        return "\n".join(line for line in log.splitlines() if path in line)

    def evidence(self) -> Evidence:
        service, names = self.service, [*self.of, *NEVER]
        path = self.sites["second-responder"].certificate
        until("every first staple", lambda: service.log().count("] stapled ") == len(self.of))
        until("the refusals", lambda: all(
            self.lines(name, service.log()) for name in FAULTS
        ))  # fmt: skip
        before = {name: self.shake(name, "https") for name in names}
        first, begun = len(service.log()), datetime.now(UTC)
        self.misbehave()
        refused = service.refusal("refreshOCSP()")
        ended = datetime.now(UTC)
        shown = self.shown()
        counters = ast.literal_eval(
            service.console("{each['outcome']: each['count'] for each in showOCSPCounters()}")
        )
        second = len(service.log())
        handshakes = {
            name: {listener: self.shake(name, listener) for listener in self.ports}
            for name in names
        }
        curl = {
            name: curl_accepts(self.ports["https"], f"{name}.test", self.pki.trust)
            for name in names
        }
        connections = self.victim.connections
        self.behave()
        again = service.refusal("refreshOCSP()")
        log = service.log()
        assert str(path) in log
        rows = {
            name: Seen(
                before[name],
                handshakes[name],
                curl[name],
                self.lines(name, log[first:second]),
                shown[name][0],
                shown[name][1],
                self.shake(name, "https"),
                self.lines(name, log[second:]),
            )
            for name in names
        }
        return Evidence(rows, self.sites, refused, again, counters, log, connections,
                        self.of["busy"], (begun, ended))  # fmt: skip

    def shown(self) -> dict[str, tuple[str, datetime | None]]:
        """For each name why it is not stapled (or not anew), and when that is tried again."""
        said = self.service.console(
            "{each['names'][0]: (each['why not stapled'], "
            "each['next attempt'] and each['next attempt'].timestamp()) "
            "for each in showCertificates()}"
        )
        rows = ast.literal_eval(said)
        return {
            name.removesuffix(".test"): (why, at and datetime.fromtimestamp(at, UTC))
            for name, (why, at) in rows.items()
        }


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Evidence]:
    with ExitStack() as stack:
        yield Table(tmp_path_factory.mktemp("table"), stack).evidence()


# --- the failure table ------------------------------------------------------


@pytest.mark.parametrize("name", FAILING)
def test_a_failure_is_told_and_the_present_staple_stays(evidence: Evidence, name: str) -> None:
    seen, reason = evidence.rows[name], FAILING[name].reason
    assert seen.before.good
    assert seen.before.serial == evidence.sites[name].serial
    [warning] = [line for line in seen.log.splitlines() if "#warn]" in line]
    assert "failed what=staple" in warning
    assert reason in warning
    assert 'present="stays until' in warning
    assert reason in seen.why_not
    assert f"{name}.test.pem: " in evidence.refused
    for listener, each in seen.handshakes.items():
        assert each.good, listener
        assert each.next_update == seen.before.next_update, listener
    assert seen.curl
    # It is tried again by itself, but not soon.
    assert seen.next_attempt is not None
    assert seen.next_attempt - evidence.times[0] >= timedelta(seconds=30)
    assert seen.next_attempt - evidence.times[1] <= timedelta(seconds=91)


@pytest.mark.parametrize("name", FAILING)
def test_it_recovers(evidence: Evidence, name: str) -> None:
    seen = evidence.rows[name]
    assert "stapled name=" in seen.log_after
    assert seen.after.good
    assert seen.after.next_update is not None
    assert seen.before.next_update is not None
    assert seen.after.next_update > seen.before.next_update
    assert f"{name}.test.pem: stapled, good until" in evidence.again


@pytest.mark.parametrize("name", ACCEPTED)
def test_what_is_odd_but_right_is_taken(evidence: Evidence, name: str) -> None:
    seen = evidence.rows[name]
    assert seen.before.good
    assert "stapled name=" in seen.log
    assert "#warn]" not in seen.log
    assert seen.why_not == ""
    for listener, each in seen.handshakes.items():
        assert each.good, listener
        assert each.next_update != seen.before.next_update, listener
    assert seen.curl
    assert f"{name}.test.pem: stapled, good until" in evidence.refused


def test_a_short_validity_is_asked_for_again_in_time(evidence: Evidence) -> None:
    seen = evidence.rows["short-validity"]
    [until_then] = {each.next_update for each in seen.handshakes.values()}
    assert until_then is not None
    assert seen.next_attempt is not None
    assert evidence.times[0] < seen.next_attempt < until_then - timedelta(seconds=60)


def test_outcomes_are_counted_apart(evidence: Evidence) -> None:
    expected = dict.fromkeys((row.counter for row in FAILING.values()), 0)
    for row in FAILING.values():
        expected[row.counter] += 1
    for name, least in expected.items():
        assert evidence.counters[name] >= least, name
    assert evidence.counters["unknown"] == 1
    assert evidence.counters["good"] == len(FAILING) + 2 * len(ACCEPTED)


def test_retry_after_is_honoured(evidence: Evidence) -> None:
    """Even refreshOCSP() waits, while it is short."""
    good, busy, again = (each.at for each in evidence.busy.seen())
    assert good < busy
    assert again - busy >= RETRY_AFTER - 1  # the header has whole seconds


def test_no_connection_goes_where_no_responder_may_be(evidence: Evidence) -> None:
    assert evidence.connections == 0
    line = evidence.rows["refused-address"].log
    assert f"allow_responder {REFUSED}" in line


@pytest.mark.parametrize("name", NEVER)
def test_no_staple_and_why(evidence: Evidence, name: str) -> None:
    seen = evidence.rows[name]
    assert NEVER[name] in seen.why_not
    assert not seen.curl
    for each in (seen.before, seen.after, *seen.handshakes.values()):
        assert each.serial is not None
        assert not each.stapled
    lines = [line for line in evidence.log.splitlines() if f"{name}.test" in line]
    told = [line for line in lines if "#warn]" in line or "#error]" in line]
    assert bool(told) == (name in FAULTS)
    for line in told:
        assert NEVER[name] in line
    if name in FAULTS:
        assert f"{name}.test.pem: " in evidence.refused
    else:
        assert f"{name}.test" not in evidence.refused
        assert seen.next_attempt is None
