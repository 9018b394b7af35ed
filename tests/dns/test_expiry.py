import pytest
from twisted.internet.task import Clock

from dwaarx.dns.expiry import Expiry


class Waiter:
    def __init__(self, log, expiry=None, clock=None):
        self.deadline = None
        self.log = log
        self.again = expiry
        self.clock = clock

    def timed_out(self):
        self.log.append(self)
        if self.again is not None:
            expiry, self.again = self.again, None
            expiry.add(self, self.clock.seconds())


def test_expiry_in_order_and_only_of_who_still_waits():
    clock, log = Clock(), []
    expiry = Expiry(clock, 2)
    first, second, third, again = (Waiter(log) for _ in range(4))
    expiry.add(first, clock.seconds())
    expiry.add(second, clock.seconds())
    clock.advance(1)
    expiry.add(third, clock.seconds())
    expiry.add(again, clock.seconds())
    assert len(clock.getDelayedCalls()) == 1
    second.deadline = None
    clock.advance(0.5)
    expiry.add(again, clock.seconds())
    clock.advance(0.5)
    assert log == [first]
    clock.advance(1)
    assert log == [first, third]
    clock.advance(0.5)
    assert log == [first, third, again]
    assert clock.getDelayedCalls() == []


def test_who_times_out_may_wait_anew():
    clock, log = Clock(), []
    expiry = Expiry(clock, 2)
    waiter = Waiter(log, expiry, clock)
    other = Waiter(log)
    expiry.add(waiter, 0)
    clock.advance(1)
    expiry.add(other, 1)
    clock.advance(1)
    assert log == [waiter]
    clock.advance(1)
    assert log == [waiter, other]  # at its own time, though the first waits anew
    clock.advance(1)
    assert log == [waiter, other, waiter]


def test_a_waiter_that_raises_does_not_hold_up_the_others():
    class Broken(Waiter):
        def timed_out(self):
            super().timed_out()
            raise ZeroDivisionError

    clock, log = Clock(), []
    expiry = Expiry(clock, 2)
    broken, other, later = Broken(log), Waiter(log), Waiter(log)
    expiry.add(broken, 0)
    expiry.add(other, 0)
    clock.advance(1)
    expiry.add(later, 1)
    with pytest.raises(ZeroDivisionError):
        clock.advance(1)
    clock.advance(0)
    assert log == [broken, other]
    clock.advance(1)
    assert log == [broken, other, later]
    assert clock.getDelayedCalls() == []


def test_who_no_longer_waits_is_let_go():
    clock = Clock()
    expiry = Expiry(clock, 2)
    for _ in range(1000):
        waiter = Waiter([])
        expiry.add(waiter, clock.seconds())
        waiter.deadline = None
    assert len(expiry._queue) == 1


def test_stop_yields_who_still_waits():
    clock, log = Clock(), []
    expiry = Expiry(clock, 2)
    first, second = Waiter(log), Waiter(log)
    expiry.add(first, 0)
    expiry.add(second, 0)
    first.deadline = None
    assert list(expiry.stop()) == [second]
    assert list(expiry.stop()) == []
    assert clock.getDelayedCalls() == []
