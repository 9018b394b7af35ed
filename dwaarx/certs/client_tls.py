"""Whom a fetch over https believes: a chain to a root, and the very name in the certificate.

Twisted's own check (optionsForClientTLS) lets a certificate pass that has no names at all, and
says nothing about why a chain is not good.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from cryptography import x509
from OpenSSL import SSL
from OpenSSL.crypto import X509
from service_identity import CertificateError, VerificationError
from service_identity.cryptography import extract_patterns
from service_identity.hazmat import DNS_ID, IPAddress_ID, verify_service_identity
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.internet.ssl import (
    Certificate,
    CertificateOptions,
    TLSVersion,
    platformTrust,
    trustRootFromCertificates,
)
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from dwaarx.certs.errors import FetchError, FetchFailure
from dwaarx.certs.matching import PARSE_ERRORS
from dwaarx.certs.url import literal_of
from dwaarx.words import reason_of

# The bundle of every root that browsers know has 220 KiB.
MAX_BUNDLE = 4 * 1024 * 1024

# OpenSSL's numbers (X509_V_ERR_*) for what goes wrong in practice.
_WRONG = {
    9: "is not valid yet",
    10: "has expired",
    18: "is self-signed",
    19: "is by a root that is not trusted",
    20: "is by an issuer that is not known",
    21: "is by an issuer that is not known",
}

Verify = Callable[[SSL.Connection, X509, int, int, int], bool]


class UntrustedError(Exception):
    """A server's certificate that is not believed; its words follow "the certificate of X"."""


def client_tls(host: str, trust: Path | None) -> IOpenSSLClientConnectionCreator:
    """Return what verifies a server: by its name or address, and the system's roots or a bundle's.

    Raises FetchError (REFUSED) for a bundle that cannot be used, and for a host ("2130706433")
    that no certificate can name.
    """
    root = platformTrust() if trust is None else trustRootFromCertificates(_bundle(trust))
    options = CertificateOptions(trustRoot=root, raiseMinimumTo=TLSVersion.TLSv1_2)
    try:
        return _Creator(host, options.getContext())
    except ValueError:
        raise FetchError(FetchFailure.REFUSED, f"no certificate can be for {host}") from None


def _bundle(path: Path) -> Sequence[Certificate]:
    try:
        with path.open("rb") as file:
            certificates = x509.load_pem_x509_certificates(file.read(MAX_BUNDLE))
    except OSError as error:
        reason = reason_of(error)
    except ValueError:
        reason = "no bundle of certificates in PEM"
    else:
        return [Certificate(X509.from_cryptography(each)) for each in certificates]
    raise FetchError(FetchFailure.REFUSED, f"{path}: {reason}")


@implementer(IOpenSSLClientConnectionCreator)
class _Creator:
    """Begins connections to one host; raises ValueError for a name that none can have."""

    def __init__(self, host: str, context: SSL.Context) -> None:
        literal = literal_of(host)
        self._context = context
        self._server_name = host.encode("ascii") if literal is None else None
        self._identity = DNS_ID(host) if literal is None else IPAddress_ID(host)

    def clientConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """Begin one."""
        connection = SSL.Connection(self._context, None)
        if self._server_name is not None:
            connection.set_tlsext_host_name(self._server_name)
        must = SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT
        connection.set_verify(must, self._verifier(tlsProtocol))
        return connection

    def _verifier(self, protocol: TLSMemoryBIOProtocol) -> Verify:
        def verify(
            _connection: SSL.Connection, certificate: X509, error: int, depth: int, ok: int
        ) -> bool:
            wrong = None
            if not ok:
                wrong = _WRONG.get(error, f"is not good (error {error} of OpenSSL)")
            elif depth == 0 and not self._is_named(certificate):
                wrong = "is for another name"
            if wrong is not None:
                protocol.failVerification(Failure(UntrustedError(wrong)))
            return wrong is None

        return verify

    def _is_named(self, certificate: X509) -> bool:
        try:
            patterns = extract_patterns(certificate.to_cryptography())
            verify_service_identity(patterns, [self._identity], [])
        except (VerificationError, CertificateError, *PARSE_ERRORS):
            return False
        return True
