from __future__ import annotations

import contextlib
import subprocess
import tracemalloc
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, x25519
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from dwaarx.certs.crl import Crl, Revoked, distribution_points, verify
from dwaarx.certs.errors import CrlError
from tests.certs import crls, pki

URL = "http://crl.test/1.crl"
MINUTE = timedelta(minutes=1)
NOW = pki.utc_now()
ROOT = pki.make_ca("Root")
RSA_ROOT = pki.make_ca("RSA Root", key_type="rsa2048")
ENTRIES = [crls.entry(1), crls.entry(2, crls.reason(1)), crls.entry(3)]
ODD = bytes.fromhex("2a0304")


def check(data: bytes, issuer: pki.Entity = ROOT, now=NOW, url: str = URL) -> Crl:
    return verify(data, url, issuer.certificate, now)


def refusal(data: bytes, issuer: pki.Entity = ROOT, now=NOW, url: str = URL) -> str:
    with pytest.raises(CrlError) as caught:
        check(data, issuer, now, url)
    return str(caught.value)


def idp(full_name=(URL,), **kinds) -> bytes:
    kinds.setdefault("relative_name", None)
    options = {
        "only_contains_user_certs": False,
        "only_contains_ca_certs": False,
        "only_some_reasons": None,
        "indirect_crl": False,
        "only_contains_attribute_certs": False,
    } | kinds
    names = [x509.UniformResourceIdentifier(each) for each in full_name] or None
    value = x509.IssuingDistributionPoint(full_name=names, **options)
    return crls.of_list(value, critical=True)


# --- good ones --------------------------------------------------------------


@pytest.mark.parametrize("key_type", ["p256", "p384", "rsa2048", "ed25519"])
def test_who_is_revoked_since_when_and_why(key_type):
    ca = pki.make_ca("CA", key_type=key_type)
    at = NOW - timedelta(days=5)
    entries = [
        crls.entry(7, at=at),
        crls.entry(1 << 150, crls.reason(1), at=at),
        crls.entry(9, crls.reason(1, critical=True), at=at),
        crls.entry(11, crls.reason(6), at=at),
    ]
    crl = check(crls.make_crl(ca, entries, this_update=at, validity=6 * pki.DAY), ca)
    assert crl.this_update == at
    assert crl.next_update == at + 6 * pki.DAY
    assert crl.revocation(7) == Revoked(at, None)
    assert crl.revocation(1 << 150) == Revoked(at, x509.ReasonFlags.key_compromise)
    assert crl.revocation(9) == Revoked(at, x509.ReasonFlags.key_compromise)
    assert crl.revocation(11) == Revoked(at, x509.ReasonFlags.certificate_hold)
    assert crl.revocation(8) is None
    assert crl.revocation(-1) is None


def test_revoked_since_a_year_that_there_is_not():
    at = NOW - timedelta(days=5)
    entry = crls.entry(7, crls.reason(1), at=at)
    entry = entry.replace(f"{at:%Y%m%d%H%M%S}Z".encode(), b"00000101000000Z")
    revoked = check(crls.make_crl(ROOT, [entry])).revocation(7)
    assert revoked == Revoked(None, x509.ReasonFlags.key_compromise)
    assert str(revoked) == "the certificate is listed as revoked (keyCompromise)"


def test_what_operators_are_told():
    at = NOW.replace(year=2026, month=3, day=1, hour=9, minute=5, second=0)
    words = "the certificate is listed as revoked since 2026-03-01 09:05:00 UTC"
    assert str(Revoked(at, None)) == words
    assert str(Revoked(at, x509.ReasonFlags.key_compromise)) == f"{words} (keyCompromise)"


def test_an_issuer_whose_key_signs_nothing():
    key = x25519.X25519PrivateKey.generate().public_key()
    builder = (
        x509.CertificateBuilder()
        .subject_name(ROOT.certificate.subject)
        .issuer_name(ROOT.certificate.subject)
        .public_key(key)
        .serial_number(1)
        .not_valid_before(NOW)
        .not_valid_after(NOW + pki.DAY)
    )
    issuer = builder.sign(ROOT.key, hashes.SHA256())
    with pytest.raises(CrlError, match="neither RSA, ECDSA nor Ed25519"):
        verify(crls.make_crl(ROOT), URL, issuer, NOW)


def test_nobody_is_revoked():
    assert check(crls.make_crl(ROOT)).revocation(1) is None


def test_pem_is_read_too():
    der = crls.make_crl(ROOT, ENTRIES)
    pem = x509.load_der_x509_crl(der).public_bytes(Encoding.PEM)
    assert check(b"\n" + pem).revocation(2) is not None


@pytest.mark.parametrize("rsa_padding", [None, padding.PSS(padding.MGF1(hashes.SHA256()), 32)])
@pytest.mark.parametrize("digest", [hashes.SHA256(), hashes.SHA384(), hashes.SHA512()])
def test_what_cryptographys_builder_signs(rsa_padding, digest):
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(RSA_ROOT.certificate.subject)
        .last_update(NOW)
        .next_update(NOW + pki.DAY)
        .add_extension(x509.CRLNumber(5), critical=False)
        .add_revoked_certificate(
            x509.RevokedCertificateBuilder().serial_number(5).revocation_date(NOW).build()
        )
    )
    signed = builder.sign(RSA_ROOT.key, digest, rsa_padding=rsa_padding)
    crl = check(signed.public_bytes(Encoding.DER), RSA_ROOT)
    assert crl.revocation(5) == Revoked(NOW, None)


def test_what_openssl_signs(tmp_path):
    RSA_ROOT.write(tmp_path, "ca")
    at = NOW - timedelta(days=2)
    (tmp_path / "ca.cnf").write_text(
        "[ca]\ndefault_ca = here\n[here]\ndatabase = index.txt\ncertificate = ca.pem\n"
        "private_key = ca.key\ndefault_md = sha256\ncrlnumber = number\n"
        "crl_extensions = extensions\n[extensions]\nissuingDistributionPoint = critical, @point\n"
        f"[point]\nfullname = URI:{URL}\nonlyuser = TRUE\n"
    )
    (tmp_path / "number").write_text("1000\n")
    (tmp_path / "index.txt").write_text(
        f"R\t{NOW + pki.DAY:%y%m%d%H%M%SZ}\t{at:%y%m%d%H%M%SZ},keyCompromise\t0A\tunknown\t/CN=a\n"
        f"V\t{NOW + pki.DAY:%y%m%d%H%M%SZ}\t\t0B\tunknown\t/CN=b\n"
    )
    done = subprocess.run(
        ["openssl", "ca", "-config", "ca.cnf", "-gencrl", "-crldays", "3", "-out", "crl.pem"],
        cwd=tmp_path, capture_output=True, timeout=20, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    crl = check((tmp_path / "crl.pem").read_bytes(), RSA_ROOT, now=pki.utc_now())
    assert crl.revocation(10) == Revoked(at, x509.ReasonFlags.key_compromise)
    assert crl.revocation(11) is None
    assert crl.next_update - crl.this_update == 3 * pki.DAY


def test_a_certificate_taken_back_onto_the_good_side():
    crl = check(crls.make_crl(ROOT, [crls.entry(4, crls.reason(8))]))
    assert crl.revocation(4) is None


@pytest.mark.parametrize("number", [7, 11, 99])
def test_a_reason_that_nobody_knows_is_a_revocation_still(number):
    crl = check(crls.make_crl(ROOT, [crls.entry(4, crls.reason(number), at=NOW)]))
    assert crl.revocation(4) == Revoked(NOW, None)


def test_a_large_list_makes_no_objects():
    entries = [crls.entry(1 << 100 | serial, crls.reason(4)) for serial in range(100_000)]
    data = crls.make_crl(ROOT, entries)
    tracemalloc.start()
    try:
        crl = check(data)
        assert crl.revocation(1 << 100 | 99_999).reason is x509.ReasonFlags.superseded
        assert crl.revocation(5) is None
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # Three copies of the bytes while they are looked through, and nothing for each entry.
    assert peak < 4 * len(data)


# --- signatures, names ------------------------------------------------------


def test_another_key_and_another_name():
    assert refusal(crls.make_crl(ROOT, key=pki.make_key())) == (
        "the signature is not that of 'CN=Root'"
    )
    assert refusal(crls.make_crl(ROOT, key=RSA_ROOT.key)) == (
        "the signature is not that of 'CN=Root'"
    )
    assert refusal(crls.make_crl(RSA_ROOT)) == (
        "the CRL is of another CA: 'CN=RSA Root', not 'CN=Root'"
    )
    # An issuer of the same name with another key.
    assert "signature" in refusal(crls.make_crl(ROOT), pki.make_ca("Root"))


def test_weak_signatures():
    assert refusal(crls.make_crl(RSA_ROOT, sha1=True), RSA_ROOT) == (
        "the CRL is signed with SHA1, which is not accepted (SHA-256 or better is)"
    )
    builder = x509.CertificateRevocationListBuilder().issuer_name(ROOT.certificate.subject)
    signed = builder.last_update(NOW).next_update(NOW + pki.DAY).sign(ROOT.key, hashes.SHA224())
    assert "SHA224" in refusal(signed.public_bytes(Encoding.DER))


def test_an_unknown_algorithm():
    oid = pki.tlv(pki.OID, bytes.fromhex("2a8648ce3d040302"))
    data = crls.make_crl(ROOT).replace(oid, pki.tlv(pki.OID, bytes.fromhex("2a8648ce3d040377")))
    assert refusal(data).startswith("the CRL cannot be read: ")


def test_an_issuer_that_may_not_sign_lists():
    usage = pki.key_usage(digital_signature=True, key_cert_sign=True)
    leaf = pki.make_delegate(ROOT, usage=usage)
    assert "key usage lacks cRLSign" in refusal(crls.make_crl(leaf), leaf)
    # Without a key usage nothing is said, and so nothing is forbidden.
    silent = pki.make_delegate(ROOT)
    check(crls.make_crl(silent), silent)


# --- when -------------------------------------------------------------------


def test_the_dates_to_the_minute():
    data = crls.make_crl(ROOT, this_update=NOW, validity=pki.DAY)
    end = NOW + pki.DAY
    check(data, now=NOW - 5 * MINUTE)
    check(data, now=end + 5 * MINUTE)
    assert refusal(data, now=NOW - 6 * MINUTE) == (
        f"the CRL is not valid before {NOW:%Y-%m-%d %H:%M:%S} UTC"
    )
    assert refusal(data, now=end + 6 * MINUTE) == f"the CRL expired at {end:%Y-%m-%d %H:%M:%S} UTC"


def test_dates_that_make_no_sense():
    assert "until when" in refusal(crls.make_crl(ROOT, validity=None))
    assert "before it begins" in refusal(crls.make_crl(ROOT, validity=-MINUTE))


# --- what it is about -------------------------------------------------------


def test_its_distribution_point():
    check(crls.make_crl(ROOT, extensions=[idp()]))
    check(crls.make_crl(ROOT, extensions=[idp(["ldap://crl.test", URL])]))
    check(crls.make_crl(ROOT, extensions=[idp([], only_contains_user_certs=True)]))
    other = crls.make_crl(ROOT, extensions=[idp(["http://crl.test/2.crl"])])
    assert refusal(other) == f"the CRL is that of another distribution point, not of {URL}"
    check(other, url="http://crl.test/2.crl")


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ({"only_contains_ca_certs": True}, "only about CA certificates"),
        ({"only_contains_attribute_certs": True}, "only about attribute certificates"),
        ({"indirect_crl": True}, "indirect CRL"),
        (
            {"only_some_reasons": frozenset([x509.ReasonFlags.key_compromise])},
            "some of the reasons",
        ),
    ],
)
def test_lists_about_something_else(kind, reason):
    assert reason in refusal(crls.make_crl(ROOT, extensions=[idp(**kind)]))


def test_a_relative_distribution_point():
    relative = x509.RelativeDistinguishedName(list(pki.name("part 1")))
    extension = idp([], relative_name=relative)
    assert "relative to its issuer" in refusal(crls.make_crl(ROOT, extensions=[extension]))


@pytest.mark.parametrize("critical", [True, False])
def test_delta_lists(critical):
    delta = crls.of_list(x509.DeltaCRLIndicator(1), critical=critical)
    assert "delta CRL" in refusal(crls.make_crl(ROOT, ENTRIES, extensions=[delta]))


# --- extensions -------------------------------------------------------------


def test_critical_extensions_of_the_list():
    plain = pki.extension(ODD, b"\x05\x00", critical=False)
    number = crls.of_list(x509.CRLNumber(3), critical=False)
    check(crls.make_crl(ROOT, ENTRIES, extensions=[plain, number]))
    odd = pki.extension(ODD, b"\x05\x00", critical=True)
    assert "1.2.3.4" in refusal(crls.make_crl(ROOT, ENTRIES, extensions=[number, odd]))


def test_critical_extensions_of_an_entry_concern_every_entry():
    plain = crls.entry(8, pki.extension(ODD, b"\x05\x00", critical=False))
    check(crls.make_crl(ROOT, [*ENTRIES, plain]))
    odd = crls.entry(8, crls.reason(1), pki.extension(ODD, b"\x05\x00", critical=True))
    assert "an entry of the CRL has a critical extension" in refusal(
        crls.make_crl(ROOT, [*ENTRIES, odd, plain])
    )
    issuer = pki.extension(bytes.fromhex("551d1d"), b"\x30\x00", critical=True)
    assert "an entry of the CRL" in refusal(crls.make_crl(ROOT, [crls.entry(8, issuer)]))


def test_bytes_that_only_look_like_a_critical_extension():
    lookalike = int.from_bytes(b"\x01\x01\xff\x04\x06", "big")
    inside = pki.extension(ODD, b"\x01\x01\xff\x04", critical=False)
    entries = [crls.entry(lookalike), crls.entry(8, inside), *ENTRIES]
    assert check(crls.make_crl(ROOT, entries)).revocation(lookalike) is not None


# --- bytes that are nothing -------------------------------------------------


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the CRL cannot be read: it is empty"),
        (b"<!DOCTYPE html>", "the CRL cannot be read: it looks like a page of HTML or XML"),
        (b"not found", "the CRL cannot be read: it is text"),
        (b"\x04\x00\xff", "the CRL cannot be read: it begins with the byte 0x04"),
        (b"\x30\x03\x00", "the CRL cannot be read: it is cut off after 3 bytes"),
        (b"\x30\x00", "the CRL cannot be read: "),
        (b"-----BEGIN X509 CRL-----\n", "the CRL cannot be read: "),
        (pki.error_response(), "the CRL cannot be read: "),
        (ROOT.pem, "the CRL cannot be read: "),
    ],
)
def test_garbage(data, reason):
    assert refusal(data).startswith(reason)


def test_trailing_bytes_and_every_cut():
    data = crls.make_crl(ROOT, ENTRIES, extensions=[idp()])
    assert refusal(data + b"ab") == (
        "the CRL cannot be read: it is followed by bytes that are no part of it (2 of them)"
    )
    for length in range(1, len(data)):
        assert (
            refusal(data[:length]) == f"the CRL cannot be read: it is cut off after {length} bytes"
        )


def test_a_version_that_does_not_exist():
    data = crls.make_crl(ROOT).replace(b"\x02\x01\x01", b"\x02\x01\x07", 1)
    assert refusal(data).startswith("the CRL cannot be read: ")


GOOD = crls.make_crl(
    ROOT,
    [*ENTRIES, crls.entry(5, crls.reason(1, critical=True))],
    extensions=[crls.of_list(x509.CRLNumber(3), critical=False), idp()],
)


@settings(max_examples=500, deadline=None)
@given(
    changes=st.lists(
        st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=4
    )
)
def test_a_changed_list_says_the_same_or_is_refused(changes):
    changed = bytearray(GOOD)
    for place, value in changes:
        changed[place] = value
    with contextlib.suppress(CrlError):
        assert check(bytes(changed)).revocation(2) == check(GOOD).revocation(2)


@settings(max_examples=300, deadline=None)
@given(place=st.integers(0, len(GOOD)), cut=st.integers(0, 30), put=st.binary(max_size=30))
def test_a_spliced_list_says_the_same_or_is_refused(place, cut, put):
    with contextlib.suppress(CrlError):
        check(GOOD[:place] + put + GOOD[place + cut :]).revocation(2)


@settings(max_examples=300, deadline=None)
@given(
    entries=st.lists(st.binary(max_size=20), max_size=3),
    extensions=st.lists(st.binary(max_size=20), max_size=3),
    wrapped=st.booleans(),
)
def test_whatever_a_ca_signs_only_crl_errors_come_out(entries, extensions, wrapped):
    if wrapped:
        entries = [pki.tlv(pki.SEQUENCE, each) for each in entries]
        extensions = [pki.extension(ODD, each, critical=True) for each in extensions]
    with contextlib.suppress(CrlError):
        check(crls.make_crl(ROOT, entries, extensions=extensions)).revocation(1)


@settings(max_examples=200, deadline=None)
@given(
    inner=st.lists(
        st.sampled_from(
            [
                crls.reason(1),
                crls.reason(200),
                pki.extension(bytes.fromhex("551d15"), b"", critical=True),
                pki.extension(bytes.fromhex("551d18"), b"\x05\x00", critical=True),
                pki.extension(bytes.fromhex("551d1d"), b"\x05\x00", critical=False),
                pki.tlv(pki.SEQUENCE),
                b"\x01\x01\xff\x04",
            ]
        ),
        max_size=3,
    )
)
def test_odd_entries_of_a_ca(inner):
    with contextlib.suppress(CrlError):
        crl = check(crls.make_crl(ROOT, [crls.entry(1, *inner)]))
        assert crl.revocation(1) is not None


# --- where lists are --------------------------------------------------------


def point(*urls: str, reasons=None, crl_issuer=None, others=()) -> x509.DistributionPoint:
    names = [*others, *(x509.UniformResourceIdentifier(each) for each in urls)]
    issuer = [x509.DirectoryName(crl_issuer)] if crl_issuer is not None else None
    return x509.DistributionPoint(names or None, None, reasons, issuer)


def test_distribution_points():
    relative = x509.RelativeDistinguishedName(list(pki.name("part 1")))
    points = [
        point("http://a.test/1", "ldap://a.test/1", others=[x509.DNSName("a.test")]),
        point("http://b.test/1", reasons=frozenset([x509.ReasonFlags.key_compromise])),
        point("http://c.test/1", crl_issuer=pki.name("Other")),
        x509.DistributionPoint(None, relative, None, None),
        point("https://d.test/1", "http://a.test/1"),
    ]
    leaf = pki.make_leaf(ROOT, extra=[(x509.CRLDistributionPoints(points), False)])
    assert distribution_points(leaf.certificate) == (
        "http://a.test/1",
        "ldap://a.test/1",
        "https://d.test/1",
    )


def test_no_distribution_points():
    assert distribution_points(pki.make_leaf(ROOT).certificate) == ()
    broken = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.31"), b"\x05\x00")
    leaf = pki.make_leaf(ROOT, extra=[(broken, False)])
    assert distribution_points(leaf.certificate) == ()
