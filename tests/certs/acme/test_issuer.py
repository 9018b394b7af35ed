from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from twisted.internet.defer import CancelledError, Deferred

from dwaarx.certs.acme import issuer as issuer_module
from dwaarx.certs.acme.authorities import Wish
from dwaarx.certs.acme.challenges import Challenges
from dwaarx.certs.acme.issuer import Issuer, Obtained
from dwaarx.certs.errors import AcmeError
from dwaarx.certs.storage import Storage
from dwaarx.config.model import AcmeCa, AcmeCertificate, AcmeSettings
from tests.certs import pki
from tests.certs.acme.fake_ca import FakeCa
from tests.certs.acme.loop import PATIENCE, Loop

SETTINGS = AcmeSettings((AcmeCa("https://ca.test/dir"),))


class Bed:
    """An issuer in threads, whose work is what the test says."""

    def __init__(self, folder: Path) -> None:
        self.fake = FakeCa()
        self.loop = Loop()
        self.issuer = Issuer(
            self.loop, Storage(folder), Challenges(), lambda ca, _: self.fake.network(ca)
        )
        self.wishes: list[Wish] = []

    def work(self, work: Callable[[Wish, threading.Event], Obtained]) -> None:
        def obtain(wish: Wish, stop: threading.Event) -> Obtained:
            self.wishes.append(wish)
            return work(wish, stop)

        self.issuer._authorities.obtain = obtain

    def obtain(self, name: str = "example.test") -> Deferred[Obtained]:
        return self.issuer.obtain(AcmeCertificate(name, SETTINGS))

    def failure(self, awaited: Deferred[Obtained]) -> BaseException:
        with pytest.raises((AcmeError, CancelledError, ZeroDivisionError)) as caught:
            self.loop.result(awaited)
        return caught.value


@pytest.fixture
def bed(tmp_path: Path) -> Bed:
    return Bed(tmp_path)


def until_stopped(_: Wish, stop: threading.Event) -> Obtained:
    stop.wait(PATIENCE)
    raise AcmeError("stopped")


def test_a_certificate_comes_from_a_thread(bed: Bed) -> None:
    obtained = bed.loop.result(bed.obtain())
    assert obtained.pair.names == ("example.test",)
    assert obtained.ca == "https://ca.test/dir"
    assert bed.loop.getDelayedCalls() == []


def test_what_is_asked_for(bed: Bed) -> None:
    bed.work(until_stopped)
    bed.issuer.http_available = False
    former = pki.make_leaf(pki.make_ca(), ["example.test"]).certificate
    certificate = AcmeCertificate("example.test", SETTINGS)
    waiting = bed.issuer.obtain(certificate, former, "https://ca.test/dir")
    waiting.addErrback(lambda _: None)
    bed.loop.result(bed.issuer.stop())
    assert bed.wishes == [Wish(certificate, former, "https://ca.test/dir", http=False)]


def test_errors_come_out_of_the_thread(bed: Bed) -> None:
    def refuse(*_: object) -> Obtained:
        raise AcmeError("no", 5.0, rejected=True)

    bed.work(refuse)
    error = bed.failure(bed.obtain())
    assert isinstance(error, AcmeError)
    assert (error.reason, error.retry_after, error.rejected) == ("no", 5.0, True)

    bed.work(lambda *_: 1 // 0)
    assert isinstance(bed.failure(bed.obtain()), ZeroDivisionError)


def test_so_many_threads_and_no_more(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    running: set[str] = set()
    most = 0
    lock = threading.Lock()
    gate = threading.Event()

    def work(wish: Wish, _: threading.Event) -> Obtained:
        nonlocal most
        with lock:
            running.add(wish.certificate.name)
            most = max(most, len(running))
            if len(running) == 8:
                gate.set()
        gate.wait(PATIENCE)
        with lock:
            running.discard(wish.certificate.name)
        raise AcmeError(wish.certificate.name)

    bed.work(work)
    waiting = [bed.obtain(f"n{index}.test") for index in range(20)]
    reasons = [str(bed.failure(each)) for each in waiting]
    assert reasons == [f"n{index}.test" for index in range(20)]
    assert most == 8


def test_stopping_fails_what_runs_and_what_waits(bed: Bed) -> None:
    bed.work(until_stopped)
    waiting = [bed.obtain(f"n{index}.test") for index in range(20)]
    reasons: list[str] = []
    for each in waiting:
        each.addErrback(lambda failure: reasons.append(failure.getErrorMessage()))
    bed.loop.result(bed.issuer.stop())
    assert len(reasons) == 20
    assert all("dwaarx is stopping" in reason for reason in reasons)
    assert len(bed.wishes) == 8
    assert "stopping" in str(bed.failure(bed.obtain()))
    assert bed.loop.getDelayedCalls() == []


def test_stopping_does_not_wait_for_a_thread_that_hangs(bed: Bed) -> None:
    gate = threading.Event()

    def hang(*_: object) -> Obtained:
        gate.wait(PATIENCE)
        raise AcmeError("late")

    bed.work(hang)
    waiting = bed.obtain()
    waiting.addErrback(lambda _: None)
    (thread,) = (each for each in threading.enumerate() if each.name == "acme")
    assert thread.daemon  # so the process does not wait for it either
    begin = bed.loop.seconds()
    bed.loop.result(bed.issuer.stop())
    assert 0.9 <= bed.loop.seconds() - begin < 5
    gate.set()
    thread.join(PATIENCE)
    bed.loop.turn()  # what comes late does no harm


def test_stopping_without_work(bed: Bed) -> None:
    assert bed.loop.result(bed.issuer.stop()) is None
    assert bed.loop.result(bed.issuer.stop()) is None


def test_cancelling_stops_the_thread(bed: Bed) -> None:
    over = threading.Event()

    def work(wish: Wish, stop: threading.Event) -> Obtained:
        stop.wait(PATIENCE)
        over.set()
        raise AcmeError("stopped")

    bed.work(work)
    waiting = bed.obtain()
    waiting.cancel()
    assert isinstance(bed.failure(waiting), CancelledError)
    assert over.wait(PATIENCE)


def test_a_thread_without_end_loses_its_place(bed: Bed) -> None:
    gate = threading.Event()

    def hang(*_: object) -> Obtained:
        gate.wait(PATIENCE)
        raise AcmeError("late")

    bed.work(hang)
    waiting = [bed.obtain(f"n{index}.test") for index in range(9)]
    bed.loop.advance(issuer_module._ATTEMPT_DEADLINE + 1)
    assert "no end after 1200 s" in str(bed.failure(waiting[0]))
    assert not waiting[8].called
    assert len(bed.loop.getDelayedCalls()) == 1  # the ninth has its turn
    gate.set()
    assert str(bed.failure(waiting[8])) == "late"
    for each in waiting[1:8]:
        bed.failure(each)
