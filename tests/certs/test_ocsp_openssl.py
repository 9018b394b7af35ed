"""The verdict on a response, beside that of OpenSSL's own `openssl ocsp`."""

from __future__ import annotations

import subprocess
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes

from dwaarx.certs.errors import OcspError, Refusal
from dwaarx.certs.ocsp import verify
from tests.certs import pki

NOW = pki.utc_now()
LONG_AGO = NOW - timedelta(days=20)
ROOTS = {"ECDSA": pki.make_ca("EC Root"), "RSA": pki.make_ca("RSA Root", key_type="rsa2048")}
ISSUERS = {
    **{f"{kind} root": root for kind, root in ROOTS.items()},
    **{f"{kind} intermediate": pki.make_ca("Sub", root) for kind, root in ROOTS.items()},
}


def openssl_verdict(
    folder: Path, response: bytes, leaf: pki.Entity, digest: str = "sha1"
) -> tuple[bool, str]:
    """Whether `openssl ocsp` finds the response good in every respect, and what it says."""
    written = leaf.write(folder, chain=False)
    (folder / "issuer.pem").write_bytes(leaf.issuer.pem)
    (folder / "response.der").write_bytes(response)
    done = subprocess.run(
        ["openssl", "ocsp", "-respin", "response.der", "-CAfile", written.root.name,
         f"-{digest}", "-issuer", "issuer.pem", "-cert", written.certificate.name],
        cwd=folder, capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip
    said = done.stdout + done.stderr
    good = (
        done.returncode == 0
        and "Response verify OK" in said
        and f"{written.certificate.name}: good" in said
        and "WARNING: Status times invalid" not in said
    )
    return good, said


def our_verdict(response: bytes, leaf: pki.Entity) -> Refusal | None:
    try:
        verify(response, leaf.certificate, leaf.issuer.certificate, pki.utc_now())
    except OcspError as error:
        return error.kind
    return None


@pytest.mark.parametrize("where", ISSUERS)
@pytest.mark.parametrize("cert_id_hash", [hashes.SHA1(), hashes.SHA256()], ids=["sha1", "sha256"])
@pytest.mark.parametrize("by_name", [False, True], ids=["by hash", "by name"])
@pytest.mark.parametrize("signer", ["issuer", "issuer, embedded", "EC delegate", "RSA delegate"])
def test_good_in_both_eyes(tmp_path, where, cert_id_hash, by_name, signer):
    issuer = ISSUERS[where]
    leaf = pki.make_leaf(issuer)
    delegate = {
        "EC delegate": lambda: pki.make_delegate(issuer),
        "RSA delegate": lambda: pki.make_delegate(issuer, key_type="rsa2048"),
    }.get(signer)
    response = pki.make_response(
        leaf,
        delegate() if delegate is not None else None,
        cert_id_hash=cert_id_hash,
        by_name=by_name,
        embed=[issuer] if signer == "issuer, embedded" else None,
    )
    good, said = openssl_verdict(tmp_path, response, leaf, cert_id_hash.name)
    assert good, said
    assert our_verdict(response, leaf) is None


BAD = {
    "revoked": (Refusal.REVOKED, lambda leaf: pki.make_response(leaf, status="revoked")),
    "unknown": (Refusal.UNKNOWN, lambda leaf: pki.make_response(leaf, status="unknown")),
    "expired": (Refusal.EXPIRED, lambda leaf: pki.make_response(leaf, this_update=LONG_AGO)),
    "future": (
        Refusal.NOT_YET,
        lambda leaf: pki.make_response(leaf, this_update=NOW + timedelta(hours=1)),
    ),
    "ends before it begins": (
        Refusal.MALFORMED,
        lambda leaf: pki.make_response(leaf, validity=-timedelta(minutes=1)),
    ),
    "another serial": (
        Refusal.MISMATCH,
        lambda leaf: pki.make_response(pki.make_leaf(leaf.issuer)),
    ),
    "another issuer": (
        Refusal.MISMATCH,
        lambda leaf: pki.make_response(
            pki.make_leaf(pki.make_ca("Other"), serial=leaf.certificate.serial_number)
        ),
    ),
    "signed by another key": (
        Refusal.SIGNATURE,
        lambda leaf: pki.make_response(leaf, key=pki.make_key()),
    ),
    "signed by a stranger": (
        Refusal.SIGNER,
        lambda leaf: pki.make_response(leaf, pki.make_ca("Stranger"), issuer=leaf.issuer),
    ),
    "delegate without OCSPSigning": (
        Refusal.SIGNER,
        lambda leaf: pki.make_response(leaf, pki.make_delegate(leaf.issuer, ocsp_signing=False)),
    ),
    "delegate that expired": (
        Refusal.SIGNER,
        lambda leaf: pki.make_response(
            leaf, pki.make_delegate(leaf.issuer, not_before=LONG_AGO, lifetime=pki.DAY)
        ),
    ),
    "delegate of a delegate's CA": (
        Refusal.SIGNER,
        lambda leaf: pki.make_response(leaf, pki.make_delegate(pki.make_ca("Sub", leaf.issuer))),
    ),
    "delegate not embedded": (
        Refusal.SIGNER,
        lambda leaf: pki.make_response(leaf, pki.make_delegate(leaf.issuer), embed=[]),
    ),
    "no single response": (Refusal.MISMATCH, lambda leaf: pki.assemble(leaf.issuer, [])),
    "an error": (Refusal.UNSUCCESSFUL, lambda _: pki.error_response()),
    "cut off": (Refusal.MALFORMED, lambda leaf: pki.make_response(leaf)[:-3]),
}


@pytest.mark.parametrize("where", ["ECDSA root", "ECDSA intermediate"])
@pytest.mark.parametrize("case", BAD)
def test_bad_in_both_eyes(tmp_path, where, case):
    kind, make = BAD[case]
    leaf = pki.make_leaf(ISSUERS[where])
    response = make(leaf)
    good, said = openssl_verdict(tmp_path, response, leaf)
    assert not good, said
    assert our_verdict(response, leaf) is kind


@pytest.mark.parametrize("options", [(), ("-rsigopt", "rsa_padding_mode:pss")])
@pytest.mark.parametrize("digest", ["sha256", "sha384", "sha512", "sha1"])
def test_what_openssls_responder_signs(tmp_path, options, digest):
    """The responder of `openssl ocsp -index`: about two certificates, with a nonce, by PSS too."""
    root = ROOTS["RSA"]
    leaves = [pki.make_leaf(root), pki.make_leaf(root)]
    written = root.write(tmp_path, "ca")
    index = ""
    arguments = []
    for number, leaf in enumerate(leaves):
        leaf.write(tmp_path, f"leaf{number}", chain=False)
        serial = f"{leaf.certificate.serial_number:X}"
        serial = serial.zfill(len(serial) + len(serial) % 2)
        index += f"V\t{NOW + pki.DAY:%y%m%d%H%M%SZ}\t\t{serial}\tunknown\t/CN=leaf{number}\n"
        arguments += ["-cert", f"leaf{number}.pem"]
    (tmp_path / "index.txt").write_text(index)
    for command in (
        ["-issuer", written.certificate.name, *arguments, "-reqout", "request.der"],
        ["-index", "index.txt", "-CA", "ca.pem", "-rsigner", "ca.pem", "-rkey", "ca.key",
         "-rmd", digest, "-reqin", "request.der", "-respout", "response.der", "-ndays", "2",
         *options],
    ):  # fmt: skip
        done = subprocess.run(
            ["openssl", "ocsp", *command],
            cwd=tmp_path,
            check=False,
            capture_output=True,
            timeout=20,
        )
        assert done.returncode == 0, done.stderr
    response = (tmp_path / "response.der").read_bytes()
    wanted = None
    if digest == "sha1":
        # PSS with SHA-1 is seen as none of the accepted ones.
        wanted = Refusal.SIGNATURE if options else Refusal.UNSUPPORTED
    for leaf in leaves:
        assert our_verdict(response, leaf) is wanted
