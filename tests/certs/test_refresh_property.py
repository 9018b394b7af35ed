"""Many certificates, several responders, days of a fake clock: what the schedule promises.

The promises: a host gets at most W / URGENT_SPACING + 1 requests in any W seconds, W / SPACING + 1
once it is known to fail, and HORIZON / URGENT_SPACING more for each jump of the clock; nobody is
asked about one certificate twice within half a minute; no expired staple is sent; whatever else
happened, a staple is renewed before it ends if its responder worked for the last five minutes.
"""

from __future__ import annotations

import heapq
import math
from datetime import UTC, datetime
from itertools import count, pairwise
from random import Random

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dwaarx.certs import schedule
from dwaarx.certs.agenda import Agenda
from dwaarx.certs.ocsp import Staple
from dwaarx.certs.pacer import HORIZON, SPACING, URGENT_SPACING, Pacer
from dwaarx.certs.pair import KeyPair
from dwaarx.certs.store import Slot
from dwaarx.certs.turns import Turns
from tests.certs import pki

START = 1_900_000_000.0
MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
TIMEOUT = 10.0  # of a request
SKEW = 5 * MINUTE  # how far ahead of our clock a responder's may be

# A responder that has worked for this long before a staple ends must have renewed it.
ENOUGH = 5 * MINUTE

# So many certificates, of the shortest validity, are within what one host is asked routinely.
MOST_PER_HOST = 30

# A simulation ends after so many requests, or so many days.
REQUESTS = 1200
DAYS = 40
STEPS = 100_000  # it takes a few thousand, unless somebody runs in circles

_ENTITY = pki.make_ca()
PAIR = KeyPair(_ENTITY.certificate, (), _ENTITY.key)


def moment(when: float) -> datetime:
    return datetime.fromtimestamp(when, UTC)


@attrs.frozen
class Responder:
    """How a responder behaves. Times are seconds; those of outages count from the start."""

    validity: float
    certificates: int
    period: float  # it signs anew this often; 0: for each request
    fresh: float | None  # what HTTP says of a response, as a share of its remaining time
    latency: float
    outages: tuple[tuple[float, float], ...]
    hangs: bool  # in an outage, rather than to refuse at once
    flaky: float  # how probable it is that a request fails outside of the outages
    retry_after: float | None  # what it says when it fails

    def is_down(self, when: float) -> bool:
        return any(begin <= when < end for begin, end in self.outages)


@attrs.frozen
class World:
    """All that happens in one simulation, and how the manager looks at it."""

    responders: tuple[Responder, ...]
    refresh: float
    tick: float  # how often the manager looks at the agenda; 0: just in time
    jumps: tuple[tuple[float, float], ...]  # of the clock: when, and by how much
    seed: int


@attrs.define
class Certificate:
    host: int
    slot: Slot = attrs.field(factory=lambda: Slot(PAIR))
    failures: int = 0
    sent: list[float] = attrs.field(factory=list)
    gaps: list[float] = attrs.field(factory=list)  # the ends of staples that were not renewed

    @property
    def since(self) -> float:
        return self.slot.staple.this_update.timestamp() if self.slot.staple is not None else 0.0

    @property
    def until(self) -> float | None:
        return self.slot.until.timestamp() if self.slot.until is not None else None


class Simulation:
    """Does what the manager does, on a clock that is true and a wall clock that may jump."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.rng = Random(world.seed)
        self.true = START
        self.offset = 0.0
        self.agenda: Agenda[int] = Agenda()
        self.pacer = Pacer()
        self.turns = Turns(self.agenda, self.pacer)
        self.certificates = [
            Certificate(host)
            for host, responder in enumerate(world.responders)
            for _ in range(responder.certificates)
        ]
        self.sent: list[list[float]] = [[] for _ in world.responders]
        self.failed: list[list[float]] = [[] for _ in world.responders]
        self.handshakes = 0
        self._events: list[tuple[float, int, int | None, float]] = []
        self._order = count()

    @property
    def wall(self) -> float:
        return self.true + self.offset

    def run(self) -> None:
        for key in range(len(self.certificates)):
            self.agenda.put(key, self.wall)
        for at, by in self.world.jumps:
            self._at(START + at, None, by)
        for _ in range(STEPS):
            then = min(self._next_look(), self._events[0][0] if self._events else math.inf)
            self._handshake(then)
            if then > START + DAYS * DAY or sum(map(len, self.sent)) > REQUESTS:
                return
            self.true = then
            while self._events and self._events[0][0] <= self.true:
                _, _, key, value = heapq.heappop(self._events)
                if key is None:
                    self.offset += value
                else:
                    self._answer(key, asked=value)
            self._look()
        pytest.fail("the simulation does not come to its end")

    # --- the manager's part ---

    def _next_look(self) -> float:
        earliest = self.agenda.earliest()
        if earliest is None:
            return math.inf
        at, tick = max(earliest - self.offset, self.true), self.world.tick
        return math.ceil(at / tick) * tick if tick else at

    def _look(self) -> None:
        for key in self.agenda.due(self.wall):
            each = self.certificates[key]
            now, until = self.wall, each.until
            urgent = until is None or now >= schedule.urgent_from(each.since, until)
            if self.turns.may_go(key, str(each.host), now, urgent=urgent):
                each.sent.append(self.true)
                self.sent[each.host].append(self.true)
                responder = self.world.responders[each.host]
                hanging = responder.hangs and responder.is_down(self.true - START)
                self._at(self.true + (TIMEOUT if hanging else responder.latency), key, self.true)

    def _succeeded(self, key: int, staple: Staple, fresh_until: float | None) -> None:
        each = self.certificates[key]
        self._note_gap(each)
        each.slot.put(staple)
        each.failures = 0
        self.pacer.succeeded(str(each.host))
        when = schedule.ocsp_success(
            self.wall,
            staple.this_update.timestamp(),
            staple.end.timestamp(),
            fresh_until,
            self.world.refresh,
            self.rng,
        )
        self.agenda.put(key, when)

    def _failed(self, key: int, retry_after: float | None) -> None:
        each = self.certificates[key]
        each.failures += 1
        self.failed[each.host].append(self.true)
        at = None if retry_after is None else self.wall + retry_after
        self.pacer.failed(str(each.host), at)
        when = schedule.ocsp_failure(self.wall, each.failures, at, self.rng, each.until)
        self.agenda.put(key, when)

    # --- the world's part ---

    def _at(self, when: float, key: int | None, value: float) -> None:
        heapq.heappush(self._events, (when, next(self._order), key, value))

    def _answer(self, key: int, asked: float) -> None:
        responder = self.world.responders[self.certificates[key].host]
        if responder.is_down(asked - START) or self.rng.random() < responder.flaky:
            self._failed(key, responder.retry_after)
            return
        signed = asked - (asked % responder.period if responder.period else 0.0)
        end = signed + responder.validity
        if signed > self.wall + SKEW or end <= self.wall:
            self._failed(key, None)  # our clock is wrong, and verification refuses it
            return
        der = repr(end).encode()
        staple = Staple(der, moment(signed), moment(end), moment(end))
        fresh = responder.fresh
        self._succeeded(key, staple, None if fresh is None else self.wall + fresh * (end - asked))

    def _handshake(self, then: float) -> None:
        """A client comes to one of them at some time before the next event."""
        each = self.rng.choice(self.certificates)
        when = self.offset + self.rng.uniform(self.true, min(then, self.true + 60 * DAY))
        staple = each.slot.valid_staple(moment(when))
        if staple is not None:
            self.handshakes += 1
            assert float(staple.der) > when - 1e-3

    # --- what came of it ---

    def _note_gap(self, each: Certificate) -> None:
        if each.until is not None and each.until < self.wall:
            each.gaps.append(each.until)

    def close(self) -> None:
        for each in self.certificates:
            self._note_gap(each)

    def worked(self, host: int, begin: float, end: float) -> bool:
        responder = self.world.responders[host]
        down = any(
            START + first < end and begin < START + last for first, last in responder.outages
        )
        return not down and not any(begin <= when <= end for when in self.failed[host])


def most_within(times: list[float], window: float) -> int:
    """Return the largest number of times in any window."""
    most = begin = 0
    for index, when in enumerate(times):
        while when - times[begin] > window:
            begin += 1
        most = max(most, index - begin + 1)
    return most


def allowed(window: float, spacing: float) -> int:
    return int((window + 1e-3) / spacing) + 1


def check_storms(simulation: Simulation) -> None:
    world = simulation.world
    for host, times in enumerate(simulation.sent):
        extra = len(world.jumps) * allowed(HORIZON, URGENT_SPACING)
        for window in (0.0, 1.0, 10.0, 60.0):
            most = allowed(window + world.tick, URGENT_SPACING) + extra
            assert most_within(times, window) <= most
        for begin, end in world.responders[host].outages:
            seen = [at for at in simulation.failed[host] if begin + TIMEOUT <= at - START < end]
            if not seen or world.jumps:
                continue
            since = seen[0] + HORIZON + world.tick
            down = [at for at in times if since < at < START + end]
            for window in (1.0, 10.0, 60.0):
                assert most_within(down, window) <= allowed(window + world.tick, SPACING)


def check_staples(simulation: Simulation) -> None:
    world = simulation.world
    for each in simulation.certificates:
        responder = world.responders[each.host]
        assert all(b - a >= schedule.FIRST_BACKOFF / 2 - 1e-3 for a, b in pairwise(each.sent))
        patient = responder.retry_after is not None and responder.retry_after > 2 * MINUTE
        if patient and simulation.failed[each.host]:
            continue  # it asked not to be asked
        for end in each.gaps:
            assert not simulation.worked(each.host, end - ENOUGH, end)


@st.composite
def responders(draw: st.DrawFn) -> Responder:
    validity = draw(st.sampled_from([5 * MINUTE, HOUR, 7 * DAY]) | st.floats(5 * MINUTE, 30 * DAY))
    outages = draw(st.lists(st.tuples(st.floats(0, 4), st.floats(0.01, 1.5)), max_size=2))
    return Responder(
        validity=validity,
        certificates=draw(st.integers(1, MOST_PER_HOST)),
        period=draw(st.just(0.0) | st.floats(0.01, 0.5)) * validity,
        fresh=draw(st.none() | st.sampled_from([0.0, 0.1, 1.0, 50.0])),
        latency=draw(st.floats(0.01, 9.0)),
        outages=tuple((at * validity, (at + length) * validity) for at, length in outages),
        hangs=draw(st.booleans()),
        flaky=draw(st.sampled_from([0.0, 0.0, 0.1, 0.6])),
        retry_after=draw(st.sampled_from([None, None, -HOUR, 2 * MINUTE, 365 * DAY])),
    )


worlds = st.builds(
    World,
    responders=st.lists(responders(), min_size=1, max_size=3).map(tuple),
    refresh=st.sampled_from([MINUTE, 12 * HOUR, 60 * DAY]),
    tick=st.sampled_from([0.0, 1.0]),
    jumps=st.just(()),
    seed=st.integers(0, 2**32),
)
jumps = st.lists(
    st.tuples(st.floats(0, DAY), st.sampled_from([-400 * DAY, -HOUR, -1.0, 20.0, HOUR, 400 * DAY])),
    min_size=1,
    max_size=3,
).map(tuple)


@settings(max_examples=60, deadline=None)
@given(worlds)
def test_staples_are_renewed_in_time_and_nobody_is_stormed(world: World):
    simulation = Simulation(world)
    simulation.run()
    simulation.close()
    check_storms(simulation)
    check_staples(simulation)


@settings(max_examples=30, deadline=None)
@given(worlds, jumps)
def test_a_clock_that_jumps_storms_nobody(world: World, when: tuple[tuple[float, float], ...]):
    simulation = Simulation(attrs.evolve(world, jumps=when))
    simulation.run()
    check_storms(simulation)


def steady(**changes: object) -> Responder:
    good = Responder(
        validity=7 * DAY,
        certificates=1,
        period=0.0,
        fresh=None,
        latency=0.1,
        outages=(),
        hangs=False,
        flaky=0.0,
        retry_after=None,
    )
    return attrs.evolve(good, **changes)


def simulate(*responders: Responder, jumps: tuple[tuple[float, float], ...] = ()) -> Simulation:
    simulation = Simulation(World(responders, 12 * HOUR, 1.0, jumps, seed=1))
    simulation.run()
    simulation.close()
    return simulation


def test_two_hundred_are_stapled_within_a_minute_while_another_responder_hangs():
    hanging = steady(certificates=200, outages=((0.0, 999 * DAY),), hangs=True)
    simulation = simulate(hanging, steady(certificates=200))
    first = [each.sent[0] - START for each in simulation.certificates if each.host == 1]
    assert len(first) == 200
    assert max(first) < MINUTE - TIMEOUT
    check_storms(simulation)


@pytest.mark.parametrize("period", [0.0, 150.0])
def test_five_minutes_of_validity_are_enough(period: float):
    simulation = simulate(
        steady(certificates=MOST_PER_HOST, validity=5 * MINUTE, period=period, latency=5.0)
    )
    assert simulation.handshakes > 500
    assert not any(each.gaps for each in simulation.certificates)


def test_a_responder_that_is_back_in_time_leaves_no_gap_and_one_that_is_not_does():
    late = steady(outages=((DAY, 7 * DAY - ENOUGH),))
    too_late = steady(outages=((DAY, 9 * DAY),))
    gaps = [each.gaps for each in simulate(late, too_late).certificates]
    assert gaps[0] == []
    assert len(gaps[1]) == 1


def test_after_a_year_in_the_future_the_waiting_goes_on_as_if_nothing_had_been():
    simulation = simulate(steady(), jumps=((HOUR, 400 * DAY), (2 * DAY, -400 * DAY)))
    (certificate,) = simulation.certificates
    after = [at for at in certificate.sent if at > START + 2 * DAY]
    assert after[0] < START + 2 * DAY + 1.5 * HOUR + MINUTE
    assert certificate.until is not None
    assert certificate.until > START + DAYS * DAY
