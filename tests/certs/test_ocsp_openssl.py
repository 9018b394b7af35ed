"""The verdict on a response, beside that of OpenSSL's own `openssl ocsp`."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from dwaarx.certs.errors import OcspError, Refusal
from dwaarx.certs.ocsp import verify
from tests.certs import pki
from tests.certs.ocsp_cases import CASES, MATRIX, ROOTS, made

NOW = pki.utc_now()


def openssl_verdict(
    folder: Path, response: bytes, leaf: pki.Entity, digest: str = "sha1"
) -> tuple[bool, str]:
    """Whether `openssl ocsp` finds the response good in every respect, and what it says."""
    written = leaf.write(folder, chain=False)
    (folder / "issuer.pem").write_bytes(leaf.issuer.pem)
    (folder / "response.der").write_bytes(response)
    done = subprocess.run(
        ["openssl", "ocsp", "-no_nonce", "-respin", "response.der", "-CAfile", written.root.name,
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


@pytest.mark.parametrize(("name", "where"), MATRIX)
def test_openssl_agrees_or_it_is_known_why_not(tmp_path, name, where):
    case, leaf, response = made(name, where)
    good, said = openssl_verdict(tmp_path, response, leaf, case.digest)
    assert good is case.expected(case.openssl), said
    case.judge(leaf, response)


def test_each_refusal_has_its_own_reason():
    reasons = {}
    for name, case in CASES.items():
        if case.refusal is not None:
            reasons.setdefault(case.reason, []).append(name)
    shared = [names for names in reasons.values() if len(names) > 1]
    # The same thing in two shapes; for all else the operator can tell what it was.
    assert shared == [
        ["revoked", "revoked long ago, and the response with it"],
        ["another issuer", "another issuer, signed by ours"],
        ["signed by a stranger that is not embedded", "delegate not embedded"],
        ["a delegate of the root for its intermediate", "delegate of a delegate's CA"],
    ]


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
