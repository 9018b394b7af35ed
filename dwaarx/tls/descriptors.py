"""File descriptors: all that the kernel grants, the last of them kept from new clients."""

from __future__ import annotations

import resource

# Of the limit an eighth is kept for connections to upstreams, the console and files, so that what
# has been accepted can be answered, and a reload works. At least 128, for the reactor accepts a
# hundred connections in one turn before any can be closed; at most half of a limit that is small.
KEPT_SHARE = 8
KEPT_LEAST = 128


def limit() -> int:
    """Return how many descriptors the process may have open."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def raise_limit() -> int:
    """Raise the soft limit, which shells set to 1024, to the hard one; returns what it is then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard and hard != resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return limit()


def for_clients(most: int) -> int:
    """Return the number from which on descriptors are kept, of `most` that may be open."""
    return most - min(max(most // KEPT_SHARE, KEPT_LEAST), most // 2)


def is_kept(descriptor: int) -> bool:
    """Whether a new connection has got one of those kept (the kernel gives the lowest free)."""
    most = limit()
    return most != resource.RLIM_INFINITY and descriptor >= for_clients(most)
