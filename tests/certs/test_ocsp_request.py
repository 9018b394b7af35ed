from __future__ import annotations

import base64
import subprocess
from urllib.parse import unquote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509 import ocsp
from cryptography.x509.oid import AuthorityInformationAccessOID as Access

from dwaarx.certs.ocsp_request import MAX_GET_URL, build, http_form, responders
from tests.certs import pki

ROOT = pki.make_ca("Root")
LEAF = pki.make_leaf(ROOT)
REQUEST = build(LEAF.certificate, ROOT.certificate)


def test_one_certid_in_sha1_and_nothing_else():
    request = ocsp.load_der_ocsp_request(REQUEST)
    assert request.serial_number == LEAF.certificate.serial_number
    assert isinstance(request.hash_algorithm, hashes.SHA1)
    assert list(request.extensions) == []
    assert len(REQUEST) < 100


def test_openssl_reads_it(tmp_path):
    (tmp_path / "request.der").write_bytes(REQUEST)
    done = subprocess.run(
        ["openssl", "ocsp", "-reqin", "request.der", "-req_text"],
        cwd=tmp_path, capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip
    assert done.stdout.count("Serial Number:") == 1
    assert f"{LEAF.certificate.serial_number:X}" in done.stdout
    assert "Hash Algorithm: sha1" in done.stdout
    assert "Nonce" not in done.stdout


# --- whom to ask ------------------------------------------------------------


def access(*locations: tuple[x509.ObjectIdentifier, x509.GeneralName]) -> pki.Entity:
    value = x509.AuthorityInformationAccess([x509.AccessDescription(*each) for each in locations])
    return pki.make_leaf(ROOT, extra=[(value, False)])


def test_the_responders_in_their_order():
    uri = x509.UniformResourceIdentifier
    leaf = access(
        (Access.OCSP, uri("http://b.test/ocsp")),
        (Access.CA_ISSUERS, uri("http://c.test/ca.der")),
        (Access.OCSP, uri("ldap://a.test")),
        (Access.OCSP, x509.DNSName("d.test")),
        (Access.OCSP, uri("http://b.test/ocsp")),
        (Access.OCSP, uri("https://a.test/")),
    )
    assert responders(leaf.certificate) == (
        "http://b.test/ocsp",
        "ldap://a.test",
        "https://a.test/",
    )


def test_no_responders():
    assert responders(LEAF.certificate) == ()
    assert responders(
        access((Access.CA_ISSUERS, x509.UniformResourceIdentifier("http://c.test"))).certificate
    ) == ()  # fmt: skip
    aia = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.1")
    for value in (b"", b"\x05\x00", b"\x30\x00", b"\x30\x03\x02\x01\x00"):
        broken = x509.UnrecognizedExtension(aia, value)
        assert responders(pki.make_leaf(ROOT, extra=[(broken, False)]).certificate) == ()


# --- how it travels ---------------------------------------------------------


@pytest.mark.parametrize("url", ["http://ocsp.test", "http://ocsp.test/", "http://a.test/b/c"])
def test_a_short_one_goes_into_the_url(url):
    method, whole, body = http_form(url, REQUEST)
    assert (method, body) == ("GET", None)
    assert whole.startswith(url.rstrip("/") + "/")
    path = whole.removeprefix(url.rstrip("/") + "/")
    assert base64.b64decode(unquote(path), validate=True) == REQUEST


def test_everything_that_is_no_letter_or_digit_is_escaped():
    _, whole, _ = http_form("http://a.test", b"\xfb\xef\xff?")
    assert whole == "http://a.test/%2B%2B%2F%2FPw%3D%3D"


def test_255_bytes_by_get_and_256_by_post():
    _, short, _ = http_form("http://a.test/", b"123")
    room = MAX_GET_URL - len(short)
    longest = f"http://a.test/{'x' * (room - 1)}/"
    assert http_form(longest, b"123") == ("GET", f"{longest}MTIz", None)
    assert len(f"{longest}MTIz") == 255
    longer = f"http://a.test/{'x' * room}/"
    assert http_form(longer, b"123") == ("POST", longer, b"123")
    assert http_form("http://a.test", b"\0" * 200) == ("POST", "http://a.test", b"\0" * 200)


@pytest.mark.parametrize("url", ["http://a.test/?id=1", "http://a.test/x#y"])
def test_nothing_is_appended_to_a_query(url):
    assert http_form(url, b"123") == ("POST", url, b"123")


def test_a_url_in_no_ascii_is_measured_in_bytes():
    url = f"http://a.test/{'ä' * 120}/"
    assert http_form(url, b"123")[0] == "POST"
