from __future__ import annotations

import threading
from datetime import timedelta
from pathlib import Path

import attrs
import pytest
import requests

from dwaarx.certs.acme import ari, authorities
from dwaarx.certs.acme.authorities import Authorities, Wish
from dwaarx.certs.acme.challenges import Challenges
from dwaarx.certs.acme.network import Network
from dwaarx.certs.errors import AcmeError
from dwaarx.certs.storage import Storage
from dwaarx.config.model import AcmeCa, AcmeCertificate, AcmeSettings, Address, Rfc2136
from tests.certs import pki
from tests.certs.acme.fake_ca import Answer, FakeCa, Stop, problem

FIRST = AcmeCa("https://first.test/dir")
SECOND = AcmeCa("https://second.test:8443/dir")
NAME = "example.test"


class Bed:
    """The CAs, and their memory."""

    def __init__(self, folder: Path) -> None:
        self.fakes = {FIRST.directory: FakeCa(), SECOND.directory: FakeCa()}
        self.first, self.second = self.fakes.values()
        self.stop = Stop()
        self.challenges = Challenges()
        self.authorities = Authorities(Storage(folder), self.challenges, self._connect)
        self.settings = AcmeSettings((FIRST, SECOND))

    def _connect(self, ca: AcmeCa, stop: threading.Event) -> Network:
        assert isinstance(stop, Stop)
        return self.fakes[ca.directory].network(ca, stop)

    def obtain(self, name: str = NAME, **wish: object) -> authorities.Obtained:
        certificate = AcmeCertificate(name, self.settings)
        return self.authorities.obtain(Wish(certificate, **wish), self.stop)

    def fails(self, name: str = NAME, **wish: object) -> AcmeError:
        with pytest.raises(AcmeError) as caught:
            self.obtain(name, **wish)
        return caught.value


@pytest.fixture
def bed(tmp_path: Path) -> Bed:
    return Bed(tmp_path)


def posted(fake: FakeCa, what: str) -> list[object]:
    return [payload for name, payload in fake.posts if name == what]


def test_the_first_ca_is_asked_and_the_second_is_not(bed: Bed) -> None:
    bed.first.renewal_info = True
    obtained = bed.obtain()
    assert obtained.ca == FIRST.directory
    assert obtained.renewal_info == "https://ca.test/renewalInfo"
    assert obtained.pair.names == (NAME,)
    assert bed.second.requests == []


@pytest.mark.parametrize(
    "trouble",
    [
        requests.ConnectTimeout(),
        Answer(404),
        Answer(200, b"<html>It works!"),
        Answer(200, {"newNonce": "https://ca.test/newNonce"}),
        problem("userActionRequired", "New terms", 403),
    ],
)
def test_the_second_is_asked_when_the_first_is_of_no_use(bed: Bed, trouble: object) -> None:
    bed.first.script["dir"] = [trouble]
    assert bed.obtain().ca == SECOND.directory


def test_the_second_is_asked_when_the_first_refuses(bed: Bed) -> None:
    bed.first.script["newOrder"] = [problem("rejectedIdentifier", "No", 403)]
    assert bed.obtain().ca == SECOND.directory


def test_the_reasons_of_all_are_told(bed: Bed) -> None:
    bed.first.script["dir"] = [Answer(404)]
    bed.second.script["newOrder"] = [problem("caa", "CAA forbids", 403)]
    error = bed.fails()
    assert error.reason == (
        "first.test: it answers with the HTTP status 404; second.test:8443: CAA forbids (caa)"
    )
    assert error.rejected
    bed.first.script["dir"] = [requests.ConnectTimeout()]
    bed.second.script["newOrder"] = [requests.ConnectTimeout()]
    assert not bed.fails().rejected


def test_no_ca_at_all(bed: Bed) -> None:
    bed.settings = AcmeSettings(())
    assert "no CA to ask" in bed.fails().reason


def test_wildcards_need_dns(bed: Bed) -> None:
    error = bed.fails("*.example.test")
    assert "dns rfc2136" in error.reason
    assert error.rejected
    assert bed.first.requests == []


def test_a_dns_server_that_fails_is_no_fault_of_the_ca(bed: Bed) -> None:
    server = Rfc2136(Address("no.invalid", 53), "key", "a2V5")
    bed.settings = attrs.evolve(bed.settings, dns=server)
    assert "no.invalid has no address" in bed.fails("*.example.test").reason
    assert bed.second.requests == []


def test_the_directory_is_kept_for_an_hour(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    bed.obtain()
    bed.obtain()
    assert bed.first.requests.count("GET /dir") == 1
    monkeypatch.setattr(authorities, "_DIRECTORY_LIFETIME", 0.0)
    bed.obtain()
    assert bed.first.requests.count("GET /dir") == 2


def test_the_directory_is_fetched_again_after_a_failure(bed: Bed) -> None:
    bed.settings = AcmeSettings((FIRST,))
    bed.obtain()
    bed.first.script["newOrder"] = [Answer(404)]
    bed.fails()
    bed.obtain()
    assert bed.first.requests.count("GET /dir") == 2


def test_the_proof_that_worked_is_the_first_one_the_next_time(bed: Bed) -> None:
    bed.first.solved = lambda kind: {"detail": "closed"} if kind == "http-01" else None
    bed.obtain()
    assert [len(posted(bed.first, kind)) for kind in ("http-01", "tls-alpn-01")] == [1, 1]
    bed.obtain()
    assert [len(posted(bed.first, kind)) for kind in ("http-01", "tls-alpn-01")] == [1, 2]
    bed.obtain("other.test")  # of that name nothing is known
    assert [len(posted(bed.first, kind)) for kind in ("http-01", "tls-alpn-01")] == [2, 3]
    bed.first.solved = lambda kind: {"detail": "closed"} if kind == "tls-alpn-01" else None
    bed.obtain()
    bed.obtain()
    assert [len(posted(bed.first, kind)) for kind in ("http-01", "tls-alpn-01")] == [4, 4]


def test_when_every_proof_failed_the_first_is_the_first_again(bed: Bed) -> None:
    bed.settings = AcmeSettings((FIRST,))
    bed.first.solved = lambda kind: {"detail": "closed"} if kind == "http-01" else None
    bed.obtain()
    bed.first.script["newOrder"] = [requests.ConnectTimeout()]
    bed.fails()  # which says nothing of the proofs
    bed.first.solved = lambda _: {"detail": "closed"}
    bed.fails()
    bed.first.posts.clear()
    bed.first.solved = lambda _: None
    bed.obtain()
    assert posted(bed.first, "tls-alpn-01") == []


def test_without_a_plain_listener_http_01_is_not_tried(bed: Bed) -> None:
    bed.obtain(http=False)
    assert posted(bed.first, "http-01") == []
    assert len(posted(bed.first, "tls-alpn-01")) == 1


def test_what_is_remembered_is_bounded(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authorities, "_MAX_REMEMBERED", 2)
    for index in range(4):
        bed.obtain(f"n{index}.test")
    assert [name for name, _ in bed.authorities._proven_by] == ["n2.test", "n3.test"]


def test_a_ca_that_wants_to_wait_is_left_alone(bed: Bed) -> None:
    bed.first.script["newOrder"] = [
        Answer(429, problem("rateLimited", "Too many").body, {"Retry-After": "3600"})
    ]
    bed.second.script["dir"] = [Answer(404)]
    error = bed.fails()
    assert error.retry_after is None  # the second one may be asked before
    bed.first.requests.clear()
    assert bed.obtain().ca == SECOND.directory
    assert bed.first.requests == []
    assert bed.obtain("other.test").ca == FIRST.directory
    bed.stop.now += 3601
    assert bed.obtain().ca == FIRST.directory


def test_a_limit_that_one_name_after_another_hits_is_that_of_the_account(bed: Bed) -> None:
    """A thousand names that are due place no thousand orders that fail."""
    bed.settings = AcmeSettings((FIRST,))
    limited = Answer(429, problem("rateLimited", "Too many").body, {"Retry-After": "86400"})
    bed.first.script["newOrder"] = [limited] * 1000
    errors = [bed.fails(f"n{index}.test") for index in range(1000)]
    assert len(posted(bed.first, "newOrder")) == 3
    # An hour: it was said of other names than these.
    assert {error.retry_after for error in errors[3:]} == {bed.stop.now + 3600}
    assert not any(error.rejected for error in errors)
    bed.stop.now += 3601
    bed.first.script["newOrder"] = []
    assert bed.fails("n0.test").retry_after is not None  # its own limit still holds
    assert bed.obtain("n3.test").ca == FIRST.directory


def test_a_certificate_in_between_shows_that_the_limit_is_not_the_accounts(bed: Bed) -> None:
    bed.settings = AcmeSettings((FIRST,))
    limited = Answer(429, problem("rateLimited", "Too many").body)
    for index in range(9):
        if index % 3 == 2:
            bed.obtain(f"n{index}.test")
        else:
            bed.first.script["newOrder"] = [limited]
            bed.fails(f"n{index}.test")
    bed.first.script["newOrder"] = [limited] * 3
    now = bed.stop.now
    errors = [bed.fails(f"m{index}.test") for index in range(4)]
    # Nobody said until when.
    assert [error.retry_after for error in errors] == [None, None, None, now + 900]


def test_names_that_were_put_off_long_ago_do_not_count(bed: Bed) -> None:
    bed.settings = AcmeSettings((FIRST,))
    for index in range(6):
        bed.first.script["newOrder"] = [
            Answer(429, problem("rateLimited", "Too many").body, {"Retry-After": "60"})
        ]
        bed.fails(f"n{index}.test")
        bed.stop.now += 2000
    assert len(posted(bed.first, "newOrder")) == 6


def test_when_all_want_to_wait_it_is_the_sooner_one(bed: Bed) -> None:
    limited = problem("rateLimited", "Too many").body
    bed.first.script["newOrder"] = [Answer(429, limited, {"Retry-After": "3600"})]
    bed.second.script["newOrder"] = [Answer(429, limited, {"Retry-After": "60"})]
    now = bed.stop.now
    error = bed.fails()
    assert error.retry_after == now + 60
    again = bed.fails()
    assert again.retry_after == now + 60
    assert "it wants to be left alone until 2027-01-15 08:01:00 UTC" in again.reason


def test_stopping_asks_no_other_ca(bed: Bed) -> None:
    def stop(_: object) -> Answer:
        bed.stop.set()
        return Answer(404)

    bed.first.script["dir"] = [stop]
    bed.fails()
    assert bed.second.requests == []


def test_replaces_goes_to_the_ca_that_issued_the_former_one(bed: Bed) -> None:
    for fake in bed.fakes.values():
        fake.renewal_info = True
    former = pki.make_leaf(pki.make_ca(), [NAME]).certificate
    bed.obtain(former=former, former_ca=FIRST.directory)
    bed.obtain(former=former, former_ca=SECOND.directory)
    bed.obtain(former=former)
    expected = [ari.certificate_id(former), None, None]
    assert [order.get("replaces") for order in posted(bed.first, "newOrder")] == expected


def test_a_former_certificate_without_an_id(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(_: object) -> str:
        raise AcmeError("no id")

    monkeypatch.setattr(authorities.ari, "certificate_id", none)
    former = pki.make_leaf(pki.make_ca(), [NAME], lifetime=timedelta(days=1)).certificate
    assert bed.obtain(former=former, former_ca=FIRST.directory).ca == FIRST.directory


def test_the_profile_of_the_site_goes_before_that_of_the_ca(bed: Bed) -> None:
    bed.first.meta = {"profiles": {"tls": "", "short": ""}}
    bed.settings = AcmeSettings((attrs.evolve(FIRST, profile="tls"),))
    bed.obtain()
    bed.settings = attrs.evolve(bed.settings, profile="short")
    bed.obtain()
    assert [order["profile"] for order in posted(bed.first, "newOrder")] == ["tls", "short"]
