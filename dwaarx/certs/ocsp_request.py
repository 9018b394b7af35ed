"""What is asked of an OCSP responder, whom, and how it travels (RFC 6960, RFC 9919)."""

from __future__ import annotations

import base64
from urllib.parse import quote

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import AuthorityInformationAccessOID

from dwaarx.certs.matching import PARSE_ERRORS

# RFC 5019 and 9919, section 5: at most this long, scheme and host included, the request goes
# into the URL, so that what lies between can answer from a cache.
MAX_GET_URL = 255

# It only names, it protects nothing; and responders built for RFC 5019, which sign their answers
# in advance, have none ready for other hashes.
CERT_ID_HASH = hashes.SHA1


def build(certificate: x509.Certificate, issuer: x509.Certificate) -> bytes:
    """Return an OCSPRequest in DER: about this certificate only, without nonce.

    Raises what PARSE_ERRORS lists for certificates that
    cryptography cannot take apart.
    """
    builder = ocsp.OCSPRequestBuilder().add_certificate(certificate, issuer, CERT_ID_HASH())
    return builder.build().public_bytes(Encoding.DER)


def responders(certificate: x509.Certificate) -> tuple[str, ...]:
    """Return the responders' URLs, in the order of the certificate, each once.

    Of every scheme: whoever asks them says why it does not ask one. None if the extensions
    cannot be read.
    """
    try:
        access = certificate.extensions.get_extension_for_class(x509.AuthorityInformationAccess)
    except (x509.ExtensionNotFound, *PARSE_ERRORS):
        return ()
    urls = (
        description.access_location.value
        for description in access.value
        if description.access_method == AuthorityInformationAccessOID.OCSP
        and isinstance(description.access_location, x509.UniformResourceIdentifier)
    )
    return tuple(dict.fromkeys(urls))


def http_form(url: str, request: bytes) -> tuple[str, str, bytes | None]:
    """Return method, URL and body that carry a request to the responder at `url`.

    GET while the whole URL stays within MAX_GET_URL bytes, else POST; POST too for a URL with
    a query or fragment, which nothing can be appended to (RFC 6960 appendix A.1).
    """
    if not any(mark in url for mark in "?#"):
        # Every character of base64 but letters and digits means something in a path.
        encoded = quote(base64.b64encode(request), safe="")
        whole = f"{url}{'' if url.endswith('/') else '/'}{encoded}"
        if len(whole.encode()) <= MAX_GET_URL:
            return "GET", whole, None
    return "POST", url, request
