from pathlib import Path

import pytest

from dwaarx.config.model import Address, CertificateFiles
from dwaarx.console.arguments import read_address, read_path, read_sources, read_urls
from dwaarx.console.errors import ConsoleError


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8853", Address("127.0.0.1", 8853)),
        ("127.0.0.1", Address("127.0.0.1", 853)),
        ("[::1]:8853", Address("::1", 8853)),
        ("[::1]", Address("::1", 853)),
        ("::1", Address("::1", 853)),
        ("[0:0::1]:1", Address("::1", 1)),
        ("0.0.0.0", Address("0.0.0.0", 853)),
    ],
)
def test_addresses(text, address):
    assert read_address(text, 853) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "localhost",
        "127.0.0.1:",
        "127.0.0.1:0",
        "127.0.0.1:65536",
        "127.0.0.1:99999999",
        "127.0.0.1:٣",
        "127.0.0.1:x",
        "[::1",
        "[::1]853",
        "[::1]:",
        "[127.0.0.1]x",
        "::1:zz",
        853,
        None,
    ],
)
def test_what_is_no_address_is_named(text):
    with pytest.raises(ConsoleError, match="address"):
        read_address(text, 853)


def test_sources_go_together_one_by_one():
    assert read_sources("/a.pem", Path("/a.key"), None) == (
        CertificateFiles(Path("/a.pem"), Path("/a.key")),
    )
    assert read_sources(
        ["/a.pem", "/b.pem"], ("/a.key", "/b.key"), {"ocspResponses": ["/a.der", None]}
    ) == (
        CertificateFiles(Path("/a.pem"), Path("/a.key"), Path("/a.der")),
        CertificateFiles(Path("/b.pem"), Path("/b.key")),
    )
    assert read_sources("/a.pem", "/a.key", {"ocspResponses": "/a.der"})[0].ocsp == Path("/a.der")
    assert read_sources("/a.pem", "/a.key", {"ocspResponses": []})[0].ocsp is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["/a", "/b"], "/k", None), "2 certificates, 1 keys"),
        (([], [], None), "certificate is a path or a list of paths"),
        ((None, "/k", None), "certificate is a path or a list of paths"),
        (("", "/k", None), "certificate is the path of a file"),
        (("/a\0b", "/k", None), "certificate is the path of a file"),
        (("/a", [3], None), "key is the path of a file, not 3"),
        (("/a", "/k", {"ocspResponse": []}), "'ocspResponse'; did you mean 'ocspResponses'"),
        (("/a", "/k", {"library": 1}), "unknown option 'library'; there is: ocspResponses"),
        (("/a", "/k", {3: 1}), "unknown option 3"),
        (("/a", "/k", ["/r"]), "options is a dict"),
        (("/a", "/k", {"ocspResponses": ["/r", "/s"]}), "one file .* per certificate: 2 for 1"),
        (("/a", "/k", {"ocspResponses": [3]}), "ocspResponses is the path of a file"),
    ],
)
def test_what_does_not_go_together_is_told(arguments, message):
    with pytest.raises(ConsoleError, match=message):
        read_sources(*arguments)


def test_relative_paths_become_absolute(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert read_path("output", "x.der") == tmp_path / "x.der"


def test_urls():
    assert read_urls("/dns-query") == ("/dns-query",)
    assert read_urls(["/a", "/b"]) == ("/a", "/b")


@pytest.mark.parametrize("urls", ["", "dns", "/a b", "/a?dns", "/a#b", "/ä", "/\n", [], [3], None])
def test_what_is_no_url_path_is_named(urls):
    with pytest.raises(ConsoleError, match="urls"):
        read_urls(urls)
