from __future__ import annotations

import contextlib
import re
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from hypothesis import given, settings
from hypothesis import strategies as st

from dwaarx.certs.errors import OcspError, Refusal
from dwaarx.certs.ocsp import Staple, verify
from tests.certs import pki

MINUTE = timedelta(minutes=1)
NOW = pki.utc_now()
ROOT = pki.make_ca("Root")
INTERMEDIATE = pki.make_ca("Intermediate", ROOT)
RSA_ROOT = pki.make_ca("RSA Root", key_type="rsa2048")
LEAF = pki.make_leaf(ROOT)


def check(response: bytes, leaf: pki.Entity = LEAF, now=NOW) -> Staple:
    return verify(response, leaf.certificate, leaf.issuer.certificate, now)


def refusal(response: bytes, leaf: pki.Entity = LEAF, now=NOW) -> tuple[Refusal, str]:
    with pytest.raises(OcspError) as caught:
        check(response, leaf, now)
    assert str(caught.value) == caught.value.reason
    return caught.value.kind, caught.value.reason


# --- good ones --------------------------------------------------------------


@pytest.mark.parametrize("by_name", [False, True])
@pytest.mark.parametrize(
    "cert_id_hash",
    [hashes.SHA1(), hashes.SHA224(), hashes.SHA256(), hashes.SHA384(), hashes.SHA512()],
    ids=lambda each: each.name,
)
def test_by_the_issuer_with_a_certid_in_any_hash(cert_id_hash, by_name):
    begin = NOW - timedelta(hours=2)
    response = pki.make_response(
        LEAF, cert_id_hash=cert_id_hash, by_name=by_name, this_update=begin
    )
    staple = check(response)
    assert staple.der == response
    assert staple.this_update == begin
    assert staple.next_update == staple.end == begin + timedelta(days=3)
    assert "der" not in repr(staple)


@pytest.mark.parametrize("key_type", ["p256", "p384", "p521", "rsa2048", "ed25519"])
@pytest.mark.parametrize("sign_hash", [hashes.SHA256(), hashes.SHA384(), hashes.SHA512()])
def test_every_signature(key_type, sign_hash):
    leaf = pki.make_leaf(pki.make_ca("CA", key_type=key_type))
    check(pki.make_response(leaf, sign_hash=sign_hash), leaf)


@pytest.mark.parametrize("parent", [ROOT, INTERMEDIATE, RSA_ROOT])
@pytest.mark.parametrize("key_type", ["p256", "rsa2048"])
@pytest.mark.parametrize("by_name", [False, True])
def test_by_a_delegate(parent, key_type, by_name):
    leaf = pki.make_leaf(parent)
    usage = pki.key_usage(digital_signature=True)
    delegate = pki.make_delegate(parent, key_type=key_type, usage=usage)
    check(pki.make_response(leaf, delegate, by_name=by_name), leaf)
    # With more certificates than needed, in any order.
    check(pki.make_response(leaf, delegate, by_name=by_name, embed=[ROOT, delegate, parent]), leaf)


def test_by_an_intermediate_with_and_without_certificates():
    leaf = pki.make_leaf(INTERMEDIATE)
    check(pki.make_response(leaf), leaf)
    check(pki.make_response(leaf, embed=[INTERMEDIATE]), leaf)
    check(pki.make_response(leaf, embed=[INTERMEDIATE, ROOT]), leaf)


def test_a_delegate_with_the_name_of_its_issuer():
    delegate = pki.make_delegate(ROOT, "Root")
    check(pki.make_response(LEAF, delegate, by_name=True))
    # And the issuer's own signature, while such a delegate lies beside it.
    check(pki.make_response(LEAF, by_name=True, embed=[delegate]))


def test_a_nonce_does_no_harm():
    for critical in (False, True):
        check(pki.make_response(LEAF, extensions=[(x509.OCSPNonce(b"nonce"), critical)]))


def test_the_end_is_the_certificates_if_that_is_sooner():
    leaf = pki.make_leaf(ROOT, not_before=NOW - pki.DAY, lifetime=2 * pki.DAY)
    staple = check(pki.make_response(leaf), leaf)
    assert staple.next_update > leaf.certificate.not_valid_after_utc
    assert staple.end == leaf.certificate.not_valid_after_utc


def test_the_end_is_the_delegates_if_that_is_sooner():
    delegate = pki.make_delegate(ROOT, not_before=NOW - pki.DAY, lifetime=pki.DAY + 2 * MINUTE)
    staple = check(pki.make_response(LEAF, delegate))
    assert staple.end == delegate.certificate.not_valid_after_utc < staple.next_update


def test_assembled_by_hand_with_an_explicit_version():
    check(pki.assemble(ROOT, [pki.single(LEAF)]))
    # The default must not be encoded in DER; OpenSSL reads it, and so the walk must not trip.
    with contextlib.suppress(OcspError):
        check(pki.assemble(ROOT, [pki.single(LEAF)], version=True))


# --- several single responses -----------------------------------------------


def test_ours_among_several():
    others = [pki.single(pki.make_leaf(ROOT)) for _ in range(3)]
    for place in range(4):
        singles = [*others[:place], pki.single(LEAF), *others[place:]]
        check(pki.assemble(ROOT, singles))
    kind, reason = refusal(pki.assemble(ROOT, others))
    assert kind is Refusal.MISMATCH
    assert f"this one's is {LEAF.certificate.serial_number:x}" in reason


def test_of_two_about_ours_the_newer_counts():
    old = pki.single(LEAF, this_update=NOW - timedelta(days=2))
    new = pki.single(LEAF, this_update=NOW - timedelta(days=1))
    for singles in ([old, new], [new, old]):
        staple = check(pki.assemble(ROOT, singles))
        assert staple.this_update == NOW - timedelta(days=1)


def test_of_two_as_new_about_ours_the_bad_one_counts():
    singles = [pki.single(LEAF), pki.single(LEAF, status=pki.revoked(1))]
    for each in (singles, singles[::-1]):
        assert refusal(pki.assemble(ROOT, each))[0] is Refusal.REVOKED


def test_no_single_response():
    assert refusal(pki.assemble(ROOT, [])) == (
        Refusal.MISMATCH,
        "the response says nothing about any certificate",
    )


def test_a_hundred_strangers_make_no_long_sentence():
    singles = [pki.single(pki.make_leaf(ROOT)) for _ in range(20)]
    _, reason = refusal(pki.assemble(ROOT, singles))
    assert len(reason) < 400


def test_an_unknown_certid_hash():
    md5 = pki.tlv(pki.SEQUENCE, pki.tlv(pki.OID, bytes.fromhex("2a864886f70d0205")), b"\x05\x00")
    kind, reason = refusal(pki.assemble(ROOT, [pki.single(LEAF, algorithm=md5)]))
    assert kind is Refusal.UNSUPPORTED
    assert "algorithm" in reason
    # Beside one that can be read it does not matter.
    check(pki.assemble(ROOT, [pki.single(LEAF, algorithm=md5), pki.single(LEAF)]))


# --- extensions -------------------------------------------------------------

ODD = bytes.fromhex("2a0304")


def test_critical_extensions_of_a_single():
    plain = pki.extension(ODD, b"\x05\x00", critical=False)
    critical = pki.extension(ODD, b"\x05\x00", critical=True)
    check(pki.assemble(ROOT, [pki.single(LEAF, extensions=[plain])]))
    kind, reason = refusal(pki.assemble(ROOT, [pki.single(LEAF, extensions=[plain, critical])]))
    assert kind is Refusal.UNSUPPORTED
    assert "critical extension" in reason
    # In what is said about others it does not matter.
    stranger = pki.single(pki.make_leaf(ROOT), extensions=[critical])
    check(pki.assemble(ROOT, [stranger, pki.single(LEAF, extensions=[plain])]))


def test_critical_extensions_of_the_response():
    odd = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
    check(pki.make_response(LEAF, extensions=[(odd, False)]))
    kind, reason = refusal(pki.make_response(LEAF, extensions=[(odd, True)]))
    assert kind is Refusal.UNSUPPORTED
    assert "1.2.3.4" in reason


# --- what it says -----------------------------------------------------------


def test_revoked_and_unknown_are_told_apart():
    kind, reason = refusal(pki.make_response(LEAF, status="revoked"))
    assert kind is Refusal.REVOKED
    assert reason.startswith("the certificate is revoked since ")
    assert "(keyCompromise)" in reason
    kind, reason = refusal(pki.make_response(LEAF, status="unknown"))
    assert kind is Refusal.UNKNOWN


def test_a_revocation_says_since_when_and_why():
    at = NOW - timedelta(days=3)
    for number, reason in [
        (1, x509.ReasonFlags.key_compromise),
        (4, x509.ReasonFlags.superseded),
        (6, x509.ReasonFlags.certificate_hold),
        (99, None),
    ]:
        response = pki.assemble(ROOT, [pki.single(LEAF, status=pki.revoked(number, at))])
        with pytest.raises(OcspError) as caught:
            check(response)
        assert caught.value.kind is Refusal.REVOKED
        assert caught.value.revoked_at == at
        assert caught.value.revocation_reason is reason
    with pytest.raises(OcspError) as caught:
        check(pki.make_response(LEAF, status="unknown"))
    assert caught.value.revoked_at is None
    assert caught.value.revocation_reason is None


def test_what_was_never_issued_is_not_revoked():
    """RFC 6960 section 2.2: on hold since 1970, until the responder hears of the certificate."""
    never = datetime(1970, 1, 1, tzinfo=UTC)
    kind, reason = refusal(pki.assemble(ROOT, [pki.single(LEAF, status=pki.revoked(6, never))]))
    assert kind is Refusal.UNKNOWN
    assert reason == "the responder says that the certificate was never issued"
    for status in (pki.revoked(1, never), pki.revoked(6, never + MINUTE)):
        response = pki.assemble(ROOT, [pki.single(LEAF, status=status)])
        assert refusal(response)[0] is Refusal.REVOKED


def test_a_revocation_does_not_grow_old_but_must_be_signed():
    old = NOW - timedelta(days=30)
    kind, _ = refusal(pki.make_response(LEAF, status="revoked", this_update=old))
    assert kind is Refusal.REVOKED
    forged = pki.make_response(LEAF, status="revoked", key=pki.make_key())
    assert refusal(forged)[0] is Refusal.SIGNATURE


@pytest.mark.parametrize("number", [7, 11, 99])
def test_revoked_for_a_reason_that_nobody_knows(number):
    kind, reason = refusal(pki.assemble(ROOT, [pki.single(LEAF, status=pki.revoked(number))]))
    assert kind is Refusal.REVOKED
    assert re.fullmatch(r"the certificate is revoked since [-0-9: ]+ UTC", reason)
    _, reason = refusal(pki.assemble(ROOT, [pki.single(LEAF, status=pki.revoked(1))]))
    assert reason.endswith("UTC (keyCompromise)")


@pytest.mark.parametrize("status", ["TRY_LATER", "UNAUTHORIZED", "MALFORMED_REQUEST"])
def test_errors_of_the_responder(status):
    kind, reason = refusal(pki.error_response(status))
    assert kind is Refusal.UNSUCCESSFUL
    assert status.lower().replace("_", " ") in reason


# --- about whom -------------------------------------------------------------


def test_another_certificate_of_the_same_issuer():
    other = pki.make_leaf(ROOT)
    kind, reason = refusal(pki.make_response(other))
    assert kind is Refusal.MISMATCH
    assert f"serial {other.certificate.serial_number:x}" in reason


def test_the_same_serial_of_another_issuer():
    other = pki.make_leaf(pki.make_ca("Other"), serial=LEAF.certificate.serial_number)
    kind, reason = refusal(pki.make_response(other))
    assert kind is Refusal.MISMATCH
    assert "another issuer" in reason


def test_the_same_serial_of_an_issuer_of_the_same_name_with_another_key():
    former = pki.make_leaf(pki.make_ca("Root"), serial=LEAF.certificate.serial_number)
    kind, reason = refusal(pki.make_response(former, signer=ROOT))
    assert kind is Refusal.MISMATCH
    assert "another issuer" in reason


def test_an_issuer_of_the_same_name_with_another_key():
    impostor = pki.make_ca("Root")
    with pytest.raises(OcspError) as caught:
        verify(pki.make_response(LEAF), LEAF.certificate, impostor.certificate, NOW)
    assert caught.value.kind is Refusal.NO_ISSUER


# --- by whom ----------------------------------------------------------------


def test_a_signature_by_a_stranger():
    stranger = pki.make_ca("Stranger")
    response = pki.make_response(LEAF, stranger, issuer=ROOT, embed=[])
    assert refusal(response)[0] is Refusal.SIGNER
    kind, reason = refusal(pki.make_response(LEAF, stranger, issuer=ROOT))
    assert kind is Refusal.SIGNER
    assert "was not issued by the certificate's issuer" in reason


def test_a_delegate_that_is_not_embedded():
    delegate = pki.make_delegate(ROOT)
    kind, reason = refusal(pki.make_response(LEAF, delegate, embed=[]))
    assert kind is Refusal.SIGNER
    assert "neither by the certificate's issuer nor by a delegate" in reason
    # Named like the issuer it is taken for the issuer, whose signature it is not.
    namesake = pki.make_delegate(ROOT, "Root")
    assert (
        refusal(pki.make_response(LEAF, namesake, by_name=True, embed=[]))[0] is Refusal.SIGNATURE
    )


def test_a_delegate_of_the_issuers_issuer():
    leaf = pki.make_leaf(INTERMEDIATE)
    kind, reason = refusal(pki.make_response(leaf, pki.make_delegate(ROOT)), leaf)
    assert kind is Refusal.SIGNER
    assert "was not issued by" in reason


def test_the_root_does_not_speak_for_its_intermediates_leaves():
    leaf = pki.make_leaf(INTERMEDIATE)
    assert refusal(pki.make_response(leaf, ROOT), leaf)[0] is Refusal.SIGNER


@pytest.mark.parametrize(
    ("delegate", "reason"),
    [
        (pki.make_delegate(ROOT, ocsp_signing=False), "OCSPSigning"),
        (pki.make_delegate(ROOT, usage=pki.key_usage(key_agreement=True)), "digitalSignature"),
        (pki.make_delegate(ROOT, not_before=NOW - 9 * pki.DAY, lifetime=pki.DAY), "expired at"),
        (pki.make_delegate(ROOT, not_before=NOW + pki.DAY), "is not valid before"),
        (pki.make_leaf(ROOT, ["server"]), "OCSPSigning"),
        (pki.make_ca("Sub", ROOT), "OCSPSigning"),
    ],
)
def test_delegates_that_may_not(delegate, reason):
    kind, said = refusal(pki.make_response(LEAF, delegate))
    assert kind is Refusal.SIGNER
    assert reason in said


def test_a_delegate_with_an_odd_critical_extension():
    odd = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
    check(pki.make_response(LEAF, pki.make_delegate(ROOT, extra=[(odd, False)])))
    bad = pki.make_delegate(ROOT, extra=[(odd, True)])
    kind, reason = refusal(pki.make_response(LEAF, bad))
    assert kind is Refusal.UNSUPPORTED
    assert "critical extension" in reason


def test_a_good_delegate_beside_a_bad_one_of_the_same_name():
    bad = pki.make_delegate(ROOT, "Responder", ocsp_signing=False)
    good = pki.make_delegate(ROOT, "Responder")
    check(pki.make_response(LEAF, good, by_name=True, embed=[bad, good]))
    check(pki.make_response(LEAF, good, by_name=True, embed=[good, bad]))


# --- signatures -------------------------------------------------------------


@pytest.mark.parametrize("signer", [None, pki.make_delegate(ROOT)])
def test_a_signature_by_another_key(signer):
    kind, reason = refusal(pki.make_response(LEAF, signer, key=pki.make_key()))
    assert kind is Refusal.SIGNATURE
    assert "the signature is not that of" in reason


@pytest.mark.parametrize(
    ("key_type", "other"), [("p256", "rsa2048"), ("rsa2048", "ed25519"), ("ed25519", "p256")]
)
def test_a_signature_by_a_key_of_another_type(key_type, other):
    leaf = pki.make_leaf(pki.make_ca("CA", key_type=key_type))
    kind, _ = refusal(pki.make_response(leaf, key=pki.make_key(other)), leaf)
    assert kind in {Refusal.SIGNATURE, Refusal.UNSUPPORTED}


def test_sha1_and_sha224_signatures_are_refused():
    leaf = pki.make_leaf(RSA_ROOT)
    kind, reason = refusal(pki.assemble(RSA_ROOT, [pki.single(leaf)]), leaf)
    assert kind is Refusal.UNSUPPORTED
    assert reason == "the signature is made with SHA1, which is not accepted (SHA-256 or better is)"
    kind, reason = refusal(pki.make_response(LEAF, sign_hash=hashes.SHA224()))
    assert kind is Refusal.UNSUPPORTED
    assert "SHA224" in reason


def test_a_delegate_whose_certificate_is_signed_with_sha224():
    delegate = pki.make_delegate(ROOT, sign_hash=hashes.SHA224())
    kind, reason = refusal(pki.make_response(LEAF, delegate))
    assert kind is Refusal.UNSUPPORTED
    assert "weak signature" in reason


# --- when -------------------------------------------------------------------


def test_the_dates_to_the_minute():
    begin, validity = NOW - pki.DAY, 2 * pki.DAY
    response = pki.make_response(LEAF, this_update=begin, validity=validity)
    end = begin + validity
    check(response, now=begin - 5 * MINUTE)
    check(response, now=end + 5 * MINUTE)
    kind, reason = refusal(response, now=begin - 6 * MINUTE)
    assert kind is Refusal.NOT_YET
    assert f"{begin:%Y-%m-%d %H:%M:%S} UTC" in reason
    kind, reason = refusal(response, now=end + 6 * MINUTE)
    assert kind is Refusal.EXPIRED
    assert f"{end:%Y-%m-%d %H:%M:%S} UTC" in reason


def test_no_next_update():
    kind, reason = refusal(pki.make_response(LEAF, validity=None))
    assert kind is Refusal.EXPIRED
    assert "until when" in reason


# --- bytes that are nothing --------------------------------------------------


@pytest.mark.parametrize("data", [b"", b"\x30", b"\x30\x00", b"hello", b"-----BEGIN OCSP"])
def test_garbage(data):
    assert refusal(data)[0] is Refusal.MALFORMED


def test_trailing_bytes_and_every_cut():
    response = pki.make_response(LEAF)
    assert refusal(response + b"\x00")[0] is Refusal.MALFORMED
    for length in range(len(response)):
        assert refusal(response[:length])[0] is Refusal.MALFORMED


@pytest.mark.parametrize("tag", [0x00, 0x02, 0x18, 0x1F, 0x30, 0xFF])
def test_a_name_whose_string_has_another_tag(tag):
    # cryptography says KeyError for some of them.
    response = pki.make_response(LEAF, pki.make_delegate(ROOT), by_name=True)
    place = response.index(b"\x0c\x13Test OCSP Responder")
    changed = bytearray(response)
    changed[place] = tag
    assert refusal(bytes(changed))[0] in (Refusal.MALFORMED, Refusal.SIGNER, Refusal.SIGNATURE)


RESPONSES = [
    pki.make_response(LEAF),
    pki.make_response(LEAF, pki.make_delegate(ROOT), by_name=True),
    pki.assemble(ROOT, [pki.single(pki.make_leaf(ROOT)), pki.single(LEAF)]),
]


@settings(max_examples=600, deadline=None)
@given(
    response=st.sampled_from(RESPONSES),
    changes=st.lists(st.tuples(st.integers(0, 1200), st.integers(0, 255)), min_size=1, max_size=4),
)
def test_a_changed_response_says_the_same_or_is_refused(response, changes):
    good = check(response)
    changed = bytearray(response)
    for place, value in changes:
        changed[place % len(changed)] = value
    with contextlib.suppress(OcspError):
        staple = check(bytes(changed))
        assert (staple.this_update, staple.end) == (good.this_update, good.end)


@settings(max_examples=300, deadline=None)
@given(
    response=st.sampled_from(RESPONSES),
    place=st.integers(0, 1200),
    cut=st.integers(0, 30),
    put=st.binary(max_size=30),
)
def test_a_spliced_response_says_the_same_or_is_refused(response, place, cut, put):
    good = check(response)
    place %= len(response)
    changed = response[:place] + put + response[place + cut :]
    with contextlib.suppress(OcspError):
        staple = check(changed)
        assert (staple.this_update, staple.end) == (good.this_update, good.end)
