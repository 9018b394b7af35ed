"""DoT and DoH with real clients, in front of a real nsd."""

from __future__ import annotations

import re
import socket
import ssl
import struct
import subprocess
import time
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import dns.message
import dns.rcode
import pytest

from tests.system.peers import LONG_TXT, nsd, tcp_server
from tests.system.processes import Service, free_port, program, run, serving, until


@pytest.fixture(scope="module")
def https_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def dot_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def service(
    tmp_path_factory: pytest.TempPathFactory, https_port: int, dot_port: int
) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("dns")
    with nsd(folder) as upstream, serving(
        folder,
        f"""
{{
    http_port 0
    bind 127.0.0.1 ::1
    timeouts {{
        read_header 1s
    }}
}}
localhost:{https_port}, 127.0.0.1:{https_port}, here.example.org:{https_port} {{
    tls internal
    dns_over_https
    dns_over_tls :{dot_port} :{https_port}
    respond "a page"
}}
resolvers {{
    to 127.0.0.1:{upstream}
    record hello.test A 127.0.0.1
    record hello.test TXT "a text"
}}
""",
    ) as running:  # fmt: skip
        yield running


def kdig(service: Service, port: int, *words: str, host: str = "127.0.0.1") -> str:
    return run("kdig", f"@{host}#{port}", f"+tls-ca={service.ca}", "+tls-hostname=localhost",
               "+time=5", "+retry=0", *words)  # fmt: skip


@pytest.mark.parametrize("way", ["+tls", "+https", "+https-get"])
@pytest.mark.parametrize(
    ("question", "answers"),
    [
        (("www.example.org", "A"), ["192.0.2.80"]),
        (("www.example.org", "AAAA"), ["2001:db8::80"]),
        (("alias.example.org", "A"), ["www.example.org.", "192.0.2.80"]),
        (("hello.test", "A"), ["127.0.0.1"]),
        (("hello.test", "TXT"), ['"a text"']),
    ],
)
def test_kdig_gets_the_answers(
    service: Service,
    https_port: int,
    dot_port: int,
    way: str,
    question: tuple[str, str],
    answers: list[str],
) -> None:
    port = dot_port if way == "+tls" else https_port
    assert kdig(service, port, way, "+short", *question).split("\n")[:-1] == answers


def test_dot_shares_the_https_port_by_alpn(service: Service, https_port: int) -> None:
    """kdig +tls offers ALPN dot, so it gets DNS where a browser gets HTTP."""
    assert "127.0.0.1" in kdig(service, https_port, "+tls", "+short", "hello.test")
    page = run("curl", "-sS", "--cacert", service.ca, f"https://localhost:{https_port}/")
    assert page == "a page"


def test_dot_over_ipv6(service: Service, dot_port: int) -> None:
    assert "192.0.2.80" in kdig(service, dot_port, "+tls", "+short", "www.example.org", host="::1")


@pytest.mark.parametrize("way", ["+tls", "+https", "+https-get"])
def test_long_answer_comes_whole(
    service: Service, https_port: int, dot_port: int, way: str
) -> None:
    """5,000 bytes do not fit into UDP: nsd says TC, and dwaarx goes on over TCP."""
    port = dot_port if way == "+tls" else https_port
    answer = kdig(service, port, way, "+short", "long.example.org", "TXT")
    assert answer.strip() == LONG_TXT


def test_nxdomain_carries_the_soa(service: Service, dot_port: int) -> None:
    answer = kdig(service, dot_port, "+tls", "nothing.www.example.org", "A")
    assert "status: NXDOMAIN" in answer
    assert "SOA" in answer


@pytest.mark.parametrize("kind", ["AXFR", "IXFR=1"])
def test_transfers_are_refused(service: Service, dot_port: int, kind: str) -> None:
    answer = run("kdig", f"@127.0.0.1#{dot_port}", "+tls", "+retry=0", "example.org", "-t", kind,
                 check=False)  # fmt: skip
    assert re.search(r"REFUSED|NOTIMP", answer), answer
    assert "192.0.2.80" not in answer


def test_curl_resolves_by_doh(service: Service, https_port: int) -> None:
    """curl asks dwaarx, gets what nsd says, and goes there: to dwaarx itself, as another site."""
    page = run("curl", "-sS", "--cacert", service.ca, "--cert-status", "--doh-cert-status",
               "--doh-url", f"https://localhost:{https_port}/dns-query",
               f"https://here.example.org:{https_port}/", "-w", " by %{remote_ip}")  # fmt: skip
    assert page == "a page by 127.0.0.1"


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["/dns-query"], "400"),
        (["/dns-query?dns=!!!"], "400"),
        (["/dns-query?dns=AAAA"], "400"),
        (["/elsewhere-query", "-X", "POST", "-d", "x", "-H", "Content-Type: text/plain"], "200"),
        (["/dns-query", "-d", "x", "-H", "Content-Type: text/plain"], "415"),
        (["/dns-query", "-X", "PUT"], "405"),
        (["/dns-query", "--data-binary", "@-", "-H", "Content-Type: application/dns-message"],
         "413"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
def test_doh_refusals(
    service: Service, https_port: int, words: list[str], status: str, version: str
) -> None:
    path, *options = words
    answer = run("curl", "-sS", version, "--cacert", service.ca, "-o", "/dev/null", "-w",
                 "%{http_code}", f"https://localhost:{https_port}{path}", *options,
                 stdin="x" * 65_536)  # fmt: skip
    assert answer == status


class DotClient:
    """A DoT client of our own, for what no program does."""

    def __init__(self, service: Service, port: int) -> None:
        context = ssl.create_default_context(cafile=str(service.ca))
        context.set_alpn_protocols(["dot"])
        raw = socket.create_connection(("127.0.0.1", port), timeout=20)
        self.sock = context.wrap_socket(raw, server_hostname="localhost")

    def receive(self) -> dns.message.Message:
        (size,) = struct.unpack("!H", self._exactly(2))
        return dns.message.from_wire(self._exactly(size))

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = self.sock.recv(size - len(data))
            assert piece, "closed too early"
            data += piece
        return data


def framed(name: str, number: int) -> bytes:
    query = dns.message.make_query(name, "A", id=number).to_wire()
    return struct.pack("!H", len(query)) + query


def test_hundred_pipelined_queries(service: Service, dot_port: int) -> None:
    client = DotClient(service, dot_port)
    names = [f"name{number}.example.org" for number in range(100)]
    client.sock.sendall(b"".join(framed(name, number) for number, name in enumerate(names)))
    answers = {answer.id: answer for answer in (client.receive() for _ in names)}
    assert sorted(answers) == list(range(100))
    for number, name in enumerate(names):
        assert str(answers[number].question[0].name) == f"{name}."
        assert "192.0.2.99" in str(answers[number].answer[0])


def test_half_a_length_prefix_is_timed_out(service: Service, dot_port: int) -> None:
    client = DotClient(service, dot_port)
    client.sock.sendall(framed("hello.test", 7) + b"\x00")
    assert client.receive().id == 7
    begin = time.monotonic()
    assert client.sock.recv(1) == b""
    assert time.monotonic() - begin < 10


def test_garbage_closes_and_the_service_goes_on(service: Service, dot_port: int) -> None:
    client = DotClient(service, dot_port)
    client.sock.sendall(b"\x00\x05hello")
    assert client.sock.recv(1) == b""
    assert "127.0.0.1" in kdig(service, dot_port, "+tls", "+short", "hello.test")


HEADER = struct.pack("!6H", 7, 0x100, 1, 0, 0, 0)
EDNS_HEADER = HEADER[:11] + b"\1"
QUESTION = b"\5HeLLo\4test\0\0\1\0\1"
OPT = b"\0\0\x29\5\0\0\0\0\0\0\0"


@pytest.mark.parametrize(
    ("message", "rcode"),
    [
        (HEADER + QUESTION, "NOERROR"),
        (b"", None),
        (HEADER[:11], None),
        (HEADER[:2] + b"\x81" + HEADER[3:] + QUESTION, None),
        (HEADER, "FORMERR"),
        (HEADER[:5] + b"\0" + HEADER[6:], "FORMERR"),
        (HEADER[:5] + b"\2" + HEADER[6:] + QUESTION * 2, "FORMERR"),
        (HEADER[:2] + b"\3" + HEADER[3:] + QUESTION, "FORMERR"),
        (HEADER[:2] + b"\x21" + HEADER[3:] + QUESTION, "NOTIMP"),
        (HEADER + QUESTION + b"x", "FORMERR"),
        ((HEADER + QUESTION).ljust(65_535, b"x"), "FORMERR"),
        (HEADER + b"\xc0\x0c\0\1\0\1", "FORMERR"),
        (EDNS_HEADER[:11] + b"\2" + QUESTION + OPT * 2, "FORMERR"),
        (HEADER[:7] + b"\1" + HEADER[8:] + QUESTION + OPT, "FORMERR"),
        (EDNS_HEADER + QUESTION + OPT[:-1] + b"\4\0\x0c\0\1", "FORMERR"),
        (EDNS_HEADER + QUESTION + OPT[:6] + b"\1" + OPT[7:], "BADVERS"),
        (EDNS_HEADER + QUESTION + OPT[:-2] + b"\xff\xd8\0\x0c\xff\xd4" + bytes(65_492), "NOERROR"),
    ],
)
def test_any_message_has_an_answer_or_a_close(
    service: Service, dot_port: int, message: bytes, rcode: str | None
) -> None:
    client = DotClient(service, dot_port)
    client.sock.sendall(struct.pack("!H", len(message)) + message)
    if rcode is None:
        assert client.sock.recv(1) == b""
        return
    answer = client.receive()
    assert (answer.id, dns.rcode.to_text(answer.rcode())) == (7, rcode)
    assert str(answer.question[0].name) == "HeLLo.test." if rcode == "NOERROR" else True
    client.sock.sendall(framed("hello.test", 8))
    assert client.receive().id == 8


def test_a_client_that_does_not_read_is_not_served_on(service: Service, dot_port: int) -> None:
    client = DotClient(service, dot_port)
    client.sock.settimeout(3)
    # 34 MB of queries, for 5 GB of answers
    queries = framed("long.example.org", 1).replace(b"\0\1\0\1", b"\0\x10\0\1") * 1_000_000
    before = service.memory()
    with pytest.raises(TimeoutError):
        client.sock.sendall(queries)
    assert service.memory() - before < 16 << 20
    assert "127.0.0.1" in kdig(service, dot_port, "+tls", "+short", "hello.test")


@pytest.mark.parametrize("way", ["+tls", "+https"])
def test_padded_when_the_query_is(
    service: Service, https_port: int, dot_port: int, way: str
) -> None:
    port = dot_port if way == "+tls" else https_port
    for name in ("hello.test", "www.example.org"):
        assert "Received 468 B" in kdig(service, port, way, "+padding", name)
        assert "PADDING" not in kdig(service, port, way, "+edns", "+nopadding", name)


def encoded(name: str, kind: str) -> str:
    wire = dns.message.make_query(name, kind, id=0).to_wire()
    return urlsafe_b64encode(wire).rstrip(b"=").decode()


@pytest.mark.parametrize(
    ("question", "age"),
    [
        (("www.example.org", "A"), 300),
        (("www.example.org", "MX"), 60),  # NODATA and NXDOMAIN: the SOA's minimum
        (("nothing.www.example.org", "A"), 60),
        (("www.example.com", "A"), 0),  # REFUSED by nsd
        (("hello.test", "A"), 60),
        (("hello.test", "MX"), 0),
    ],
)
@pytest.mark.parametrize(
    "options", [["--http1.1"], ["--http2"], ["--http2", "-I"], ["--http1.0", "--no-alpn"]]
)
def test_doh_says_how_fresh(
    service: Service, https_port: int, question: tuple[str, str], age: int, options: list[str]
) -> None:
    head = run("curl", "-sS", "-D", "-", "-o", "/dev/null", "--cacert", service.ca, *options,
               f"https://localhost:{https_port}/dns-query?dns={encoded(*question)}")  # fmt: skip
    assert re.match(r"HTTP/\S+ 200", head), head
    assert f"cache-control: max-age={age}\n" in head
    assert "content-type: application/dns-message\n" in head


def test_slow_answer_holds_up_no_other(tmp_path: Path) -> None:
    """An upstream that answers slow.test late, over TCP: the others overtake it."""

    def answer(sock: socket.socket) -> None:
        held = b""
        while True:
            size = sock.recv(2, socket.MSG_WAITALL)
            if not size:
                return
            query = dns.message.from_wire(sock.recv(struct.unpack("!H", size)[0],
                                                    socket.MSG_WAITALL))  # fmt: skip
            response = dns.message.make_response(query)
            wire = response.to_wire()
            framed_answer = struct.pack("!H", len(wire)) + wire
            if str(query.question[0].name).startswith("slow"):
                held = framed_answer
            else:
                sock.sendall(framed_answer)
            if str(query.question[0].name).startswith("last"):
                sock.sendall(held)

    port = free_port()
    with tcp_server(answer) as upstream, serving(
        tmp_path,
        f"""
localhost:{free_port()} {{
    bind 127.0.0.1
    tls internal
    dns_over_tls 127.0.0.1:{port}
}}
resolvers {{
    to tcp://127.0.0.1:{upstream}
}}
""",
    ) as service:  # fmt: skip
        client = DotClient(service, port)
        client.sock.sendall(framed("slow.test", 1))
        for number in range(2, 50):
            client.sock.sendall(framed("quick.test", number))
        client.sock.sendall(framed("last.test", 50))
        assert sorted(client.receive().id for _ in range(49)) == list(range(2, 51))
        assert client.receive().id == 1


def test_no_upstream_is_an_extended_error(tmp_path: Path) -> None:
    port = free_port()
    with serving(
        tmp_path,
        f"""
localhost:{free_port()} {{
    bind 127.0.0.1
    tls internal
    dns_over_tls 127.0.0.1:{port}
}}
resolvers {{
    to 127.0.0.1:{free_port()} tcp://127.0.0.1:{free_port()}
}}
""",
    ) as service:
        answer = kdig(service, port, "+tls", "+edns", "www.example.org")
        assert "status: SERVFAIL" in answer
        assert re.search(r"EDE.*2[23]", answer), answer


def dnsperf_words(folder: Path, port: int, *words: str) -> list[str]:
    queries = folder / "queries"
    queries.write_text("".join(f"name{number}.example.org A\n" for number in range(1000)))
    return ["-m", "dot", "-s", "127.0.0.1", "-p", str(port), "-d", str(queries), *words]


def descriptors(service: Service) -> int:
    return len(list(Path(f"/proc/{service.pid}/fd").iterdir()))


@pytest.mark.load
def test_forwarding_leaves_nothing_behind(service: Service, dot_port: int, tmp_path: Path) -> None:
    words = dnsperf_words(tmp_path, dot_port, "-n", "20", "-c", "4", "-q", "200")
    run("dnsperf", *words)  # the warming
    memory, open_files = service.memory(), descriptors(service)
    output = run("dnsperf", *words)
    assert re.search(r"Queries completed:\s+20000 \(100.00%\)", output), output
    assert re.search(r"Response codes:\s+NOERROR 20000 \(100.00%\)", output), output
    assert service.memory() - memory < 8 << 20
    assert descriptors(service) <= open_files + 16


@pytest.mark.load
def test_silent_upstreams_under_load(tmp_path: Path) -> None:
    """What waits is bounded, local records are served meanwhile, and a reload makes all well."""
    port = free_port()
    with nsd(tmp_path) as alive, ExitStack() as stack:
        silent = []
        for _ in range(2):
            sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            sock.bind(("127.0.0.1", 0))
            silent.append(sock.getsockname()[1])
        service = stack.enter_context(serving(
            tmp_path,
            f"""
localhost:{free_port()} {{
    bind 127.0.0.1
    tls internal
    dns_over_tls 127.0.0.1:{port}
}}
resolvers {{
    to 127.0.0.1:{silent[0]} 127.0.0.1:{silent[1]}
    record hello.test A 127.0.0.1
}}
""",
        ))  # fmt: skip
        memory, open_files = service.memory(), descriptors(service)
        load = stack.enter_context(subprocess.Popen(
            [program("dnsperf"), *dnsperf_words(tmp_path, port, "-l", "7", "-c", "50",
                                                "-q", "20000", "-t", "8")],
            stdout=subprocess.DEVNULL,
        ))  # fmt: skip
        until("a full house", lambda: outstanding(service) >= 2_000)
        assert "127.0.0.1" in kdig(service, port, "+tls", "+short", "hello.test")
        assert load.wait(60) == 0
        assert service.memory() - memory < 40 << 20
        until("the end of the waiting", lambda: outstanding(service) == 0)
        assert descriptors(service) <= open_files + 2 * 16
        text = service.dwaarfile.read_text()
        service.dwaarfile.write_text(re.sub(r"to 127.*", f"to 127.0.0.1:{alive}", text))
        service.hangup()
        assert "192.0.2.80" in kdig(service, port, "+tls", "+short", "www.example.org")
        assert descriptors(service) <= open_files + 2 * 16


def outstanding(service: Service) -> int:
    """The sum over the rows of showServers()."""
    return sum(
        int(match[1])
        for match in re.finditer(
            r"^\S+\s+\S+\s+\S+:\d+\s+(\d+)", service.console("showServers()"), re.MULTILINE
        )
    )
