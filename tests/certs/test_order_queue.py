from __future__ import annotations

import time

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from dwaarx.certs.order_queue import MAX_ORDERS, OrderQueue
from dwaarx.certs.record import Held
from dwaarx.config.model import AcmeCertificate, AcmeSettings


def held(name: str) -> Held:
    return Held(AcmeCertificate(name, AcmeSettings(())))


class Bench:
    """Work that the test ends."""

    def __init__(self):
        self.begun: list[tuple[Held, bool]] = []
        self.waiting: dict[Held, Deferred[None]] = {}
        self.ended: list[tuple[Held, Failure | None]] = []
        self.heirs: list[Held] = []
        self.at_once: Exception | str | None = None
        self.queue = OrderQueue(
            self.work,
            lambda held, result: self.ended.append((held, result)),
            self.heirs.append,
            lambda held: held.source.name,
        )

    async def work(self, held: Held, order: bool) -> None:
        self.begun.append((held, order))
        if isinstance(self.at_once, Exception):
            raise self.at_once
        if self.at_once is None:
            self.waiting[held] = Deferred()
            await self.waiting[held]

    def end(self, held: Held) -> None:
        self.waiting.pop(held).callback(None)

    def names(self):
        return [held.source.name for held, _ in self.begun]


@pytest.fixture
def bench():
    return Bench()


def test_so_many_at_once_in_their_order(bench):
    all_ = [held(f"n{index}") for index in range(2 * MAX_ORDERS + 1)]
    for each in all_:
        bench.queue.add(each, order=True)
    assert [each for each, _ in bench.begun] == all_[:MAX_ORDERS]
    assert len(bench.queue) == MAX_ORDERS + 1
    assert all_[0] in bench.queue
    assert all_[-1] not in bench.queue
    for index, each in enumerate(all_):
        bench.end(each)
        assert len(bench.begun) == min(MAX_ORDERS + 1 + index, len(all_))
    assert [each for each, _ in bench.begun] == all_
    assert [result for _, result in bench.ended] == [None] * len(all_)


def test_the_first_goes_before_all_and_each_waits_once(bench):
    busy = [held(f"busy{index}") for index in range(MAX_ORDERS)]
    for each in busy:
        bench.queue.add(each, order=True)
    one, two = held("one"), held("two")
    bench.queue.add(one, order=False)
    bench.queue.add(two, order=False)
    bench.queue.add(two, order=True, first=True)
    bench.queue.add(two, order=False)
    bench.queue.add(busy[0], order=True)  # it is under way
    for each in busy:
        bench.end(each)
    assert bench.begun[MAX_ORDERS:] == [(two, True), (one, False)]


def test_what_fails_is_told_and_ends_nothing(bench):
    bench.at_once = ValueError("no")
    one = held("one")
    bench.queue.add(one, order=True)
    [(ended, failure)] = bench.ended
    assert ended is one
    assert failure.check(ValueError)
    bench.at_once = "done"
    bench.queue.add(held("two"), order=True)
    assert bench.names() == ["one", "two"]


def test_thousands_that_end_at_once_take_no_stack_and_little_time(bench):
    busy = [held(f"busy{index}") for index in range(MAX_ORDERS)]
    for each in busy:
        bench.queue.add(each, order=True)
    for index in range(30_000):
        bench.queue.add(held(f"n{index}"), order=True)
    bench.at_once = "done"
    began = time.process_time()
    bench.end(busy[0])
    assert len(bench.ended) == 30_001
    assert time.process_time() - began < 5


def test_one_that_is_dropped(bench):
    busy = [held(f"busy{index}") for index in range(MAX_ORDERS)]
    for each in busy:
        bench.queue.add(each, order=True)
    one = held("one")
    bench.queue.add(one, order=True)
    bench.queue.drop(one, finish=True)
    assert len(bench.queue) == 0
    busy[0].dropped = True
    bench.queue.drop(busy[0], finish=False)
    [(ended, failure)] = bench.ended
    assert ended is busy[0]
    assert failure.check(CancelledError)
    bench.queue.drop(held("never seen"), finish=True)


def test_a_name_is_worked_on_once_at_a_time(bench):
    one, again, once_more = (held("one") for _ in range(3))
    bench.queue.add(one, order=True)
    one.dropped = True
    bench.queue.drop(one, finish=True)
    bench.queue.add(again, order=True)
    assert bench.names() == ["one"]
    again.dropped = True
    bench.queue.drop(again, finish=False)
    bench.queue.add(once_more, order=True)
    bench.end(one)
    assert bench.heirs == [once_more]
    bench.queue.add(once_more, order=True)
    assert bench.names() == ["one", "one"]


def test_a_name_that_nobody_took_up(bench):
    one, again = held("one"), held("one")
    bench.queue.add(one, order=True)
    one.dropped = True
    bench.queue.drop(one, finish=True)
    bench.end(one)
    assert bench.heirs == []
    bench.queue.add(again, order=True)
    assert bench.names() == ["one", "one"]


def test_stopping(bench):
    all_ = [held(f"n{index}") for index in range(2 * MAX_ORDERS)]
    for each in all_:
        bench.queue.add(each, order=True)
    bench.queue.stop()
    assert len(bench.ended) == MAX_ORDERS
    bench.queue.add(held("late"), order=True)
    assert len(bench.begun) == MAX_ORDERS
