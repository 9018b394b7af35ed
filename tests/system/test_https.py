"""HTTPS with certificates from files: curl, openssl, nghttp and their judgement of the staple."""

from __future__ import annotations

import http.client
import re
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.certs.pki import Entity, make_ca, make_leaf, make_response
from tests.system.processes import Service, free_port, openssl_client, run, serving

Serve = Callable[[str], Service]


class Setup:
    """Two names with certificates of a CA of the test's own, ECDSA beside RSA for the first."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.dot_port = free_port()
        self.ca = make_ca("Test CA")
        self.inter = make_ca("Test Intermediate", self.ca)
        self.root = self.ca.write(folder, "ca").root
        self.ecdsa = self.add("ecdsa", make_leaf(self.inter, ["a.test"]))
        self.rsa = self.add("rsa", make_leaf(self.inter, ["a.test"], key_type="rsa2048"))
        self.second = self.add("second", make_leaf(self.inter, ["b.test"]))
        self.dwaarfile = f"""
{{
    http_port 0
    bind 127.0.0.1
}}
a.test:{self.port} {{
    tls {folder}/ecdsa.pem {folder}/ecdsa.key {{
        ocsp {folder}/ecdsa.der
    }}
    tls {folder}/rsa.pem {folder}/rsa.key {{
        ocsp {folder}/rsa.der
    }}
    dns_over_tls 127.0.0.1:{self.dot_port}
    respond "a"
}}
b.test:{self.port} {{
    tls {folder}/second.pem {folder}/second.key {{
        ocsp {folder}/second.der
    }}
    respond "b"
}}
resolvers {{
    record hello.test A 127.0.0.1
}}
"""

    def add(self, stem: str, leaf: Entity) -> Entity:
        leaf.write(self.folder, stem)
        (self.folder / f"{stem}.der").write_bytes(make_response(leaf))
        return leaf


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Setup:
    return Setup(tmp_path_factory.mktemp("https"))


@pytest.fixture(scope="module")
def service(setup: Setup) -> Iterator[Service]:
    with serving(setup.folder, setup.dwaarfile) as running:
        yield running


def curl(setup: Setup, name: str, *words: str) -> str:
    return run("curl", "-sS", "--cacert", setup.root, "--resolve", f"{name}:{setup.port}:127.0.0.1",
               *words, f"https://{name}:{setup.port}/")  # fmt: skip


@pytest.mark.parametrize("version", ["--http1.0", "--http1.1", "--http2"])
@pytest.mark.parametrize("name", ["a", "b"])
def test_curl_verifies_certificate_and_staple(
    service: Service, setup: Setup, version: str, name: str
) -> None:
    assert curl(setup, f"{name}.test", "--cert-status", version) == name


@pytest.mark.parametrize("name", ["a.test", "b.test"])
def test_openssl_sees_the_staple_by_sni(service: Service, setup: Setup, name: str) -> None:
    said = openssl_client(setup.port, "-servername", name, ca=setup.root)
    assert "OCSP Response Status: successful (0x0)" in said
    assert "Cert Status: good" in said
    assert f"CN = {name}" in said


@pytest.mark.parametrize("words", [("-alpn", "dot"), ()])
def test_openssl_sees_the_staple_on_the_dot_port(
    service: Service, setup: Setup, words: tuple[str, ...]
) -> None:
    said = openssl_client(setup.dot_port, "-servername", "a.test", *words, ca=setup.root)
    assert "OCSP Response Status: successful (0x0)" in said
    assert ("ALPN protocol: dot" in said) is bool(words)


@pytest.mark.parametrize(
    ("algorithms", "leaf", "key"),
    [
        ("ECDSA+SHA256", "ecdsa", "id-ecPublicKey"),
        ("rsa_pss_rsae_sha256", "rsa", "rsaEncryption"),
    ],
)
@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_each_key_type_has_its_own_staple(
    service: Service, setup: Setup, algorithms: str, leaf: str, key: str, version: str
) -> None:
    said = openssl_client(setup.port, "-servername", "a.test", "-sigalgs", algorithms, version,
                          ca=setup.root)  # fmt: skip
    serial = getattr(setup, leaf).certificate.serial_number
    staple = said.partition("OCSP response:")[2].partition("Certificate chain")[0]
    assert f"Serial Number: {serial:032X}".lstrip("0") or key in said
    shown = re.search(r"Serial Number: ([0-9A-F]+)", staple)
    assert shown, said
    assert int(shown[1], 16) == serial


def test_no_sni_gets_the_first_site(service: Service, setup: Setup) -> None:
    said = openssl_client(setup.port, "-noservername", ca=setup.root)
    assert "CN = a.test" in said
    assert "OCSP Response Status: successful (0x0)" in said


def test_a_client_that_does_not_ask_gets_no_staple(service: Service, setup: Setup) -> None:
    said = run("openssl", "s_client", "-connect", f"127.0.0.1:{setup.port}", "-servername",
               "a.test", "-msg", check=False)  # fmt: skip
    assert "CertificateStatus" not in said
    assert "OCSP" not in said


@pytest.mark.parametrize("words", [("-tls1_1", "-cipher", "ALL:@SECLEVEL=0"),
                                   ("-tls1_2", "-cipher", "AES128-GCM-SHA256")])  # fmt: skip
def test_what_the_policy_refuses(service: Service, setup: Setup, words: tuple[str, ...]) -> None:
    said = openssl_client(setup.port, "-servername", "a.test", *words)
    assert "Cipher is (NONE)" in said
    assert curl(setup, "a.test") == "a"


def test_sessions_resume_across_names_and_renewals(
    service: Service, setup: Setup, tmp_path: Path
) -> None:
    session = tmp_path / "session"
    words = ["openssl", "s_client", "-connect", f"127.0.0.1:{setup.port}", "-servername", "a.test",
             "-tls1_2"]  # fmt: skip
    first = run(*words, "-sess_out", session, check=False)
    assert "New, TLSv1.2" in first
    service.console("reloadAllCertificates()")
    again = run(*words, "-sess_in", session, check=False)
    assert "Reused, TLSv1.2" in again


def test_a_host_of_nobody_is_misdirected(service: Service, setup: Setup) -> None:
    answer = curl(setup, "a.test", "-H", f"Host: other.test:{setup.port}", "-o", "/dev/null", "-w",
                  "%{http_code}")  # fmt: skip
    assert answer == "421"


def test_nghttp(service: Service, setup: Setup) -> None:
    said = run("nghttp", "-nv", "-H", f":authority: a.test:{setup.port}", "--no-verify-peer",
               f"https://127.0.0.1:{setup.port}/", check=False)  # fmt: skip
    assert ":status: 200" in said
    assert "The negotiated protocol: h2" in said


def test_malformed_requests_are_refused(service: Service, setup: Setup) -> None:
    context = ssl.create_default_context(cafile=str(setup.root))
    connection = http.client.HTTPSConnection("127.0.0.1", setup.port, context=context, timeout=20)
    context.check_hostname = False
    connection.connect()
    assert connection.sock is not None
    connection.sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
    answer = b""
    while piece := connection.sock.recv(65536):
        answer += piece
    assert answer.startswith(b"HTTP/1.1 400 ")


def test_plain_port_redirects(serve: Serve, tmp_path: Path) -> None:
    plain, tls, other = free_port(), free_port(), free_port()
    serve(
        f"""
{{
    http_port {plain}
    https_port {tls}
    bind 127.0.0.1
}}
localhost {{
    respond "secure"
}}
http://plain.localhost {{
    respond "plain"
}}
http://plain.localhost:{other} {{
    respond "other"
}}
"""
    )

    def get(port: int, host: str) -> str:
        return run("curl", "-sS", "-H", f"Host: {host}", "-w", " %{http_code} %{redirect_url}",
                   f"http://127.0.0.1:{port}/a?b=c")  # fmt: skip

    assert get(plain, f"localhost:{plain}").endswith(f"308 https://localhost:{tls}/a?b=c")
    assert get(plain, f"plain.localhost:{plain}") == "plain 200 "
    assert get(other, f"plain.localhost:{other}") == "other 200 "
    assert " 404 " in get(plain, "other.test")
