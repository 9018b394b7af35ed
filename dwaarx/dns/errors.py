"""What the DNS room raises."""

from __future__ import annotations


class ResolversError(Exception):
    """A `resolvers` block that cannot be put into force; says what is wrong with it."""
