"""What can be wrong with a certificate, its key or its OCSP response."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Self

from cryptography import x509


class CertificateError(Exception):
    """A certificate, key or CA that cannot be used; `path` is the file at fault."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class CertificateErrors(ExceptionGroup[CertificateError]):
    """Several certificates cannot be used; `errors` (one at least) names each file."""

    def __new__(cls, errors: Iterable[CertificateError]) -> Self:
        """Gather the errors; raises ValueError if there is none."""
        gathered = tuple(errors)
        return super().__new__(cls, "\n".join(map(str, gathered)), gathered)

    @property
    def errors(self) -> tuple[CertificateError, ...]:
        """What is wrong with each file."""
        return tuple(error for error in self.exceptions if isinstance(error, CertificateError))

    def __str__(self) -> str:
        return self.message


class Refusal(enum.Enum):
    """The kinds of reasons for which an OCSP response is not used."""

    NONE = "no response is given"
    UNREACHABLE = "no responder can be asked"
    UNREADABLE = "the file cannot be read, or is empty or too large"
    NO_ISSUER = "the issuer's certificate is not known"
    MALFORMED = "the bytes are no OCSP response"
    UNSUCCESSFUL = "the responder answers with an error"
    MISMATCH = "the response is about another certificate"
    REVOKED = "the certificate is revoked"
    UNKNOWN = "the responder does not know the certificate"
    SIGNER = "the signer may not speak for the issuer"
    SIGNATURE = "the signature is not good"
    NOT_YET = "the response is from the future"
    EXPIRED = "the response has expired, or never expires"
    UNSUPPORTED = "an algorithm or a critical extension is not supported"


class OcspError(Exception):
    """An OCSP response that must not be stapled, or that cannot be made.

    `reason` is a sentence for the operator; `kind` lets the caller tell the refusals apart
    (a revoked certificate asks for another answer than a stale file). Of kind REVOKED,
    `revoked_at` (UTC) and `revocation_reason` are what the responder says of it; None if it
    does not.
    """

    def __init__(
        self,
        kind: Refusal,
        reason: str,
        *,
        revoked_at: datetime | None = None,
        revocation_reason: x509.ReasonFlags | None = None,
    ) -> None:
        super().__init__(kind, reason)
        self.kind = kind
        self.reason = reason
        self.revoked_at = revoked_at
        self.revocation_reason = revocation_reason

    def __str__(self) -> str:
        return self.reason


class FetchFailure(enum.Enum):
    """The kinds of ways in which a request to a responder fails."""

    REFUSED = "it must not be sent"
    UNREACHABLE = "nobody answers at that name or address"
    TIMEOUT = "the answer did not come in time"
    STATUS = "the answer is an error"
    TOO_LARGE = "the answer is too large"
    BROKEN = "the answer breaks off, or is no HTTP"


class FetchError(Exception):
    """A request for an OCSP response, a CRL or renewal information that failed.

    `retry_after` is when the other side wants to be asked again, as POSIX time; None if it did
    not say.
    """

    def __init__(self, kind: FetchFailure, reason: str, retry_after: float | None = None) -> None:
        super().__init__(kind, reason, retry_after)
        self.kind = kind
        self.reason = reason
        self.retry_after = retry_after

    def __str__(self) -> str:
        return self.reason


class CrlError(Exception):
    """A CRL that cannot be relied on."""


class AcmeError(Exception):
    """A certificate that could not be obtained.

    `rejected` tells a CA that says no (the name, its validation, the account) from one that
    cannot be reached. `retry_after` is when it wants to be asked again, as POSIX time.
    """

    def __init__(
        self, reason: str, retry_after: float | None = None, *, rejected: bool = False
    ) -> None:
        super().__init__(reason, retry_after, rejected)
        self.reason = reason
        self.retry_after = retry_after
        self.rejected = rejected

    def __str__(self) -> str:
        return self.reason
