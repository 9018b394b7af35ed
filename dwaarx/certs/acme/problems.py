"""What a CA says when it refuses: problem documents (RFC 8555 section 6.7) as sentences."""

from __future__ import annotations

from typing import Self

import attrs

from dwaarx.certs.errors import AcmeError

_PREFIX = "urn:ietf:params:acme:error:"

# What comes from a CA ends up in the log and in a table on the console, and may be kept for each
# of many names.
_MAX_REASON = 2000
_MAX_DETAIL = 500
_MAX_SUBPROBLEMS = 10

# These say nothing of the name or the account: asking again, or elsewhere, may do.
_BROKEN = frozenset({"orderNotReady", "serverInternal"})
_LATER = frozenset({"badNonce", "rateLimited"})


class CaError(AcmeError):
    """What one CA answered, or that it did not.

    `code` is the type of its problem without the prefix that ACME's have, "" for none.
    `passing` is true for what the same request may well get over a moment later.
    """

    def __init__(
        self,
        reason: str,
        retry_after: float | None = None,
        *,
        rejected: bool = False,
        code: str = "",
        passing: bool = False,
    ) -> None:
        super().__init__(shown(reason, _MAX_REASON), retry_after, rejected=rejected)
        self.code = code
        self.passing = passing


@attrs.frozen
class Problem:
    """One problem, and those that it is made of; `name` is the identifier at fault."""

    code: str
    detail: str
    name: str = ""
    parts: tuple[Problem, ...] = ()

    @classmethod
    def of(cls, document: object) -> Self | None:
        """Read a problem document; None for what is none. Never raises."""
        if not isinstance(document, dict):
            return None
        code = _text(document.get("type")).removeprefix(_PREFIX)
        detail = _text(document.get("detail")) or _text(document.get("title"))
        if not code and not detail:
            return None
        identifier = document.get("identifier")
        name = _text(identifier.get("value")) if isinstance(identifier, dict) else ""
        return cls(code, detail, name, cls._parts(document.get("subproblems")))

    @classmethod
    def _parts(cls, documents: object) -> tuple[Self, ...]:
        if not isinstance(documents, list):
            return ()
        # Section 6.7.1: subproblems have none themselves, so this goes one level deep.
        flat = (
            {key: value for key, value in each.items() if key != "subproblems"}
            for each in documents[:_MAX_SUBPROBLEMS]
            if isinstance(each, dict)
        )
        return tuple(part for part in map(cls.of, flat) if part is not None)

    @property
    def sentence(self) -> str:
        """What is wrong, for an operator: the name at fault, the CA's words, the type."""
        said = self.detail.rstrip(".: ")
        kind = f" ({self.code})" if self.code and said else self.code
        name = f"{self.name}: " if self.name and self.name not in said else ""
        parts = "; ".join(part.sentence for part in self.parts)
        return f"{name}{said}{kind}" + (f": {parts}" if parts else "")

    def error(self, retry_after: float | None = None, *, status: int = 400) -> CaError:
        """Return the error that this is, as the answer of the HTTP status given."""
        broken = status >= 500 or self.code in _BROKEN
        return CaError(
            self.sentence,
            retry_after,
            rejected=not broken and status != 429 and self.code not in _LATER,
            code=self.code,
            # One that says when to ask again is not asked before.
            passing=broken and retry_after is None,
        )


def shown(text: str, longest: int) -> str:
    """Return a text of somebody else's as one line without anything that a terminal obeys."""
    # Line feeds would forge a line of the log, escapes and marks of direction what is read there.
    printable = "".join(each if each.isprintable() else " " for each in text[:longest])
    return " ".join(printable.split())


def _text(value: object) -> str:
    return shown(value, _MAX_DETAIL) if isinstance(value, str) else ""
