"""Unpredictable 16-bit numbers, cheap: the ids of what is asked upstream (RFC 5452 section 9.2)."""

from __future__ import annotations

import os

# One call of the kernel for this many octets: per query that costs a slice.
_BLOCK = 4096

_block = b""
_position = _BLOCK


def random16() -> bytes:
    """Return two octets from the kernel's generator, never given before."""
    global _block, _position
    if _position >= _BLOCK:
        _block = os.urandom(_BLOCK)
        _position = 0
    position = _position
    _position = position + 2
    return _block[position : position + 2]


def _forget() -> None:
    global _position
    _position = _BLOCK


# A child would draw the same numbers as its parent.
os.register_at_fork(after_in_child=_forget)
