"""A forwarder in memory, and upstreams on loopback that answer it."""

import pytest

from dwaarx.dns.forwarder import Forwarder
from tests.dns.fakes import Reactor, UdpServer


@pytest.fixture
def reactor():
    return Reactor()


@pytest.fixture
def server():
    server = UdpServer()
    yield server
    server.close()


@pytest.fixture
def second():
    server = UdpServer()
    yield server
    server.close()


@pytest.fixture
def forwarder(reactor, tmp_path):
    forwarder = Forwarder(reactor, tmp_path / "resolv.conf")
    yield forwarder
    forwarder.stop()
    assert reactor.getReaders() == []
