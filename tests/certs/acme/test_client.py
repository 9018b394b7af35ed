from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest
import requests
from cryptography import x509
from twisted.logger import LogEvent, globalLogPublisher

from dwaarx.certs.acme.account import AccountStore
from dwaarx.certs.acme.answers import Directory
from dwaarx.certs.acme.client import ORDER_DEADLINE, AcmeClient, Request
from dwaarx.certs.acme.problems import CaError
from dwaarx.certs.acme.registration import Registrar
from dwaarx.certs.errors import AcmeError
from dwaarx.certs.pair import KeyPair
from dwaarx.certs.storage import Storage
from dwaarx.config.model import AcmeCa, Eab
from tests.certs import pki
from tests.certs.acme.fake_ca import BASE, ERROR, Answer, FakeCa, Stop, problem

NAME = "example.test"
CA = AcmeCa(f"{BASE}/dir")


class Recorder:
    """A solver that keeps what it is told."""

    def __init__(self, kind: str = "http-01") -> None:
        self.kind = kind
        self.calls: list[tuple[str, str, str]] = []
        self.fails: dict[str, AcmeError] = {}

    def present(self, name: str, token: str, key_authorization: str) -> None:
        self._keep("present", name, token, key_authorization)

    def remove(self, name: str, token: str, key_authorization: str) -> None:
        self._keep("remove", name, token, key_authorization)

    def _keep(self, what: str, name: str, token: str, key_authorization: str) -> None:
        assert key_authorization.startswith(f"{token}.")
        self.calls.append((what, name, token))
        if what in self.fails:
            raise self.fails[what]


class Bed:
    """A client, its CA, and what it is used with."""

    def __init__(self, folder: Path) -> None:
        self.fake = FakeCa()
        self.stop = Stop()
        self.store = AccountStore(Storage(folder))
        self.registrar = Registrar(self.store)
        self.http = Recorder()
        self.alpn = Recorder("tls-alpn-01")

    def obtain(
        self, request: Request | None = None, ca: AcmeCa = CA, solvers: Sequence[Recorder] = ()
    ) -> tuple[KeyPair, str | None]:
        network = self.fake.network(ca, self.stop)
        directory = Directory.of(network.get(CA.directory).json)
        client = AcmeClient(ca, directory, self.registrar, network)
        wanted = request if request is not None else Request(NAME, "ops@example.test")
        return client.obtain(wanted, solvers or [self.http, self.alpn])

    def fails(self, *arguments: Any, **more: Any) -> AcmeError:
        with pytest.raises(AcmeError) as caught:
            self.obtain(*arguments, **more)
        return caught.value

    def posted(self, what: str) -> list[Any]:
        return [payload for name, payload in self.fake.posts if name == what]


@pytest.fixture
def bed(tmp_path: Path) -> Bed:
    return Bed(tmp_path)


def test_the_way_of_a_certificate(bed: Bed) -> None:
    pair, kind = bed.obtain()
    assert pair.names == (NAME,)
    assert pair.chain == (bed.fake.intermediate.certificate,)
    assert kind == "http-01"
    assert [call[:2] for call in bed.http.calls] == [("present", NAME), ("remove", NAME)]
    assert bed.posted("newAccount") == [
        {"termsOfServiceAgreed": True, "contact": ["mailto:ops@example.test"]}
    ]
    assert bed.posted("newOrder") == [{"identifiers": [{"type": "dns", "value": NAME}]}]
    assert bed.posted("http-01") == [{}]
    assert bed.posted("certificate") == [None]


def test_each_certificate_has_a_key_of_its_own_and_they_share_an_account(bed: Bed) -> None:
    first, _ = bed.obtain()
    second, _ = bed.obtain()
    assert first.key.private_numbers() != second.key.private_numbers()
    assert len(bed.posted("newAccount")) == 1


def test_a_name_that_is_proven_already(bed: Bed) -> None:
    bed.fake.script["authorization"] = [Answer(200, {"status": "valid", "challenges": []})]
    bed.fake.script["order"] = [Answer(200, {**bed.fake._order(), "status": "ready"})]

    def finalize(_: Any) -> None:
        bed.fake.status = "valid"

    bed.fake.script["finalize"] = [finalize]
    _, kind = bed.obtain()
    assert kind is None
    assert bed.http.calls == []


def test_must_staple(bed: Bed) -> None:
    pair, _ = bed.obtain(Request(NAME, must_staple=True))
    assert pair.must_staple
    assert not bed.obtain(Request(NAME))[0].must_staple


def test_the_second_proof_is_tried_when_the_first_fails(bed: Bed) -> None:
    bed.fake.solved = lambda kind: (
        {"type": f"{ERROR}connection", "detail": "refused"} if kind == "http-01" else None
    )
    pair, kind = bed.obtain()
    assert pair.names == (NAME,)
    assert kind == "tls-alpn-01"
    assert [call[0] for call in bed.http.calls] == ["present", "remove"]
    assert len(bed.posted("newOrder")) == 2


def test_when_all_proofs_fail_each_reason_is_told(bed: Bed) -> None:
    bed.fake.solved = lambda kind: {"type": f"{ERROR}dns", "detail": f"NXDOMAIN by {kind}"}
    error = bed.fails()
    assert error.rejected
    assert error.reason == (
        f"{NAME}: http-01 failed: NXDOMAIN by http-01 (dns); "
        f"{NAME}: tls-alpn-01 failed: NXDOMAIN by tls-alpn-01 (dns)"
    )


def test_a_kind_that_the_ca_does_not_offer(bed: Bed) -> None:
    bed.fake.kinds = ["tls-alpn-01"]
    assert bed.obtain()[1] == "tls-alpn-01"
    assert bed.http.calls == []
    bed.fake.kinds = []
    bed.fake.script["order"] = []
    assert "offers no http-01 challenge, but none" in bed.fails().reason


@pytest.mark.parametrize("status", ["invalid", "deactivated", "expired", "revoked", "odd"])
def test_an_authorization_that_is_over_before_it_began(bed: Bed, status: str) -> None:
    bed.fake.script["authorization"] = [Answer(200, {"status": status, "challenges": []})] * 2
    assert f"{NAME}: validation failed: it is {status}" in bed.fails().reason


def test_a_proof_that_cannot_be_presented_is_removed_all_the_same(bed: Bed) -> None:
    bed.http.fails["present"] = AcmeError("the DNS server is down")
    error = bed.fails()
    assert error.reason == "the DNS server is down"
    assert [call[0] for call in bed.http.calls] == ["present", "remove"]
    assert bed.posted("http-01") == []


def test_a_proof_that_is_not_removed_is_only_told(bed: Bed) -> None:
    bed.http.fails["remove"] = AcmeError("the DNS server is down")
    events: list[LogEvent] = []
    globalLogPublisher.addObserver(events.append)
    try:
        assert bed.obtain()[0].names == (NAME,)
    finally:
        globalLogPublisher.removeObserver(events.append)
    assert [event["reason"] for event in events if event["log_level"].name == "warn"] == [
        "the DNS server is down"
    ]


def test_waiting_for_the_validation(bed: Bed) -> None:
    pending = Answer(200, {"status": "pending", "challenges": []})
    first = bed.fake._do_authorization
    bed.fake.names = [NAME]
    bed.fake.script["authorization"] = [
        first(None),
        *[pending] * 5,
        attrs.evolve(pending, headers={"Retry-After": "7"}),
    ]
    bed.obtain()
    assert bed.stop.waits == [0.25, 0.5, 1.0, 2.0, 4.0, 7.0]


def test_a_validation_without_end(bed: Bed) -> None:
    bed.fake.names = [NAME]
    pending = Answer(200, {"status": "pending", "challenges": []})
    bed.fake.script["authorization"] = [bed.fake._do_authorization(None), *[pending] * 1000]
    error = bed.fails()
    assert "validating example.test by http-01 has no end after 180 s" in error.reason
    assert not error.rejected
    assert sum(bed.stop.waits) <= ORDER_DEADLINE
    assert bed.http.calls[-1][0] == "remove"


def test_a_retry_after_beyond_the_deadline_ends_it(bed: Bed) -> None:
    bed.fake.names = [NAME]
    later = Answer(200, {"status": "pending", "challenges": []}, {"Retry-After": "9999"})
    bed.fake.script["authorization"] = [bed.fake._do_authorization(None), later]
    assert "has no end" in bed.fails().reason
    assert bed.stop.waits == []


def test_an_order_that_takes_its_time(bed: Bed) -> None:
    order = bed.fake._order()
    bed.fake.script["order"] = [
        Answer(200, {**order, "status": "pending"}),
        Answer(200, {**order, "status": "ready"}),
        Answer(200, {**order, "status": "processing"}),
    ]
    bed.fake.script["finalize"] = [lambda payload: bed.fake._do_finalize(payload) and Answer(
        200, {**order, "status": "processing"})]  # fmt: skip
    assert bed.obtain()[0].names == (NAME,)
    assert bed.stop.waits == [0.25, 0.25]


def test_an_order_that_fails_for_no_reason_of_ours_is_placed_again(bed: Bed) -> None:
    failed = {**bed.fake._order(), "status": "invalid"}
    bed.fake.script["finalize"] = [Answer(200, failed)]
    assert bed.obtain()[0].names == (NAME,)
    assert len(bed.posted("newOrder")) == 2
    internal = {"type": f"{ERROR}serverInternal", "detail": "Oops"}
    bed.fake.script["finalize"] = [Answer(200, {**failed, "error": internal})] * 2
    assert bed.fails().reason == "Oops (serverInternal)"
    assert len(bed.posted("newOrder")) == 4


def test_a_certificate_whose_making_was_not_answered_is_fetched_all_the_same(bed: Bed) -> None:
    def sign(payload: Any) -> None:
        bed.fake._do_finalize(payload)
        raise requests.ReadTimeout

    bed.fake.script["finalize"] = [sign]
    assert bed.obtain()[0].names == (NAME,)
    assert len(bed.posted("newOrder")) == len(bed.posted("finalize")) == 1


def test_a_certificate_that_is_asked_for_again_when_the_first_answer_was_lost(bed: Bed) -> None:
    def sign(payload: Any) -> None:
        bed.fake._do_finalize(payload)
        raise requests.ConnectionError

    again = problem("orderNotReady", "It is valid", 403)
    bed.fake.script["finalize"] = [sign, again, again]
    assert bed.obtain()[0].names == (NAME,)
    assert len(bed.posted("newOrder")) == 1


def test_a_request_for_the_certificate_that_got_lost(bed: Bed) -> None:
    bed.fake.script["finalize"] = [requests.ReadTimeout()]
    assert "did not answer within" in bed.fails().reason
    assert len(bed.posted("finalize")) == 1


def test_a_request_for_the_certificate_that_is_refused(bed: Bed) -> None:
    bed.fake.script["finalize"] = [problem("badCSR", "Not like that", 400)]
    error = bed.fails()
    assert (error.reason, error.rejected) == ("Not like that (badCSR)", True)
    assert len(bed.posted("order")) == 1  # before, and not again


def test_an_order_that_is_refused_in_the_end(bed: Bed) -> None:
    caa = {"type": f"{ERROR}caa", "detail": "CAA forbids"}
    failed = {**bed.fake._order(), "status": "invalid", "error": caa}
    bed.fake.script["finalize"] = [Answer(200, failed)]
    error = bed.fails()
    assert (error.reason, error.rejected) == ("CAA forbids (caa)", True)
    assert len(bed.posted("newOrder")) == 1


def test_an_order_without_certificate(bed: Bed) -> None:
    odd = {**bed.fake._order(), "status": "odd"}
    bed.fake.script["finalize"] = [Answer(200, odd)]
    assert "is odd, without a certificate" in bed.fails().reason


def test_the_certificate_is_looked_at_before_it_is_used(bed: Bed) -> None:
    other = pki.make_leaf(bed.fake.intermediate, [NAME])
    bed.fake.chain = lambda _: pki.pem_of(other.chain[:2])
    assert "for another key" in bed.fails().reason


def test_a_name_that_is_refused(bed: Bed) -> None:
    bed.fake.script["newOrder"] = [problem("rejectedIdentifier", "Not that", 403)]
    error = bed.fails()
    assert (error.reason, error.rejected) == ("Not that (rejectedIdentifier)", True)


def test_stopping_amid_a_validation(bed: Bed) -> None:
    bed.fake.names = [NAME]
    pending = Answer(200, {"status": "pending", "challenges": []})

    def stop(_: Any) -> Answer:
        bed.stop.set()
        return pending

    bed.fake.script["authorization"] = [bed.fake._do_authorization(None), stop]
    assert bed.fails().reason == "dwaarx is stopping"
    assert bed.http.calls[-1][0] == "remove"


# --- what is replaced, profiles ---------------------------------------------


def test_replaces_is_sent_to_a_ca_that_has_renewal_information(bed: Bed) -> None:
    bed.obtain(Request(NAME, replaces="id.serial"))
    assert "replaces" not in bed.posted("newOrder")[-1]
    bed.fake.renewal_info = True
    bed.obtain(Request(NAME, replaces="id.serial"))
    assert bed.posted("newOrder")[-1]["replaces"] == "id.serial"


@pytest.mark.parametrize(
    "refusal",
    [
        problem("alreadyReplaced", "Twice", 409),
        problem("malformed", "replaces?"),
        problem("unauthorized", "Not yours", 403),
        Answer(409),
    ],
)
def test_without_replaces_when_it_is_refused(bed: Bed, refusal: Answer) -> None:
    bed.fake.renewal_info = True
    bed.fake.script["newOrder"] = [refusal]
    bed.obtain(Request(NAME, replaces="id.serial"))
    assert ["replaces" in order for order in bed.posted("newOrder")] == [True, False]


def test_a_rate_limit_is_not_tried_again_without_replaces(bed: Bed) -> None:
    bed.fake.renewal_info = True
    bed.fake.script["newOrder"] = [problem("rateLimited", "Too many", 429)]
    bed.fails(Request(NAME, replaces="id.serial"))
    assert len(bed.posted("newOrder")) == 1


def test_profiles(bed: Bed) -> None:
    wanted = Request(NAME, profile="short")
    assert bed.fails(wanted).reason == "it has no profile 'short': it has none"
    bed.fake.meta = {"profiles": {"tls": "x", "long": "y"}}
    error = bed.fails(wanted)
    assert error.reason == "it has no profile 'short': those it has are tls, long"
    assert error.rejected
    bed.obtain(attrs.evolve(wanted, profile="long"))
    assert bed.posted("newOrder")[-1]["profile"] == "long"


# --- the account ------------------------------------------------------------


def test_an_account_that_is_gone_is_made_anew_and_replaces_nothing(bed: Bed) -> None:
    bed.fake.renewal_info = True
    bed.obtain()
    bed.fake.accounts.clear()
    bed.obtain(Request(NAME, "ops@example.test", replaces="id.serial"))
    assert len(bed.posted("newAccount")) == 2
    assert ["replaces" in order for order in bed.posted("newOrder")] == [False, True, False]


def test_an_account_that_is_gone_when_the_address_changes(bed: Bed) -> None:
    bed.obtain()
    bed.fake.accounts.clear()
    bed.obtain(Request(NAME, "new@example.test"))
    (account,) = bed.fake.accounts.values()
    assert account["contact"] == ["mailto:new@example.test"]


def test_the_address_is_updated_and_removed(bed: Bed) -> None:
    bed.obtain()
    bed.obtain(Request(NAME, "new@example.test"))
    bed.obtain(Request(NAME, "new@example.test"))
    bed.obtain(Request(NAME, None))
    assert bed.posted("account") == [{"contact": ["mailto:new@example.test"]}, {"contact": []}]


def test_an_address_that_is_refused_stops_nothing_and_is_told_once(bed: Bed) -> None:
    bed.obtain()
    bed.fake.script["account"] = [problem("invalidContact", "No such domain")]
    events: list[LogEvent] = []
    globalLogPublisher.addObserver(events.append)
    try:
        for _ in range(3):
            bed.obtain(Request(NAME, "ops@nowhere.test"))
    finally:
        globalLogPublisher.removeObserver(events.append)
    assert len(bed.posted("account")) == 1
    assert [event["reason"] for event in events if "reason" in event] == [
        "No such domain (invalidContact)"
    ]
    bed.fake.script["account"] = [problem("rateLimited", "Too many", 429)]
    assert "Too many" in bed.fails(Request(NAME, "other@example.test")).reason


def test_an_address_that_is_refused_at_the_beginning(bed: Bed) -> None:
    bed.fake.script["newAccount"] = [problem("invalidContact", "No such domain")]
    assert bed.fails().rejected
    assert bed.obtain()[0].names == (NAME,)


def test_a_key_that_the_ca_knows_gets_its_address(bed: Bed) -> None:
    """The process ended between the CA's answer and the disk's."""
    bed.obtain()
    account = bed.store.get(CA)
    assert account is not None
    bed.store.put(attrs.evolve(account, url=None, email=None))
    bed.obtain(Request(NAME, "new@example.test"))
    (known,) = bed.fake.accounts.values()
    assert known["contact"] == ["mailto:new@example.test"]


def test_the_key_is_kept_before_it_is_used(bed: Bed) -> None:
    bed.fake.script["newAccount"] = [requests.ReadTimeout()]
    bed.fails()
    kept = bed.store.get(CA)
    assert kept is not None
    assert kept.url is None
    bed.obtain()
    after = bed.store.get(CA)
    assert after is not None
    assert after.jwk == kept.jwk


def test_an_external_account(bed: Bed) -> None:
    bed.fake.meta = {"externalAccountRequired": True}
    error = bed.fails()
    assert error.rejected
    assert "eab KEY_ID MAC_KEY" in error.reason
    assert bed.posted("newAccount") == []
    bed.obtain(ca=attrs.evolve(CA, eab=Eab("kid-1", "a2V5LW9mLXRlc3Rz=")))
    binding = bed.posted("newAccount")[0]["externalAccountBinding"]
    assert set(binding) == {"protected", "payload", "signature"}


def test_a_mac_key_that_is_none(bed: Bed) -> None:
    for key in ("x", "é"):
        error = bed.fails(ca=attrs.evolve(CA, eab=Eab("kid-1", key)))
        assert isinstance(error, CaError)
        assert error.reason == "the MAC key of eab is no base64url"


def test_the_request_for_a_wildcard(bed: Bed) -> None:
    dns = Recorder("dns-01")
    pair, kind = bed.obtain(Request("*.example.test"), solvers=[dns])
    assert pair.names == ("*.example.test",)
    assert kind == "dns-01"
    assert dns.calls[0][1] == NAME
    names = pair.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert list(names.value) == [x509.DNSName("*.example.test")]
