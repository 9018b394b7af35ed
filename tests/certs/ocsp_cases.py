"""OCSP responses, good and bad, and the verdict that dwaarx and two other judges give on each.

The judges are `openssl ocsp` (test_ocsp_openssl.py) and pyhanko-certvalidator
(test_ocsp_pyhanko.py). Where one of them differs from dwaarx, the case says why that is right.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from dwaarx.certs.errors import OcspError, Refusal
from dwaarx.certs.ocsp import verify
from tests.certs import pki

MINUTE = timedelta(minutes=1)
NOW = pki.utc_now()
LONG_AGO = NOW - timedelta(days=20)
ODD = bytes.fromhex("2a0304")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
UNREADABLE = "the response cannot be read as an OCSP response in DER"

ROOTS = {
    "ECDSA": pki.make_ca("EC Root"),
    "RSA": pki.make_ca("RSA Root", key_type="rsa2048"),
    "Ed25519": pki.make_ca("Ed Root", key_type="ed25519"),
}
INTERMEDIATES = {
    "ECDSA intermediate": pki.make_ca("EC Sub", ROOTS["RSA"]),
    "RSA intermediate": pki.make_ca("RSA Sub", ROOTS["ECDSA"], key_type="rsa2048"),
}
ISSUERS = {**{f"{kind} root": root for kind, root in ROOTS.items()}, **INTERMEDIATES}


@attrs.frozen
class Case:
    """A response, and the verdicts: dwaarx's refusal and reason, and whether the others agree.

    `reason` is a pattern for the whole reason. `openssl` and `pyhanko` are whether they find the
    response good; None: as dwaarx does. `where` are the issuers whose leaf it may be about;
    `digest` is the hash of its CertIDs.
    """

    make: Callable[[pki.Entity], bytes]
    refusal: Refusal | None = None
    reason: str = ""
    openssl: bool | None = None
    pyhanko: bool | None = None
    why: str = ""
    where: tuple[str, ...] = ("ECDSA root", "ECDSA intermediate")
    digest: str = "sha1"

    def __attrs_post_init__(self) -> None:
        good = self.refusal is None
        differs = self.openssl not in (None, good) or self.pyhanko not in (None, good)
        assert differs == bool(self.why), "a difference is explained, and nothing else"

    def judge(self, leaf: pki.Entity, response: bytes) -> None:
        """See that dwaarx's verdict is the one stated."""
        found = None
        try:
            verify(response, leaf.certificate, leaf.issuer.certificate, pki.utc_now())
        except OcspError as error:
            found = error
        if self.refusal is None or found is None:
            assert found is None
            assert self.refusal is None
        else:
            assert found.kind is self.refusal
            assert re.fullmatch(self.reason, found.reason), found.reason

    def expected(self, judge: bool | None) -> bool:
        return judge if judge is not None else self.refusal is None


EVERYWHERE = tuple(ISSUERS)


def _good() -> dict[str, Case]:
    """Every signer, in every way of naming it, with every hash in the CertID."""
    cases = {}
    for by_name in (False, True):
        named = "by name" if by_name else "by key hash"
        for digest in (hashes.SHA1(), hashes.SHA256(), hashes.SHA384(), hashes.SHA512()):
            how = {"by_name": by_name, "cert_id_hash": digest}
            common = digest.name in {"sha1", "sha256"}
            judged = {
                "where": EVERYWHERE if common else ("ECDSA root", "ECDSA intermediate"),
                "digest": digest.name,
                "pyhanko": None if common else False,
                "why": "" if common else "pyhanko knows CertIDs in SHA-1 and SHA-256 only",
            }
            for signer in ("p256", "rsa2048", "ed25519"):
                cases[f"{signer} delegate {named}, {digest.name}"] = Case(
                    lambda leaf, how=how, signer=signer: pki.make_response(
                        leaf, pki.make_delegate(leaf.issuer, key_type=signer), **how
                    ),
                    **judged,
                )
            cases[f"issuer {named}, {digest.name}"] = Case(
                lambda leaf, how=how: pki.make_response(leaf, **how),
                **judged,
            )
            cases[f"issuer {named}, {digest.name}, embedded"] = Case(
                lambda leaf, how=how: pki.make_response(leaf, embed=[leaf.issuer], **how),
                **judged,
            )
    return cases


def _sub_delegate(leaf: pki.Entity) -> pki.Entity:
    return pki.make_delegate(pki.make_ca("Another Sub", leaf.issuer))


def _namesake(issuer: pki.Entity) -> pki.Entity:
    name = issuer.certificate.subject.rfc4514_string().removeprefix("CN=")
    return pki.make_delegate(issuer, name)


def _odd_extension(critical: bool) -> bytes:
    return pki.extension(ODD, b"\x05\x00", critical=critical)


CASES: dict[str, Case] = {
    **_good(),
    # --- good ---------------------------------------------------------------
    **{
        f"PSS with {name}": Case(
            lambda leaf, name=name: pki.make_response(leaf, pss=name),
            where=("RSA root", "RSA intermediate"),
        )
        for name in ("sha256", "sha384", "sha512")
    },
    "more certificates than needed": Case(
        lambda leaf: pki.make_response(
            leaf,
            delegate := pki.make_delegate(leaf.issuer),
            embed=[leaf.root, pki.make_ca("Stranger"), delegate, leaf.issuer],
        )
    ),
    "delegate with the name of its issuer, a root": Case(
        lambda leaf: pki.make_response(leaf, _namesake(leaf.issuer), by_name=True),
        where=("ECDSA root",),
    ),
    "delegate with the name of its issuer, an intermediate": Case(
        lambda leaf: pki.make_response(leaf, _namesake(leaf.issuer), by_name=True),
        openssl=False,
        why="OpenSSL takes the delegate for its own issuer and so finds no way to the root; the "
        "issuer is known here, and need not be found",
        where=("ECDSA intermediate",),
    ),
    "a nonce": Case(
        lambda leaf: pki.make_response(leaf, extensions=[(x509.OCSPNonce(b"12345678"), False)])
    ),
    "ours after three others": Case(
        lambda leaf: pki.assemble(
            leaf.issuer,
            [*(pki.single(pki.make_leaf(leaf.issuer)) for _ in range(3)), pki.single(leaf)],
        )
    ),
    "ended three minutes ago": Case(
        lambda leaf: pki.make_response(
            leaf, this_update=pki.utc_now() - 63 * MINUTE, validity=timedelta(hours=1)
        )
    ),
    "begins in three minutes": Case(
        lambda leaf: pki.make_response(leaf, this_update=pki.utc_now() + 3 * MINUTE)
    ),
    # --- what it says -------------------------------------------------------
    "revoked": Case(
        lambda leaf: pki.make_response(leaf, status="revoked"),
        Refusal.REVOKED,
        r"the certificate is revoked since [-0-9: ]+ UTC \(keyCompromise\)",
    ),
    "revoked long ago, and the response with it": Case(
        lambda leaf: pki.make_response(leaf, status="revoked", this_update=LONG_AGO),
        Refusal.REVOKED,
        r"the certificate is revoked since [-0-9: ]+ UTC \(keyCompromise\)",
    ),
    "revoked for a reason that nobody knows": Case(
        lambda leaf: pki.assemble(leaf.issuer, [pki.single(leaf, status=pki.revoked(99))]),
        Refusal.REVOKED,
        r"the certificate is revoked since [-0-9: ]+ UTC",
    ),
    "unknown": Case(
        lambda leaf: pki.make_response(leaf, status="unknown"),
        Refusal.UNKNOWN,
        "the responder does not know the certificate",
    ),
    "never issued": Case(
        lambda leaf: pki.assemble(leaf.issuer, [pki.single(leaf, status=pki.revoked(6, EPOCH))]),
        Refusal.UNKNOWN,
        "the responder says that the certificate was never issued",
    ),
    "an error": Case(
        lambda _: pki.error_response(),
        Refusal.UNSUCCESSFUL,
        "the responder answered with an error: try later",
    ),
    # --- when ---------------------------------------------------------------
    "expired": Case(
        lambda leaf: pki.make_response(leaf, this_update=LONG_AGO),
        Refusal.EXPIRED,
        "the response expired at [-0-9: ]+ UTC",
    ),
    "from the future": Case(
        lambda leaf: pki.make_response(leaf, this_update=NOW + timedelta(hours=1)),
        Refusal.NOT_YET,
        "the response is not valid before [-0-9: ]+ UTC",
    ),
    "ends before it begins": Case(
        lambda leaf: pki.make_response(leaf, validity=-MINUTE),
        Refusal.MALFORMED,
        r"the response ends \([-0-9: ]+ UTC\) before it begins \([-0-9: ]+ UTC\)",
    ),
    "no nextUpdate": Case(
        lambda leaf: pki.make_response(leaf, validity=None),
        Refusal.EXPIRED,
        "the response does not say until when it holds",
        openssl=True,
        why="RFC 6960 lets a responder leave it out; RFC 9919, for responses that are kept, does "
        "not, and a staple without end could be replayed for ever",
    ),
    # --- about whom ---------------------------------------------------------
    "another serial": Case(
        lambda leaf: pki.make_response(pki.make_leaf(leaf.issuer)),
        Refusal.MISMATCH,
        "the response is about another certificate: serial [0-9a-f]+, this one's is [0-9a-f]+",
    ),
    "another issuer": Case(
        lambda leaf: pki.make_response(
            pki.make_leaf(pki.make_ca("Other"), serial=leaf.certificate.serial_number)
        ),
        Refusal.MISMATCH,
        "the response is about a certificate of another issuer",
    ),
    "another issuer, signed by ours": Case(
        lambda leaf: pki.make_response(
            pki.make_leaf(pki.make_ca("Other"), serial=leaf.certificate.serial_number),
            leaf.issuer,
            embed=[],
        ),
        Refusal.MISMATCH,
        "the response is about a certificate of another issuer",
    ),
    "about none": Case(
        lambda leaf: pki.assemble(leaf.issuer, []),
        Refusal.MISMATCH,
        "the response says nothing about any certificate",
    ),
    "a hash that nobody knows in the CertID": Case(
        lambda leaf: pki.assemble(
            leaf.issuer,
            [pki.single(leaf, algorithm=pki.tlv(pki.SEQUENCE, pki.tlv(pki.OID, ODD)))],
        ),
        Refusal.UNSUPPORTED,
        "the response uses an algorithm that is not supported: .*",
    ),
    # --- by whom ------------------------------------------------------------
    "signed by another key": Case(
        lambda leaf: pki.make_response(leaf, key=pki.make_key()),
        Refusal.SIGNATURE,
        "the signature is not that of 'CN=EC (Root|Sub)'",
    ),
    "signed by another key than the delegate's": Case(
        lambda leaf: pki.make_response(leaf, pki.make_delegate(leaf.issuer), key=pki.make_key()),
        Refusal.SIGNATURE,
        "the signature is not that of 'CN=Test OCSP Responder'",
    ),
    "signed by a stranger": Case(
        lambda leaf: pki.make_response(leaf, pki.make_ca("Stranger")),
        Refusal.SIGNER,
        "the signer 'CN=Stranger' was not issued by the certificate's issuer",
    ),
    "signed by a stranger that is not embedded": Case(
        lambda leaf: pki.make_response(leaf, pki.make_ca("Stranger"), embed=[]),
        Refusal.SIGNER,
        "the response is signed neither by the certificate's issuer nor by a delegate whose "
        "certificate it holds",
    ),
    "the root for its intermediate": Case(
        lambda leaf: pki.make_response(leaf, leaf.root),
        Refusal.SIGNER,
        "the signer 'CN=RSA Root' was not issued by the certificate's issuer",
        where=("ECDSA intermediate",),
    ),
    "a delegate of the root for its intermediate": Case(
        lambda leaf: pki.make_response(leaf, pki.make_delegate(leaf.root)),
        Refusal.SIGNER,
        "the signer 'CN=Test OCSP Responder' was not issued by the certificate's issuer",
        where=("ECDSA intermediate",),
    ),
    "delegate of a delegate's CA": Case(
        lambda leaf: pki.make_response(leaf, _sub_delegate(leaf)),
        Refusal.SIGNER,
        "the signer 'CN=Test OCSP Responder' was not issued by the certificate's issuer",
    ),
    "delegate not embedded": Case(
        lambda leaf: pki.make_response(leaf, pki.make_delegate(leaf.issuer), embed=[]),
        Refusal.SIGNER,
        "the response is signed neither by the certificate's issuer nor by a delegate whose "
        "certificate it holds",
    ),
    "delegate without OCSPSigning": Case(
        lambda leaf: pki.make_response(leaf, pki.make_delegate(leaf.issuer, ocsp_signing=False)),
        Refusal.SIGNER,
        r"the signer 'CN=Test OCSP Responder' is not allowed to sign OCSP responses \(no .*\)",
    ),
    "the leaf about itself": Case(
        lambda leaf: pki.make_response(leaf, leaf),
        Refusal.SIGNER,
        r"the signer 'CN=localhost' is not allowed to sign OCSP responses \(no .*\)",
    ),
    "delegate without digitalSignature": Case(
        lambda leaf: pki.make_response(
            leaf, pki.make_delegate(leaf.issuer, usage=pki.key_usage(key_agreement=True))
        ),
        Refusal.SIGNER,
        r"the signer '.*' is not allowed to sign \(its key usage lacks digitalSignature\)",
        openssl=True,
        pyhanko=True,
        why="RFC 5280 section 4.2.1.3: a key that may only agree on keys signs nothing; they look "
        "at the extended key usage alone",
    ),
    "delegate that expired": Case(
        lambda leaf: pki.make_response(
            leaf, pki.make_delegate(leaf.issuer, not_before=LONG_AGO, lifetime=pki.DAY)
        ),
        Refusal.SIGNER,
        "the signer '.*' expired at [-0-9: ]+ UTC",
    ),
    "delegate that is not valid yet": Case(
        lambda leaf: pki.make_response(
            leaf, pki.make_delegate(leaf.issuer, not_before=NOW + pki.DAY)
        ),
        Refusal.SIGNER,
        "the signer '.*' is not valid before [-0-9: ]+ UTC",
    ),
    "delegate with an odd critical extension": Case(
        lambda leaf: pki.make_response(
            leaf,
            pki.make_delegate(
                leaf.issuer,
                extra=[
                    (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\5\0"), True)
                ],
            ),
        ),
        Refusal.UNSUPPORTED,
        "the signer '.*' has a critical extension that is not known here",
    ),
    # --- algorithms ---------------------------------------------------------
    "signed with SHA-1": Case(
        lambda leaf: pki.assemble(leaf.issuer, [pki.single(leaf)]),
        Refusal.UNSUPPORTED,
        r"the signature is made with SHA1, which is not accepted \(SHA-256 or better is\)",
        openssl=True,
        pyhanko=True,
        why="collisions of SHA-1 are made in practice, and browsers no longer take it",
        where=("RSA root", "RSA intermediate"),
    ),
    "signed with SHA-224": Case(
        lambda leaf: pki.make_response(leaf, sign_hash=hashes.SHA224()),
        Refusal.UNSUPPORTED,
        r"the signature is made with SHA224, which is not accepted \(SHA-256 or better is\)",
        openssl=True,
        pyhanko=True,
        why="what is offered by no CA is not taken either",
    ),
    "PSS with SHA-1": Case(
        lambda leaf: pki.make_response(leaf, pss="sha1"),
        Refusal.SIGNATURE,
        "the signature is not that of 'CN=RSA (Root|Sub)' by RSA-PSS with SHA-256 or better",
        openssl=True,
        pyhanko=True,
        why="as other signatures with SHA-1",
        where=("RSA root", "RSA intermediate"),
    ),
    "delegate whose certificate is signed with SHA-224": Case(
        lambda leaf: pki.make_response(
            leaf, pki.make_delegate(leaf.issuer, sign_hash=hashes.SHA224())
        ),
        Refusal.UNSUPPORTED,
        "the signer '.*' has a certificate with a weak signature",
        openssl=True,
        pyhanko=True,
        why="as for the response itself",
    ),
    # --- extensions ---------------------------------------------------------
    "an odd critical extension": Case(
        lambda leaf: pki.make_response(
            leaf,
            extensions=[
                (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\5\0"), True)
            ],
        ),
        Refusal.UNSUPPORTED,
        r"the response has a critical extension that is not known here \(1\.2\.3\.4\)",
        openssl=True,
        pyhanko=True,
        why="RFC 6960 section 4.4: what is critical and unknown must not be ignored; they do",
    ),
    "an odd critical extension of what is said about ours": Case(
        lambda leaf: pki.assemble(
            leaf.issuer, [pki.single(leaf, extensions=[_odd_extension(critical=True)])]
        ),
        Refusal.UNSUPPORTED,
        "what it says has a critical extension that is not known here",
        openssl=True,
        pyhanko=True,
        why="as above",
    ),
    # --- bytes --------------------------------------------------------------
    "nothing": Case(
        lambda _: b"",
        Refusal.MALFORMED,
        f"{UNREADABLE}: it is empty",
    ),
    "HTML": Case(
        lambda _: b"<!DOCTYPE html><title>Sign in to the hotel's network</title>",
        Refusal.MALFORMED,
        f"{UNREADABLE}: it looks like a page of HTML or XML",
    ),
    "cut off": Case(
        lambda leaf: pki.make_response(leaf)[:-3],
        Refusal.MALFORMED,
        f"{UNREADABLE}: it is cut off after [0-9]+ bytes",
    ),
    "followed by garbage": Case(
        lambda leaf: pki.make_response(leaf) + b"\r\n",
        Refusal.MALFORMED,
        rf"{UNREADABLE}: it is followed by bytes that are no part of it \(2 of them\)",
        openssl=True,
        pyhanko=True,
        why="they stop reading at the end of the response; what clients do with it is anyone's "
        "guess, and a staple is sent as it came",
    ),
    "a certificate": Case(
        lambda leaf: leaf.certificate.public_bytes(pki.Encoding.DER),
        Refusal.MALFORMED,
        f"{UNREADABLE}: error parsing .*",
    ),
}

MATRIX = [(name, where) for name, case in CASES.items() for where in case.where]


def made(name: str, where: str) -> tuple[Case, pki.Entity, bytes]:
    """Make one case: the case, a leaf, and the response about it."""
    case = CASES[name]
    leaf = pki.make_leaf(ISSUERS[where])
    return case, leaf, case.make(leaf)
