"""When to renew, when to refresh and when to try again; pure functions of times.

What concerns one certificate now and then speaks in dates. What concerns each of a hundred
thousand staples speaks in POSIX seconds of the wall clock (floats).

The bound on requests for one certificate: between a try and the next at least SOONEST_REFRESH
passes after a success, and half of FIRST_BACKOFF after a failure; in an hour in which it only
fails there are at most 16 tries. What goes to one responder is bounded by `pacer`.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from random import Random

# How often the manager looks whether something is due.
INTERVAL = 60.0

# How long a try that failed (a full disk, a read-only storage) waits for the next: soon enough
# for the third of a lifetime that is left, seldom enough for the log.
RETRY = timedelta(minutes=10)

# A week: a copied key is worth little, and renewal, which happens every few days, stays a habit.
LEAF_LIFETIME = timedelta(days=7)

# Long enough that a service which could not renew for a day (its clock stopped, its storage
# full) still has a good staple, short enough that clients do not keep one for long.
STAPLE_VALIDITY = timedelta(days=2)

ROOT_LIFETIME = timedelta(days=3650)

# A root is replaced while every leaf that it signed can still live out its days.
ROOT_RENEWAL = timedelta(days=30)


def leaf_renewal(not_before: datetime, not_after: datetime) -> datetime:
    """Return when to renew a leaf: when one third of its lifetime is left."""
    return not_after - (not_after - not_before) / 3


def staple_renewal(this_update: datetime, next_update: datetime) -> datetime:
    """Return when to make a new staple: at half the validity of the present one."""
    return this_update + (next_update - this_update) / 2


def root_renewal(not_after: datetime) -> datetime:
    """Return when to make a new root in place of one that ends at `not_after`."""
    return not_after - ROOT_RENEWAL


# --- OCSP -----------------------------------------------------------------------

# A staple is never asked for sooner than this after one came: a responder that hands out the
# same old response again and again is not asked in a loop.
SOONEST_REFRESH = 60.0

# Staples that came together are not to be refreshed together for ever.
_REFRESH_JITTER = 0.1

# A staple with less than this share of its validity left must be renewed now: it is asked for
# even if HTTP says that the response is still fresh, and goes before the others.
_URGENT_SHARE = 1 / 4

# After the first failure this long, then twice as long each time, up to the longest.
FIRST_BACKOFF = 60.0
LONGEST_BACKOFF = 3600.0
_BACKOFF_JITTER = 0.5

# A responder that wants to be left alone for longer has made a mistake, or wants to do harm.
LONGEST_RETRY_AFTER = 86400.0

# When Retry-After outlasts the staple, it is tried once this long before the staple's end.
LAST_TRY = 300.0


def urgent_from(this_update: float, end: float) -> float:
    """Return since when a staple with this validity is urgent: when a quarter of it is left."""
    return end - (end - this_update) * _URGENT_SHARE


def ocsp_success(
    now: float,
    this_update: float,
    end: float,
    fresh_until: float | None,
    refresh: float,
    rng: Random,
) -> float:
    """Return when to ask for the next staple, after one came (or was found on the disk).

    `end` is when the present one must no longer be sent, `fresh_until` what HTTP says about
    caching (POSIX times); `refresh` is `ocsp { refresh }`, in seconds.

    That is after `refresh`, or at half the validity [this_update, end] if sooner, +-10 %; and
    not before `fresh_until`. But a quarter of the validity is left then, or if that is too late
    (responses are signed hours ahead, and an old one may be all there is), half of the time that
    is left now: as often as it halves, down to SOONEST_REFRESH.
    """
    begin = min(this_update, now)  # a responder's clock may be minutes ahead
    half = begin + (end - begin) / 2
    wait = min(refresh, half - now) if half > now else refresh
    wait *= rng.uniform(1 - _REFRESH_JITTER, 1 + _REFRESH_JITTER)
    if fresh_until is not None:
        wait = max(wait, (fresh_until - now) * rng.uniform(1, 1 + _REFRESH_JITTER))
    latest = max(urgent_from(begin, end) - now, (end - now) / 2)
    wait = min(wait, latest * rng.uniform(1 - _REFRESH_JITTER, 1))
    return now + max(wait, SOONEST_REFRESH)


def backoff(failures: int, rng: Random) -> float:
    """Return how many seconds to wait after so many failures in a row: 1 min to 1 h, +-50 %."""
    return _doubled(FIRST_BACKOFF, LONGEST_BACKOFF, failures) * rng.uniform(
        1 - _BACKOFF_JITTER, 1 + _BACKOFF_JITTER
    )


def ocsp_failure(
    now: float,
    failures: int,
    retry_after: float | None,
    rng: Random,
    staple_end: float | None,
) -> float:
    """Return when to ask again, after `failures` tries in a row (this one too) have failed.

    `retry_after` is when the responder wants to be asked again (POSIX time); it is honoured up
    to LONGEST_RETRY_AFTER from now. `staple_end` is the end of the present staple, None if there
    is none: until then never more than half of the time that is left is waited, but never less
    than half of FIRST_BACKOFF. So a responder that is back a few minutes before the end is in
    time, for at most nine tries more per staple. If `retry_after` is later than `staple_end`,
    there is one last try LAST_TRY seconds before the end.
    """
    shortest = FIRST_BACKOFF * (1 - _BACKOFF_JITTER)
    wait = backoff(failures, rng)
    if staple_end is not None and staple_end > now:
        wait = min(wait, max((staple_end - now) / 2, shortest))
    if retry_after is None or retry_after <= now + wait:
        return now + wait
    asked = min(retry_after, now + LONGEST_RETRY_AFTER)
    if staple_end is not None and now + wait <= staple_end - LAST_TRY < asked:
        return staple_end - LAST_TRY
    return asked


# --- ACME -----------------------------------------------------------------------

# For a CA that cannot be reached: after the first failure this long, then twice as long each
# time, up to the longest.
ACME_FIRST_BACKOFF = 60.0
ACME_LONGEST_BACKOFF = 6 * 3600.0

# For a CA that said no. Let's Encrypt allows five failed validations of a name in an hour, and a
# try may take two (http-01 and tls-alpn-01).
ACME_REJECTED_BACKOFF = 15 * 60.0

_ACME_JITTER = 0.2


def acme_renewal(not_before: datetime, not_after: datetime, ari: datetime | None) -> datetime:
    """Return when to renew: at the moment chosen within ARI's window, or when a third is left.

    Whichever is sooner; `ari` is None if the CA offers no renewal information (RFC 9773).
    """
    third = leaf_renewal(not_before, not_after)
    return third if ari is None else min(ari, third)


def acme_backoff(failures: int, rng: Random, *, rejected: bool = False) -> float:
    """Return how many seconds to wait after so many failures in a row.

    1 min doubling to 6 h, +-20 %; from 15 min if the CA said no (`rejected`): at most three
    tries in an hour.
    """
    first = ACME_REJECTED_BACKOFF if rejected else ACME_FIRST_BACKOFF
    return _doubled(first, ACME_LONGEST_BACKOFF, failures) * rng.uniform(
        1 - _ACME_JITTER, 1 + _ACME_JITTER
    )


def acme_failure(
    now: float,
    failures: int,
    retry_after: float | None,
    rng: Random,
    *,
    rejected: bool = False,
) -> float:
    """Return when to try again (POSIX time), after `failures` tries in a row, this one too.

    `retry_after` is when the CA wants to be asked again (POSIX time); it is honoured wholly.
    """
    at = now + acme_backoff(failures, rng, rejected=rejected)
    return at if retry_after is None else max(at, retry_after)


def _doubled(first: float, longest: float, failures: int) -> float:
    # The exponent is bounded, lest a year of failures overflow the float.
    return min(first * 2.0 ** min(max(failures - 1, 0), 32), longest)
