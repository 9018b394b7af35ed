"""Responders, a PKI in files, and judges, for tests of stapling against the whole service.

pki = Pki(tmp_path)
with Responder(tmp_path, pki.issuer) as responder:
    site = pki.leaf("a.test", ocsp=[responder.url], must_staple=True)
    service = serve(f"{{\\n{ALLOW}\\n}}\\na.test:{port} {{\\n{site.tls}\\nrespond hello\\n}}")
    until("the staple", lambda: staple(port, "a.test", pki.trust).good)
    responder.behave("http_503", retry_after=60)
    responder.behave("revoked", reason="key_compromise", leaf=site)
    responder.until_asked(2, leaf=site)
"""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import attrs
from cryptography import x509
from cryptography.x509.oid import AuthorityInformationAccessOID

from tests.certs import pki
from tests.system.processes import PATIENCE, background, openssl_client, run, until

# The responders here are on loopback, which dwaarx does not ask unless it is told to: this is for
# the Dwaarfile's global options.
ALLOW = "ocsp {\n    allow_responder 127.0.0.0/8 ::1/128\n}"

_ROOT_FOLDER = Path(__file__).parents[2]


# --- a PKI ------------------------------------------------------------------


@attrs.frozen
class Site:
    """A leaf in files."""

    entity: pki.Entity
    certificate: Path  # with its chain
    key: Path

    @property
    def serial(self) -> int:
        return self.entity.certificate.serial_number

    @property
    def tls(self) -> str:
        """The directive that serves it."""
        return f"tls {self.certificate} {self.key}"


class Pki:
    """A root, an intermediate, and leaves of the intermediate, as PEM files in one folder."""

    def __init__(
        self, folder: Path, *, name: str = "Test", intermediate: bool = True, key_type: str = "p256"
    ) -> None:
        """Without `intermediate` the root issues the leaves itself."""
        self.folder = folder
        self._name = name.lower().replace(" ", "-")
        self.root = pki.make_ca(f"{name} Root", key_type=key_type)
        self.issuer = (
            pki.make_ca(f"{name} Sub", self.root, key_type=key_type) if intermediate else self.root
        )
        # The root, for clients to trust.
        self.trust = self.root.write(folder, f"{self._name}-ca").root

    def leaf(
        self,
        *names: str,
        ocsp: Sequence[str] = (),
        crl: Sequence[str] = (),
        must_staple: bool = False,
        stem: str | None = None,
        chain: Sequence[pki.Entity] | None = None,
        **options: Any,
    ) -> Site:
        """Make a leaf for these names and write STEM.pem and STEM.key; a stem twice replaces it.

        `ocsp` are its responders and `crl` its distribution points, in their order. `chain` is what
        STEM.pem holds above the leaf: all up to the root unless given, () for nothing. Further
        options are those of `pki.make_leaf`: key_type, lifetime, not_before, serial, extra.
        """
        extra = list(options.pop("extra", ()))
        if ocsp:
            extra.append((_access(ocsp), False))
        if crl:
            extra.append((_distribution_points(crl), False))
        entity = pki.make_leaf(
            self.issuer, names or ("a.test",), must_staple=must_staple, extra=extra, **options
        )
        stem = stem if stem is not None else (names or ("a.test",))[0].replace("*", "_")
        written = entity.write(self.folder, stem)
        if chain is not None:
            above = [each.certificate for each in chain]
            written.certificate.write_bytes(pki.pem_of([entity.certificate, *above]))
        return Site(entity, written.certificate, written.key)

    def leaves(self, count: int, **options: Any) -> list[Site]:
        """Make as many leaves: site0.test, site1.test and so on. Options are those of `leaf`."""
        return [self.leaf(f"site{index}.test", **options) for index in range(count)]


def _access(urls: Sequence[str]) -> x509.AuthorityInformationAccess:
    return x509.AuthorityInformationAccess(
        [
            x509.AccessDescription(
                AuthorityInformationAccessOID.OCSP, x509.UniformResourceIdentifier(url)
            )
            for url in urls
        ]
    )


def _distribution_points(urls: Sequence[str]) -> x509.CRLDistributionPoints:
    return x509.CRLDistributionPoints(
        [
            x509.DistributionPoint([x509.UniformResourceIdentifier(url)], None, None, None)
            for url in urls
        ]
    )


# --- the responder in Python ------------------------------------------------


@attrs.frozen
class Seen:
    """A request as the responder saw it."""

    at: float  # POSIX time
    of: str  # "ocsp" or "crl"
    method: str
    path: str
    fields: dict[str, str]  # lower-case names
    serial: int | None  # what it asks about; None for a CRL, and for what is no request
    behaviour: str  # the kind of behaviour it met with
    sent: int  # how many bytes of the response the client took (or the kernel for it)
    took: float | None  # seconds until the answer was sent or the client left; None: it waits
    complete: bool  # whether the whole answer was sent


class Responder:
    """The responder of `responder.py`, for one CA or several; a context manager.

    Answers "good" until told otherwise. It keeps port and behaviour over `stop` and `start`, so
    that certificates with its `url` need not be made anew.
    """

    def __init__(self, folder: Path, *authorities: pki.Entity, host: str = "127.0.0.1") -> None:
        self.folder = folder
        self.host = host
        self.port = 0
        self._rules: dict[str, list[dict[str, Any]]] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._before: list[Seen] = []
        self._stem = f"responder-{id(self):x}"
        self._files: list[Path] = []
        for index, each in enumerate(authorities):
            written = each.write(folder, f"{self._stem}-{index}")
            self._files += [written.certificate, written.key]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    # --- where it is --------------------------------------------------------

    @property
    def url(self) -> str:
        """The OCSP URL for certificates."""
        return f"{self._base}/ocsp"

    @property
    def crl_url(self) -> str:
        """The CRL of the first authority; append /N for that of authority N."""
        return f"{self._base}/crl"

    @property
    def _base(self) -> str:
        assert self.port, "it has no port before its first start"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    # --- up and down --------------------------------------------------------

    def start(self) -> None:
        """Start it, the second time on the port of the first, and wait until it can be asked."""
        rules, log = self.folder / f"{self._stem}.json", self.folder / f"{self._stem}.log"
        rules.write_text(json.dumps(self._rules))
        log.write_bytes(b"")
        with log.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.system.responder", "--host", self.host,
                 "--port", str(self.port), "--rules", str(rules), *map(str, self._files)],
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                cwd=_ROOT_FOLDER,
            )  # fmt: skip
        self._process = process
        found = until(
            "the start of a responder",
            lambda: process.poll() is not None or re.search(r"listening (\d+)", log.read_text()),
        )
        assert isinstance(found, re.Match), log.read_text()
        self.port = int(found[1])

    def stop(self) -> None:
        """End it; connections are refused from now on, what it saw stays known."""
        process = self._process
        if process is None:
            return
        try:
            self._before = self.seen()
        finally:
            self._process = None
            process.kill()
            process.wait(PATIENCE)

    # --- what it does -------------------------------------------------------

    def behave(self, *kinds: str, leaf: Site | None = None, **options: Any) -> None:
        """Behave so from the next request on; towards one leaf only, if it is given.

        Of several kinds each serves for one request, the last one from then on: a responder that
        fails twice is `behave("http_500", "http_500", "good")`. See responder.py for kinds
        and options; the options are for all the kinds given. Without kinds, behaves towards that
        leaf as towards all, or well.
        """
        self._tell(f"{leaf.serial:X}" if leaf is not None else "ocsp", kinds, options)

    def behave_crl(self, *kinds: str, revoked: Sequence[Site] = (), **options: Any) -> None:
        """Serve CRLs so from the next request on; these leaves are revoked there."""
        serials = [f"{each.serial:X}" for each in revoked]
        self._tell("crl", kinds, {"revoked": serials, **options})

    def _tell(self, key: str, kinds: Sequence[str], options: dict[str, Any]) -> None:
        self._rules[key] = [{"kind": kind, **options} for kind in kinds]
        if self._process is not None:
            self._control(json.dumps({key: self._rules[key] or None}).encode())

    def _control(self, body: bytes | None = None) -> dict[str, Any]:
        # No proxy of the environment is meant for this.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"{self._base}/control", body, PATIENCE) as answer:
            said: dict[str, Any] = json.load(answer)
        return said

    # --- what it saw --------------------------------------------------------

    def seen(self, leaf: Site | None = None, *, of: str | None = None) -> list[Seen]:
        """Return the requests so far: about one leaf, `of` "ocsp" or "crl", or all of them."""
        requests = list(self._before)
        if self._process is not None:
            for each in self._control()["requests"]:
                serial = int(each["serial"], 16) if each["serial"] is not None else None
                requests.append(Seen(**each | {"serial": serial}))
        return [
            each
            for each in requests
            if (leaf is None or each.serial == leaf.serial) and of in (None, each.of)
        ]

    @property
    def connections(self) -> int:
        """How many connections were opened since the last start, silent ones too."""
        return int(self._control()["connections"])

    def until_asked(
        self,
        times: int = 1,
        leaf: Site | None = None,
        *,
        of: str | None = None,
        ended: bool = False,
        patience: float = PATIENCE,
    ) -> list[Seen]:
        """Wait until there were as many requests in all, and return them.

        With `ended` until as many are over: answered, or left by the client.
        """

        def enough() -> list[Seen] | None:
            seen = [each for each in self.seen(leaf, of=of) if not ended or each.took is not None]
            return seen if len(seen) >= times else None

        return until(f"{times} requests to the responder", enough, patience)


# --- the responder of OpenSSL -----------------------------------------------


class OpensslResponder:
    """`openssl ocsp` as the responder of one CA: what others have agreed on; a context manager.

    It knows the leaves that it is given, "unknown" is what it says of others. It answers one
    request at a time, and knows no CRLs. As with `Responder`, the port stays over stop and start.
    """

    def __init__(
        self,
        folder: Path,
        authority: pki.Entity,
        leaves: Sequence[Site] = (),
        *,
        delegate: pki.Entity | None = None,
        minutes: int = 60,
    ) -> None:
        """With a `delegate` that one signs; answers hold for `minutes`."""
        self.folder = folder
        self.port = 0
        self.minutes = minutes
        self._leaves: dict[int, str] = {}
        self._stem = f"openssl-{id(self):x}"
        self._index = folder / f"{self._stem}.index"
        self._log = folder / f"{self._stem}.log"
        self._ca = authority.write(folder, f"{self._stem}-ca")
        self._signer = (delegate or authority).write(folder, f"{self._stem}-signer", chain=False)
        self._running = ExitStack()
        self.add(*leaves)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *ending: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """The OCSP URL for certificates."""
        assert self.port, "it has no port before its first start"
        return f"http://127.0.0.1:{self.port}/"

    def add(self, *leaves: Site) -> None:
        """Answer "good" for these too; heeded at the next start."""
        for each in leaves:
            self._leaves[each.serial] = _index_line("V", each)

    def revoke(self, leaf: Site, reason: str = "keyCompromise") -> None:
        """Answer "revoked", for a reason in OpenSSL's words; heeded at the next start."""
        self._leaves[leaf.serial] = _index_line("R", leaf, reason)

    def start(self) -> None:
        """Start it, the second time on the port of the first, and wait until it can be asked."""
        self._index.write_text("".join(self._leaves.values()))
        self._log.write_bytes(b"")
        ca = self._ca.certificate
        self._running.enter_context(
            background(
                "openssl", "ocsp", "-index", self._index, "-CA", ca, "-rsigner",
                self._signer.certificate, "-rkey", self._signer.key, "-port", str(self.port),
                "-nmin", str(self.minutes), "-ignore_err",
                ready=self._answers, log=self._log,
            )
        )  # fmt: skip
        found = self._accepting()
        assert found is not None
        self.port = int(found[1])

    def _answers(self) -> bool:
        """Whether it answers anything; it says that it accepts before it has read the index."""
        found = self._accepting()
        if found is None:
            return False
        with (
            suppress(OSError),
            socket.create_connection(("127.0.0.1", int(found[1])), PATIENCE) as sock,
        ):
            sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
            return bool(sock.recv(1))
        return False

    def _accepting(self) -> re.Match[str] | None:
        return re.search(r"ACCEPT \S*?:(\d+)", self._log.read_text())

    def stop(self) -> None:
        """End it; connections are refused from now on."""
        self._running.close()


def _index_line(letter: str, leaf: Site, reason: str = "") -> str:
    certificate = leaf.entity.certificate
    revoked = f"{pki.utc_now() - timedelta(hours=1):%y%m%d%H%M%SZ},{reason}" if reason else ""
    serial = f"{leaf.serial:X}"
    serial = serial.zfill(len(serial) + len(serial) % 2)
    ends = f"{certificate.not_valid_after_utc:%y%m%d%H%M%SZ}"
    return f"{letter}\t{ends}\t{revoked}\t{serial}\tunknown\t/CN={serial}\n"


# --- judges -----------------------------------------------------------------


@attrs.frozen
class Handshake:
    """What `openssl s_client -status` saw of one."""

    serial: int | None  # of the certificate; None if the handshake failed
    good: bool  # a successful response came, it says good, and OpenSSL verified the chain
    stapled: bool  # a response of whatever content came
    next_update: datetime | None
    text: str  # all that OpenSSL printed


def handshake(port: int, name: str, trust: Path, *words: str, host: str = "127.0.0.1") -> Handshake:
    """Shake hands for `name`, as a client that trusts `trust` and asks for a staple.

    The response's signature is not verified by s_client: `curl_accepts` does that.
    """
    said = openssl_client(port, "-servername", name, *words, host=host, ca=trust)
    # Before it, the response may hold another certificate: a delegate's.
    found = re.search(
        r"^Server certificate\n(-.*?-----END CERTIFICATE-----)", said, re.DOTALL | re.MULTILINE
    )
    serial = None
    if found is not None:
        serial = x509.load_pem_x509_certificate(found[1].encode()).serial_number
    stapled = "OCSP Response Status: successful (0x0)" in said
    good = stapled and "Cert Status: good" in said and "Verify return code: 0 (ok)" in said
    ends = re.search(r"Next Update: (.*) GMT", said)
    return Handshake(
        serial,
        good,
        stapled,
        datetime.strptime(f"{ends[1]} +0000", "%b %d %H:%M:%S %Y %z") if ends else None,
        said,
    )


def curl_accepts(port: int, name: str, trust: Path, *, host: str = "127.0.0.1") -> bool:
    """Whether `curl --cert-status` takes certificate and staple; it verifies both whole."""
    url = f"https://{name}:{port}/"
    said = run("curl", "-sS", "--noproxy", "*", "-o", "/dev/null", "-w", "status %{http_code}",
               "--cacert", trust, "--cert-status", "--resolve", f"{name}:{port}:{host}", url,
               check=False)  # fmt: skip
    return said.startswith("status ") and said != "status 000"
