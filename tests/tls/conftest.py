from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from dwaarx.tls.listener import Endpoint, Listener
from dwaarx.tls.policy import base_context
from tests.certs.pki import Entity, make_ca, make_leaf
from tests.tls.memory import certificate
from tests.tls.recorder import Recorder


@pytest.fixture(scope="module")
def ca() -> Entity:
    return make_ca()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(autouse=True)
def made() -> list[Recorder]:
    Recorder.made.clear()
    return Recorder.made


@pytest.fixture(scope="module")
def leaves(ca: Entity) -> dict[str, Entity]:
    return {name: make_leaf(ca, [name]) for name in ("a.example", "*.w.example", "dns.example")}


@pytest.fixture
def listener(clock: Clock, leaves: dict[str, Entity]) -> Listener:
    listener = Listener(Recorder, clock, base=base_context(), handshake=10, idle=60)
    http = (b"h2", b"http/1.1")
    listener.set_endpoints(
        [
            ("a.example", Endpoint(certificate(leaves["a.example"]), http)),
            ("*.w.example", Endpoint(certificate(leaves["*.w.example"]), http)),
            ("dns.example", Endpoint(certificate(leaves["dns.example"]), (b"dot",))),
        ]
    )
    return listener
