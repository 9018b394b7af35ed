from __future__ import annotations

import pytest

from dwaarx.config.errors import MAX_PROBLEMS
from dwaarx.config.reserved import is_internal, why_unsigned
from tests.config.reading import read


@pytest.mark.parametrize(
    ("host", "internal"),
    [
        ("localhost", True),
        ("*.localhost", True),
        ("a.b.local", True),
        ("internal", True),
        ("home.arpa", True),
        ("a.home.arpa", True),
        ("arpa", False),
        ("notlocalhost", False),
        ("a.notlocal", False),
        ("localhost.a.test", False),
        ("127.0.0.1", True),
        ("::1", True),
        ("a1", False),
    ],
)
def test_internal(host: str, internal: bool) -> None:
    assert is_internal(host) is internal


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("a.dwaarx.org", None),
        ("*.dwaarx.org", None),
        ("test.org", None),
        ("example.co.uk", None),
        ("notexample.com", None),
        ("xn--bcher-kva.xn--p1ai", None),
        ("intranet", "it has a single label"),
        ("*.org", "it would hold for all of `.org`"),
        ("example.com", "it is reserved for documentation"),
        ("*.a.example.net", "it is reserved for documentation"),
        ("a_b.dwaarx.org", "it holds an underscore"),
        ("4.3.2.1.in-addr.arpa", "`.arpa` is reserved"),
        *(
            (f"{left}.{top}", f"`.{top}` is not in the public DNS")
            for left in ("a", "*.a")
            for top in ("test", "example", "invalid", "lan", "corp", "home", "mail", "onion", "alt")
        ),
    ],
)
def test_what_no_public_ca_signs(name: str, reason: str | None) -> None:
    assert why_unsigned(name) == reason


def warnings(text: str) -> list[str]:
    return [str(warning).removeprefix("Dwaarfile:") for warning in read(text).warnings]


def test_warnings_have_their_places() -> None:
    remedy = "give `tls internal`, `tls CERT KEY` or an `acme_ca` with a bundle of its own"
    text = "a.test,localhost,http://b.test,\ndwaarx.org,nas { }\nc.test { tls internal }"
    assert warnings(text) == [
        f"1:1: no public CA signs `a.test`: `.test` is not in the public DNS; {remedy}",
        f"2:12: no public CA signs `nas`: it has a single label; {remedy}",
    ]


@pytest.mark.parametrize(
    ("cas", "warned"),
    [
        ("acme_ca https://ca.test/ ca.pem", False),
        ("acme_ca http://127.0.0.1:14000/dir", False),
        ("acme_ca https://ca.test/", True),
        ("acme_ca https://ca.test/ ca.pem\nacme_ca https://ca2.test/", True),
    ],
)
def test_a_ca_of_ones_own_may_sign_anything(cas: str, warned: bool) -> None:
    assert bool(warnings(f"{{\n{cas}\n}}\na.test {{ }}")) is warned


def test_of_many_warnings_the_first_are_shown() -> None:
    found = warnings(", ".join(f"n{n}.test" for n in range(1100)) + " { }")
    assert len(found) == MAX_PROBLEMS + 1
    assert found[-1].endswith(": and 1,050 more like these")
