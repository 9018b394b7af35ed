"""curl and OpenSSL accept the staples that are made here."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from twisted.internet.task import Clock

from dwaarx.certs import ocsp_sign
from dwaarx.certs.manager import CertificateManager
from dwaarx.certs.storage import Storage
from dwaarx.config.model import CertificateFiles, InternalCertificate
from tests.certs import pki
from tests.certs.handshakes import serving


def run(*command: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, input=stdin, capture_output=True, text=True, timeout=20, check=False
    )


def accepted(manager: CertificateManager, source, root: Path) -> None:
    identity = manager.acquire([source])[source]
    with serving(identity) as port:
        done = run(
            "curl", "-sS", "--cacert", str(root), "--cert-status", f"https://localhost:{port}/"
        )
        assert (done.stdout, done.returncode) == ("hello", 0), done.stderr
        done = run("openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-status",
                   "-servername", "localhost", "-CAfile", str(root), "-verify_return_error",
                   stdin="Q\n")  # fmt: skip
        assert "OCSP Response Status: successful (0x0)" in done.stdout
        assert "Cert Status: good" in done.stdout
        assert "Verify return code: 0 (ok)" in done.stdout


def test_tls_internal(tmp_path):
    manager = CertificateManager(Storage(tmp_path), Clock())
    names = ("localhost", "*.localhost", "127.0.0.1", "::1")
    accepted(manager, InternalCertificate(names), manager.internal.root_path)


@pytest.mark.parametrize("under", ["root", "intermediate"])
@pytest.mark.parametrize("with_chain", [True, False], ids=["whole chain", "without root"])
@pytest.mark.parametrize("key_type", ["p256", "rsa2048"])
def test_files_with_a_generated_response(tmp_path, under, with_chain, key_type):
    root = pki.make_ca("Root", key_type=key_type)
    issuer = root if under == "root" else pki.make_ca("Sub", root, key_type=key_type)
    leaf = pki.make_leaf(issuer, key_type=key_type)
    written = leaf.write(tmp_path)
    if not with_chain and under == "intermediate":
        written.certificate.write_bytes(pki.pem_of(leaf.chain[:-1]))
    response = tmp_path / "leaf.ocsp"
    ca = issuer.write(tmp_path, "ca")
    ocsp_sign.generate_to_file(
        written.certificate, ca.certificate, ca.key, response, 1, 0, pki.utc_now()
    )
    manager = CertificateManager(Storage(tmp_path / "storage"), Clock())
    accepted(manager, (CertificateFiles(written.certificate, written.key, response),), written.root)


def test_what_curl_says_of_no_staple(tmp_path):
    """So that the tests above do not pass for want of a check."""
    manager = CertificateManager(Storage(tmp_path / "storage"), Clock())
    written = pki.make_leaf(pki.make_ca()).write(tmp_path)
    source = (CertificateFiles(written.certificate, written.key),)
    with serving(manager.acquire([source])[source]) as port:
        url = f"https://localhost:{port}/"
        assert run("curl", "-sS", "--cacert", str(written.root), url).returncode == 0
        done = run("curl", "-sS", "--cacert", str(written.root), "--cert-status", url)
        assert done.returncode == 91, done.stderr
