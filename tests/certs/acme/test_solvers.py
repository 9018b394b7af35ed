from __future__ import annotations

import pytest

from dwaarx.certs.acme.challenges import Challenges
from dwaarx.certs.acme.solvers import AlpnSolver, DnsSolver, HttpSolver

# The key authorization of RFC 8555 section 8.1, and its digest for the DNS.
TOKEN = "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA"
KEY_AUTHORIZATION = f"{TOKEN}.nP1qzpXGymHBrUEepNY9HCsQk7K8KhOypzEt62jcerQ"


def test_http() -> None:
    challenges = Challenges()
    solver = HttpSolver(challenges)
    solver.present("example.test", TOKEN, KEY_AUTHORIZATION)
    assert challenges.http_answer(TOKEN) == KEY_AUTHORIZATION.encode()
    solver.remove("example.test", TOKEN, KEY_AUTHORIZATION)
    assert challenges.http_answer(TOKEN) is None


def test_alpn() -> None:
    challenges = Challenges()
    solver = AlpnSolver(challenges)
    solver.present("example.test", TOKEN, KEY_AUTHORIZATION)
    assert challenges.alpn_context("example.test") is not None
    solver.remove("example.test", TOKEN, KEY_AUTHORIZATION)
    assert not challenges.alpn_pending


def test_dns(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, str, str]] = []

    class Records:
        def present(self, name: str, value: str) -> None:
            calls.append(("present", name, value))

        def remove(self, name: str, value: str) -> None:
            calls.append(("remove", name, value))

    solver = DnsSolver(Records())
    solver.present("*.example.test", TOKEN, KEY_AUTHORIZATION)
    solver.remove("*.example.test", TOKEN, KEY_AUTHORIZATION)
    assert [call[:2] for call in calls] == [
        ("present", "*.example.test"),
        ("remove", "*.example.test"),
    ]
    (value,) = {call[2] for call in calls}
    assert len(value) == 43
    assert "=" not in value
