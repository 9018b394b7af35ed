from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dwaarx.certs.acme.problems import CaError, Problem
from tests.certs.acme.fake_ca import ERROR


def of(**document: Any) -> Problem:
    problem = Problem.of(document)
    assert problem is not None
    return problem


def test_the_words_of_the_ca_and_the_type() -> None:
    problem = of(type=f"{ERROR}dns", detail="NXDOMAIN looking up A for example.test.")
    assert problem.code == "dns"
    assert problem.sentence == "NXDOMAIN looking up A for example.test (dns)"


def test_the_name_at_fault_stands_before_what_does_not_name_it() -> None:
    identifier = {"type": "dns", "value": "example.test"}
    problem = of(type=f"{ERROR}caa", detail="CAA forbids", identifier=identifier)
    assert problem.sentence == "example.test: CAA forbids (caa)"
    problem = of(type=f"{ERROR}caa", detail="CAA of example.test forbids", identifier=identifier)
    assert problem.sentence == "CAA of example.test forbids (caa)"


def test_subproblems() -> None:
    parts = [
        {"type": f"{ERROR}caa", "detail": "No", "identifier": {"value": f"{name}.test"}}
        for name in ("a", "b")
    ]
    problem = of(type=f"{ERROR}compound", detail="Errors:", subproblems=parts)
    assert problem.sentence == "Errors (compound): a.test: No (caa); b.test: No (caa)"


def test_a_type_alone_and_a_title_alone() -> None:
    assert of(type=f"{ERROR}caa").sentence == "caa"
    assert of(title="Sorry").sentence == "Sorry"
    assert of(type="https://ca.test/odd", detail="x").sentence == "x (https://ca.test/odd)"


def test_control_characters_and_length_do_not_reach_the_log() -> None:
    assert of(detail="a\x1b[31m\nb\u202ec").sentence.isprintable()
    many = [{"detail": "x" * 10_000, "subproblems": [{"detail": "deeper"}]}] * 1000
    sentence = of(detail="x", subproblems=many).sentence
    assert len(sentence) < 6000
    assert "deeper" not in sentence


@pytest.mark.parametrize("document", [None, 5, [], {}, {"type": 5, "detail": []}])
def test_what_is_no_problem(document: object) -> None:
    assert Problem.of(document) is None


@given(
    st.dictionaries(
        st.sampled_from(["type", "title", "detail", "identifier", "subproblems", "value"]),
        st.recursive(
            st.none() | st.integers() | st.text(max_size=20),
            lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["value"]), inner),
            max_leaves=4,
        ),
    )
)
@settings(max_examples=100)
def test_no_document_raises(document: dict[str, Any]) -> None:
    problem = Problem.of(document)
    if problem is not None:
        assert isinstance(problem.error().reason, str)


@pytest.mark.parametrize(
    ("code", "status", "retry_after", "rejected", "passing"),
    [
        ("rejectedIdentifier", 403, None, True, False),
        ("unauthorized", 401, None, True, False),
        ("malformed", 400, None, True, False),
        ("rateLimited", 429, None, False, False),
        ("rateLimited", 400, 5.0, False, False),
        ("malformed", 429, None, False, False),
        ("badNonce", 400, None, False, False),
        ("serverInternal", 500, None, False, True),
        ("serverInternal", 400, None, False, True),
        ("malformed", 503, None, False, True),
        ("serverInternal", 503, 5.0, False, False),  # it says when
        ("orderNotReady", 403, None, False, True),
    ],
)
def test_what_is_a_no_and_what_passes(
    code: str, status: int, retry_after: float | None, rejected: bool, passing: bool
) -> None:
    error = of(type=ERROR + code, detail="x").error(retry_after, status=status)
    assert (error.code, error.retry_after) == (code, retry_after)
    assert (error.rejected, error.passing) == (rejected, passing)


def test_a_reason_is_one_line_whatever_a_ca_put_into_it() -> None:
    error = CaError("the order is \x1b[2Jok\nrevoked name=a \u202ex" + "y" * 10_000)
    assert error.reason.startswith("the order is [2Jok revoked name=a xyy")
    assert len(error.reason) < 2001
