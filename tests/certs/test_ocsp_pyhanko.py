"""The verdict on a response, beside that of pyhanko-certvalidator."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from asn1crypto import x509
from cryptography.hazmat.primitives.serialization import Encoding
from pyhanko_certvalidator import ValidationContext
from pyhanko_certvalidator.authority import CertTrustAnchor
from pyhanko_certvalidator.errors import OCSPValidationError, RevokedError
from pyhanko_certvalidator.path import ValidationPath
from pyhanko_certvalidator.revinfo.validate_ocsp import verify_ocsp_response

from tests.certs import pki
from tests.certs.ocsp_cases import MATRIX, made


def pyhanko_verdict(response: bytes, leaf: pki.Entity) -> tuple[bool, str]:
    """Whether pyhanko-certvalidator finds the response good, and what it says if not."""
    chain = [x509.Certificate.load(each.public_bytes(Encoding.DER)) for each in leaf.chain]
    path = ValidationPath(CertTrustAnchor(chain[-1]), chain[-2:0:-1], chain[0])
    try:
        context = ValidationContext(
            trust_roots=chain[-1:],
            other_certs=chain[1:-1],
            ocsps=[response],
            allow_fetching=False,
            time_tolerance=timedelta(minutes=5),
        )
        asyncio.run(verify_ocsp_response(chain[0], path, context))
    except (OCSPValidationError, RevokedError, ValueError) as error:
        return False, f"{type(error).__name__}: {error}"
    except (AttributeError, KeyError) as error:
        # What it says of a hash, or of a number for a reason, that it does not know.
        return False, f"{type(error).__name__}: {error}"
    return True, ""


@pytest.mark.parametrize(("name", "where"), MATRIX)
def test_pyhanko_agrees_or_it_is_known_why_not(name, where):
    case, leaf, response = made(name, where)
    good, said = pyhanko_verdict(response, leaf)
    assert good is case.expected(case.pyhanko), said
    case.judge(leaf, response)
