"""One certificate on every kind of TLS listener, and what the service says of it."""

from __future__ import annotations

import ast
from typing import Any

from tests.system.ocsp_peers import ALLOW, Handshake, Pki, Site, curl_accepts, handshake
from tests.system.processes import Service, free_port, until


class Listeners:
    """One certificate on HTTPS, DNS over HTTPS and DNS over TLS."""

    def __init__(self, pki: Pki) -> None:
        self.pki = pki
        self.https, self.doh, self.dot = free_port(), free_port(), free_port()

    def dwaarfile(self, site: Site, options: str = ALLOW) -> str:
        """Serve it; `options` are global ones."""
        return f"""{{
    http_port 0
    {options}
}}
a.test:{self.https} {{
    bind 127.0.0.1
    {site.tls}
    dns_over_tls 127.0.0.1:{self.dot}
    respond hello
}}
a.test:{self.doh} {{
    bind 127.0.0.1
    {site.tls}
    dns_over_https
}}
"""

    def handshakes(self) -> list[Handshake]:
        """One on each."""
        return [
            handshake(port, "a.test", self.pki.trust) for port in (self.https, self.doh, self.dot)
        ]

    def staples(self, serial: int) -> set[bool]:
        """Whether there is a good staple, on each listener; the certificate must be this one."""
        seen = self.handshakes()
        assert {each.serial for each in seen} == {serial}
        assert all(each.good == each.stapled for each in seen)
        return {each.good for each in seen}

    def wait(self, site: Site) -> None:
        """Wait until there are staples, and have curl look at one."""
        until("the staple", lambda: self.staples(site.serial) == {True})
        assert curl_accepts(self.https, "a.test", self.pki.trust)


def shown(service: Service) -> dict[str, Any]:
    """The one row of showCertificates(), as text."""
    said = service.console("[{k: str(v) for k, v in row.items()} for row in showCertificates()]")
    [row] = ast.literal_eval(said)
    assert isinstance(row, dict)
    return row


def told(service: Service, event: str) -> list[str]:
    """The log lines of an event, with their levels."""
    return [line for line in service.log().splitlines() if f"] {event} " in line]
