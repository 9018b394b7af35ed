"""Staples as dnsdist's users keep them: from files, generated and reloaded on the console."""

from __future__ import annotations

import re
import socket
import ssl
import struct
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import dns.message
import pytest

from tests.certs.pki import Entity, make_ca, make_leaf, make_response, utc_now
from tests.system.processes import Service, free_port, openssl_client, run

Serve = Callable[[str], Service]


class Dns:
    """A DoT and DoH service with a certificate of the test's own CA."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca = make_ca("Local CA")
        self.root = self.ca.write(folder, "ca").root
        self.port = free_port()
        self.https = free_port()
        self.staple = folder / "dns.ocsp.der"
        self.leaf = self.issue()

    def issue(self, **options: object) -> Entity:
        leaf = make_leaf(self.ca, ["dns.test"], **options)
        leaf.write(self.folder, "dns")
        return leaf

    def dwaarfile(self, staple: Path | None = None) -> str:
        return f"""
dns.test:{self.https} {{
    bind 127.0.0.1
    tls {self.folder}/dns.pem {self.folder}/dns.key {{
        ocsp {staple or self.staple}
    }}
    dns_over_tls 127.0.0.1:{self.port}
    dns_over_https
}}
resolvers {{
    record hello.test A 127.0.0.1
}}
"""

    def shown(self, port: int | None = None) -> tuple[str, bool]:
        """Return the serial of the certificate a new connection sees, and whether a good staple."""
        said = openssl_client(port or self.port, "-servername", "dns.test", ca=self.root)
        pem = re.search(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", said, re.DOTALL)
        assert pem, said
        serial = run("openssl", "x509", "-noout", "-serial", stdin=pem[0]).strip()
        return serial.removeprefix("serial="), (
            "OCSP Response Status: successful (0x0)" in said and "Cert Status: good" in said
        )


@pytest.fixture
def setup(tmp_path: Path) -> Dns:
    return Dns(tmp_path)


def hexadecimal(leaf: Entity) -> str:
    text = f"{leaf.certificate.serial_number:X}"
    return text if len(text) % 2 == 0 else f"0{text}"


def ask(sock: ssl.SSLSocket) -> str:
    query = dns.message.make_query("hello.test", "A").to_wire()
    sock.sendall(struct.pack("!H", len(query)) + query)
    size = struct.unpack("!H", sock.recv(2))[0]
    return str(dns.message.from_wire(sock.recv(size)).answer[0])


def test_new_certificate_and_response_by_the_console(setup: Dns, serve: Serve) -> None:
    setup.staple.write_bytes(make_response(setup.leaf))
    service = serve(setup.dwaarfile())
    assert setup.shown() == (hexadecimal(setup.leaf), True)
    context = ssl.create_default_context(cafile=str(setup.root))
    with (
        socket.create_connection(("127.0.0.1", setup.port), timeout=20) as raw,
        context.wrap_socket(raw, server_hostname="dns.test") as before,
    ):
        assert "127.0.0.1" in ask(before)
        renewed = setup.issue()
        folder = setup.folder
        said = service.console(
            f'generateOCSPResponse("{folder}/dns.pem", "{folder}/ca.pem", "{folder}/ca.key", '
            f'"{setup.staple}", 1, 30)'
        )
        assert str(setup.staple) in said
        # Until the reload, the present certificate and its staple stay.
        assert setup.shown() == (hexadecimal(setup.leaf), True)
        said = service.console("reloadAllCertificates()")
        assert f"{folder}/dns.pem" in said
        assert setup.shown() == (hexadecimal(renewed), True)
        assert setup.shown(setup.https) == (hexadecimal(renewed), True)
        assert "127.0.0.1" in ask(before)  # the connection opened before goes on
    shown = service.console("showCertificates()")
    assert "dns.test" in shown
    assert "good" in shown


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ('generateOCSPResponse("{f}/other.pem", "{f}/ca.pem", "{f}/ca.key", "{f}/out", 1)',
         "issued"),
        ('generateOCSPResponse("{f}/dns.pem", "{f}/ca.pem", "{f}/dns.key", "{f}/out", 1)', "key"),
        ('generateOCSPResponse("{f}/dns.pem", "{f}/ca.pem", "{f}/ca.key", "{f}/no/out", 1)',
         "no/out"),
        ('generateOCSPResponse("{f}/none.pem", "{f}/ca.pem", "{f}/ca.key", "{f}/out", 1)',
         "none.pem"),
        ('generateOCSPResponse("{f}/dns.pem", "{f}/ca.pem", "{f}/ca.key", "{f}/out", 0)', "0"),
    ],
)  # fmt: skip
def test_refusals_have_their_reason(setup: Dns, serve: Serve, expression: str, reason: str) -> None:
    make_leaf(make_ca("Other CA"), ["dns.test"]).write(setup.folder, "other")
    setup.staple.write_bytes(make_response(setup.leaf))
    service = serve(setup.dwaarfile())
    said = service.console(expression.format(f=setup.folder), check=False)
    assert reason in said
    assert "Traceback" not in said
    assert not (setup.folder / "out").exists()


def test_generated_response_lives_as_long_as_asked(setup: Dns, serve: Serve) -> None:
    setup.staple.write_bytes(make_response(setup.leaf))
    service = serve(setup.dwaarfile())
    folder = setup.folder
    service.console(
        f'generateOCSPResponse("{folder}/dns.pem", "{folder}/ca.pem", "{folder}/ca.key", '
        f'"{folder}/out.der", 2, 30)'
    )
    said = run("openssl", "ocsp", "-respin", folder / "out.der", "-issuer", folder / "ca.pem",
               "-cert", folder / "dns.pem", "-CAfile", folder / "ca.pem", "-text")  # fmt: skip
    assert "Response verify OK" in said
    assert "dns.pem: good" in said

    def minute(word: str) -> int:
        found = re.search(rf"{word}: \w+ +(\d+) (\d+):(\d+)", said)
        assert found
        day, hour, minutes = map(int, found.groups())
        return (day * 24 + hour) * 60 + minutes

    month = 60 * 24 * 28  # the test may run at a month's end
    length = (minute("Next Update") - minute("This Update")) % month
    assert length in range(2 * 24 * 60 + 29, 2 * 24 * 60 + 41)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("/dev/null", "empty"),
        (b"not an OCSP response", ""),
        ("expired", "expired"),
        ("revoked", "revoked"),
        ("other", ""),
        (None, "No such file"),
    ],
)
def test_unusable_staple_is_a_warning_with_file_and_reason(
    setup: Dns, serve: Serve, content: str | bytes | None, reason: str
) -> None:
    """The service starts, the handshake works, nothing is stapled."""
    path = setup.staple
    match content:
        case "/dev/null":
            path = Path("/dev/null")
        case "expired":
            old = timedelta(days=9)
            path.write_bytes(
                make_response(setup.leaf, validity=timedelta(days=1), this_update=utc_now() - old)
            )
        case "revoked":
            path.write_bytes(make_response(setup.leaf, status="revoked"))
        case "other":
            path.write_bytes(make_response(make_leaf(setup.ca, ["dns.test"])))
        case bytes():
            path.write_bytes(content)
    service = serve(setup.dwaarfile(path))
    assert setup.shown() == (hexadecimal(setup.leaf), False)
    log = service.log()
    warning = next(line for line in log.split("\n") if str(path) in line and "staple" in line)
    assert reason in warning, warning
    assert reason in service.console("showCertificates()")


def test_a_pair_that_cannot_be_loaded_keeps_the_former(setup: Dns, serve: Serve) -> None:
    setup.staple.write_bytes(make_response(setup.leaf))
    service = serve(setup.dwaarfile())
    key = (setup.folder / "dns.key").read_bytes()
    renewed = setup.issue()
    (setup.folder / "dns.key").write_bytes(key)  # half of the new pair is not there yet
    said = service.console("reloadAllCertificates()", check=False)
    assert str(setup.folder / "dns.") in said
    assert "kept" in said
    assert setup.shown() == (hexadecimal(setup.leaf), True)
    (setup.folder / "dns.key").write_bytes(renewed.key_pem)
    setup.staple.write_bytes(make_response(renewed))
    service.console("reloadAllCertificates()")
    assert setup.shown() == (hexadecimal(renewed), True)


def test_a_hangup_reads_certificates_too(setup: Dns, serve: Serve) -> None:
    """A renewal's hook may send SIGHUP; what it has only half written keeps its former."""
    setup.staple.write_bytes(make_response(setup.leaf))
    service = serve(setup.dwaarfile())
    key = (setup.folder / "dns.key").read_bytes()
    renewed = setup.issue()
    (setup.folder / "dns.key").write_bytes(key)
    service.hangup()
    assert f"kept the former files {setup.folder}/dns.pem" in service.log()
    assert setup.shown() == (hexadecimal(setup.leaf), True)
    (setup.folder / "dns.key").write_bytes(renewed.key_pem)
    setup.staple.write_bytes(make_response(renewed))
    service.hangup()
    assert setup.shown() == (hexadecimal(renewed), True)


def test_must_staple_without_staple_is_not_activated(setup: Dns, serve: Serve) -> None:
    setup.staple.write_bytes(make_response(setup.leaf))
    service = serve(setup.dwaarfile())
    must = setup.issue(must_staple=True)
    said = service.console("reloadAllCertificates()", check=False)
    assert "must" in said
    assert setup.shown() == (hexadecimal(setup.leaf), True)
    setup.staple.write_bytes(make_response(must))
    service.console("reloadAllCertificates()")
    assert setup.shown() == (hexadecimal(must), True)


def test_listeners_added_on_the_console(setup: Dns, serve: Serve) -> None:
    setup.staple.write_bytes(make_response(setup.leaf))
    service = serve(setup.dwaarfile())
    dot, doh, folder = free_port(), free_port(), setup.folder
    pair = f'"{folder}/dns.pem", "{folder}/dns.key"'
    options = f'{{"ocspResponses": ["{setup.staple}"]}}'
    service.console(f'addTLSLocal("127.0.0.1:{dot}", {pair}, {options})')
    service.console(f'addDOHLocal("127.0.0.1:{doh}", {pair}, ["/dns", "/q"], {options})')
    for port in (dot, doh):
        assert setup.shown(port) == (hexadecimal(setup.leaf), True)
    trust = (f"+tls-ca={setup.root}", "+tls-hostname=dns.test", "+short", "hello.test")
    assert run("kdig", f"@127.0.0.1#{dot}", "+tls", *trust) == "127.0.0.1\n"
    for path in ("/dns", "/q"):
        assert run("kdig", f"@127.0.0.1#{doh}", f"+https={path}", *trust) == "127.0.0.1\n"
    assert f"127.0.0.1:{dot}" in service.console("showTLSFrontends()")
    shown = service.console("showDOHFrontends()")
    assert f"127.0.0.1:{doh}" in shown
    assert "/q" in shown
    assert "console" in service.console("showBinds()")
    # They outlive a reload, and their certificates are reloaded with the others.
    service.hangup()
    assert run("kdig", f"@127.0.0.1#{dot}", "+tls", *trust) == "127.0.0.1\n"
    renewed = setup.issue()
    setup.staple.write_bytes(make_response(renewed))
    service.console("reloadAllCertificates()")
    for port in (dot, doh, setup.port):
        assert setup.shown(port) == (hexadecimal(renewed), True)
    # Refusals change nothing and name what is wrong.
    taken = service.console(f'addTLSLocal("127.0.0.1:{setup.port}", {pair})', check=False)
    assert "already" in taken
    wrong = service.console(f'addTLSLocal("127.0.0.1", {pair}, {{"ocspResponse": []}})',
                            check=False)  # fmt: skip
    assert "ocspResponses" in wrong
