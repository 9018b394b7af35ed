from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from dwaarx.check import check, covers
from dwaarx.config import ConfigError, load
from tests.certs.pki import Entity, Written, make_ca, make_leaf, make_response, utc_now
from tests.config.test_reader import DWAAR

SITE = """\
a.test {
    tls leaf.pem leaf.key {
        ocsp leaf.der
    }
    respond x
}
"""


@pytest.fixture
def ca() -> Entity:
    return make_ca()


@pytest.fixture
def leaf(ca: Entity, tmp_path: Path) -> Entity:
    entity = make_leaf(ca, ["a.test", "*.b.test", "::1"])
    write(entity, tmp_path)
    return entity


def write(entity: Entity, folder: Path, stem: str = "leaf", *, chain: bool = True) -> Written:
    written = entity.write(folder, stem, chain=chain)
    written.key.chmod(0o600)
    return written


def checked(folder: Path, text: str = SITE) -> tuple[list[str], list[str]]:
    """Return errors and warnings as LINE:COL: message, the folder left out."""
    path = folder / "Dwaarfile"
    path.write_text(text)
    try:
        errors, warnings = check(load(path))
    except ConfigError as error:
        errors, warnings = list(error.problems), []

    def plain(problem: object) -> str:
        return str(problem).removeprefix(f"{path}:").replace(f"{folder}/", "")

    return list(map(plain, errors)), list(map(plain, warnings))


def test_all_is_well(leaf: Entity, tmp_path: Path) -> None:
    (tmp_path / "leaf.der").write_bytes(make_response(leaf))
    assert checked(tmp_path) == ([], [])


def test_without_a_staple_file(leaf: Entity, tmp_path: Path) -> None:
    assert checked(tmp_path, "a.test {\ntls leaf.pem leaf.key\n}") == ([], [])


def test_sites_that_need_no_files(tmp_path: Path) -> None:
    assert checked(tmp_path, "localhost { respond x }\nhttp://a.test { respond x }") == ([], [])


def test_problems_of_the_dwaarfile_come_first(tmp_path: Path) -> None:
    assert checked(tmp_path, "a.test {\ntls a b\nx\n}") == (
        ["3:1: `x` is not a directive of a site"],
        [],
    )


def test_dwaars_complete_example(tmp_path: Path) -> None:
    write(make_leaf(make_ca(), ["api.example.com"]), tmp_path, "api.example.com")
    text = DWAAR.replace("/etc/dwaar/certs/", "")
    errors, (warning,) = checked(tmp_path, text)
    assert errors == []
    assert warning.startswith("3:1: no public CA signs `example.com`: it is reserved for docume")
    assert checked(tmp_path, text.replace("example.com {", "dwaarx.org {", 1)) == ([], [])


def test_names_that_no_public_ca_signs(ca: Entity, tmp_path: Path) -> None:
    text = "nas, dwaarx.org, a.test {\n}"
    errors, warnings = checked(tmp_path, text)
    assert errors == []
    assert [warning.partition(";")[0] for warning in warnings] == [
        "1:1: no public CA signs `nas`: it has a single label",
        "1:18: no public CA signs `a.test`: `.test` is not in the public DNS",
    ]
    (tmp_path / "ca.pem").write_bytes(ca.pem)
    own = "{\nacme_ca https://ca.test/dir ca.pem\n}\n"
    assert checked(tmp_path, own + text) == ([], [])


def test_the_bundle_of_a_ca(ca: Entity, tmp_path: Path) -> None:
    text = "{\nacme_ca https://ca.test/dir ca.pem\n}"
    bundle = tmp_path / "ca.pem"
    assert checked(tmp_path, text) == (
        ["2:29: ca.pem: cannot be read: No such file or directory"],
        [],
    )
    for content in (b"", b"nonsense", ca.certificate.public_bytes(Encoding.DER)):
        bundle.write_bytes(content)
        assert checked(tmp_path, text) == (["2:29: ca.pem: holds no PEM certificate"], [])
    bundle.write_bytes("# Erzählungen\n".encode() + ca.pem + make_ca("Another").pem)
    assert checked(tmp_path, text) == ([], [])


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644])
def test_a_secret_that_every_user_can_read(
    mode: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DWAARX_TEST_KEY", "c2VjcmV0")
    eab = "{\nacme_ca https://ca.dwaarx.org/dir { eab k c2VjcmV0 }\n}\n"
    sites = "".join(
        f"{name}.dwaarx.org {{ tls {{ dns rfc2136 192.0.2.1 k c2VjcmV0 }} }}\n" for name in "ab"
    )
    path = tmp_path / "Dwaarfile"
    path.touch()
    path.chmod(mode)
    remedy = "every user can read this secret: chmod o-rwx Dwaarfile"
    # Once for each file, not once for each secret.
    for text, place in [(eab, "2:43"), (sites, "1:46"), (eab + sites, "2:43")]:
        expected = [f"{place}: {remedy}"] if mode == 0o644 else []
        assert checked(tmp_path, text) == ([], expected)
    for text in (eab, sites):
        assert checked(tmp_path, text.replace("c2VjcmV0", "{$DWAARX_TEST_KEY}")) == ([], [])


def test_files_that_are_missing(tmp_path: Path) -> None:
    assert checked(tmp_path) == (
        [
            "2:5: leaf.pem: cannot be read: No such file or directory",
            "3:14: leaf.der: cannot be read: No such file or directory",
        ],
        [],
    )


def test_a_key_that_does_not_match(leaf: Entity, tmp_path: Path) -> None:
    (tmp_path / "leaf.key").write_bytes(make_ca("Another").key_pem)
    (tmp_path / "leaf.der").write_bytes(make_response(leaf))
    errors, warnings = checked(tmp_path)
    assert errors == ["2:5: leaf.key: is not the key of the certificate in leaf.pem"]
    assert warnings == []


def test_a_certificate_that_is_none(leaf: Entity, tmp_path: Path) -> None:
    (tmp_path / "leaf.pem").write_text("nonsense")
    (tmp_path / "leaf.der").write_bytes(b"")
    errors, _warnings = checked(tmp_path)
    assert errors == ["2:5: leaf.pem: holds no PEM certificate"]


@pytest.mark.parametrize("days", [-40, 40])
def test_dates_are_a_warning(days: int, ca: Entity, tmp_path: Path) -> None:
    begin = utc_now() + timedelta(days=days)
    write(make_leaf(ca, ["a.test"], not_before=begin, lifetime=timedelta(days=30)), tmp_path)
    errors, (warning,) = checked(tmp_path, "a.test {\ntls leaf.pem leaf.key\n}")
    assert errors == []
    said = "leaf.pem expired at " if days < 0 else "leaf.pem is not valid before "
    assert warning.startswith(f"2:1: {said}")


def test_names_that_are_not_covered(leaf: Entity, tmp_path: Path) -> None:
    addresses = "a.test, x.b.test, x.y.b.test, b.test, [::1], http://c.test, :444"
    text = f"{addresses} {{\ntls leaf.pem leaf.key\n}}"
    assert checked(tmp_path, text) == (
        [],
        [
            "2:1: leaf.pem is not a certificate for x.y.b.test",
            "2:1: leaf.pem is not a certificate for b.test",
        ],
    )


@pytest.mark.parametrize(
    ("host", "covered"),
    [
        ("a.test", True),
        ("b.c.test", True),
        ("*.c.test", True),
        ("c.test", False),
        ("*.b.c.test", False),
        ("*.test", False),
        ("127.0.0.1", True),
        ("localhost", False),
    ],
)
def test_coverage(host: str, covered: bool) -> None:
    assert covers(["A.test", "*.c.test", "127.0.0.1"], host) is covered


def test_a_chain_without_the_issuer(ca: Entity, tmp_path: Path) -> None:
    write(make_leaf(ca, ["a.test"]), tmp_path, chain=False)
    assert checked(tmp_path, "a.test {\ntls leaf.pem leaf.key\n}") == (
        [],
        [
            (
                "2:1: leaf.pem does not hold its issuer's certificate: append it, for clients "
                "and staples need it"
            )
        ],
    )


def test_a_key_that_every_user_can_read(leaf: Entity, tmp_path: Path) -> None:
    text = "a.test {\ntls leaf.pem leaf.key\n}"
    (tmp_path / "leaf.key").chmod(0o644)
    expected = "2:1: every user can read the key leaf.key: chmod o-rwx leaf.key"
    assert checked(tmp_path, text) == ([], [expected])
    (tmp_path / "leaf.key").chmod(0o640)
    assert checked(tmp_path, text) == ([], [])


@pytest.mark.parametrize("key_type", ["rsa2048", "p256"])
def test_two_certificates_side_by_side(
    key_type: str, leaf: Entity, ca: Entity, tmp_path: Path
) -> None:
    write(make_leaf(ca, ["a.test"], key_type=key_type), tmp_path, "other")
    errors, warnings = checked(
        tmp_path, "a.test {\ntls leaf.pem leaf.key\ntls other.pem other.key\n}"
    )
    assert warnings == []
    if key_type == "p256":
        assert errors == [
            (
                "3:1: the keys of leaf.pem and other.pem are both ECDSA: certificates side by "
                "side have keys of different types"
            )
        ]
    else:
        assert errors == []


def test_an_empty_staple_file_is_a_warning(leaf: Entity, tmp_path: Path) -> None:
    text = SITE.replace("leaf.der", "/dev/null")
    assert checked(tmp_path, text) == ([], ["3:14: /dev/null: is empty; nothing is stapled"])


def test_a_staple_file_that_is_no_response_is_an_error(leaf: Entity, tmp_path: Path) -> None:
    (tmp_path / "leaf.der").write_bytes(b"-----BEGIN OCSP RESPONSE-----")
    assert checked(tmp_path) == (["3:14: leaf.der is not an OCSP response in DER"], [])
    text = SITE.replace("leaf.der", "/dev/zero")
    (error,), _warnings = checked(tmp_path, text)
    assert error.startswith("3:14: /dev/zero: cannot be read: is larger than")


def test_a_staple_that_cannot_be_used_is_a_warning_with_the_reason(
    leaf: Entity, ca: Entity, tmp_path: Path
) -> None:
    other = make_leaf(ca, ["a.test"])
    (tmp_path / "leaf.der").write_bytes(make_response(other))
    errors, (warning,) = checked(tmp_path)
    assert errors == []
    assert warning.startswith("3:14: leaf.der: the response is about another certificate")
    assert warning.endswith("; nothing is stapled")
    (tmp_path / "leaf.der").write_bytes(make_response(leaf, status="revoked"))
    _errors, (warning,) = checked(tmp_path)
    assert warning.startswith("3:14: leaf.der: the certificate is revoked")


def test_must_staple_without_a_staple(ca: Entity, tmp_path: Path) -> None:
    write(make_leaf(ca, ["a.test"], must_staple=True), tmp_path)
    errors, (warning,) = checked(tmp_path, "a.test {\ntls leaf.pem leaf.key\n}")
    assert errors == []
    assert warning.startswith("2:1: no staple file is given")
    assert warning.endswith("clients refuse this must-staple certificate without one")


def test_the_same_files_are_complained_about_once(leaf: Entity, tmp_path: Path) -> None:
    (tmp_path / "leaf.key").chmod(0o644)
    text = SITE.replace("leaf.der", "/dev/null")
    errors, warnings = checked(tmp_path, text + text.replace("a.test", "x.b.test"))
    assert errors == []
    assert len(warnings) == 2


def test_authorized_keys(tmp_path: Path) -> None:
    text = "{\nconsole ssh 127.0.0.1:5199 { authorized_keys keys }\n}"
    assert checked(tmp_path, text) == (
        ["2:46: keys: cannot be read: No such file or directory"],
        [],
    )
    keys = tmp_path / "keys"
    keys.write_text("# none\n\n")
    assert checked(tmp_path, text) == ([], ["2:46: keys holds no key: nobody can log in"])
    keys.write_text("ssh-ed25519 AAAA someone\n")
    assert checked(tmp_path, text) == ([], [])


def test_addresses_that_overlap(tmp_path: Path) -> None:
    text = "{\nhttp_port 0\n}\nlocalhost { }\na.localhost { bind 127.0.0.1 }"
    (error,), warnings = checked(tmp_path, text)
    assert error == (
        "5:1: cannot listen on both 127.0.0.1:443 and *:443 (the site at Dwaarfile:4:1): "
        "the second includes the first"
    )
    assert warnings == []


def test_local_records_that_cannot_stand_side_by_side(tmp_path: Path) -> None:
    soa = "record a.test SOA ns.test. me.test."
    text = f"resolvers {{\n{soa} 1 2 3 4 5\n}}"
    assert checked(tmp_path, text) == ([], [])
    text = f"resolvers {{\n{soa} 1 2 3 4 5\n{soa} 2 2 3 4 5\n}}"
    assert checked(tmp_path, text) == (["1:1: record a.test: more than one SOA"], [])
