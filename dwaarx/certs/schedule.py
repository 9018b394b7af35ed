"""When to renew what the house makes itself; pure functions of dates."""

from __future__ import annotations

from datetime import datetime, timedelta

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
