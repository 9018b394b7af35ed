"""A CA in memory, in the place of the network: what pebble does not do, a test has it do."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import attrs
import josepy
import requests
from acme import jws
from cryptography import x509
from requests.adapters import BaseAdapter

from dwaarx.certs.acme.network import Network
from dwaarx.config.model import AcmeCa
from tests.certs import pki

BASE = "https://ca.test"
ERROR = "urn:ietf:params:acme:error:"


@attrs.frozen
class Answer:
    """What the CA answers; a body that is no bytes is sent as JSON."""

    status: int = 200
    body: Any = b""
    headers: dict[str, str] = attrs.Factory(dict)


def problem(code: str, detail: str = "", status: int = 400, **more: Any) -> Answer:
    return Answer(status, {"type": ERROR + code, "detail": detail, **more})


@attrs.define
class Stop(threading.Event):
    """An event whose waits take no time but are kept; and a clock that they move."""

    now: float = 1_800_000_000.0
    waits: list[float] = attrs.Factory(list)

    def __attrs_pre_init__(self) -> None:
        threading.Event.__init__(self)

    def wait(self, timeout: float | None = None) -> bool:
        if timeout is not None and not self.is_set():
            self.waits.append(timeout)
            self.now += timeout
        return self.is_set()

    def clock(self) -> float:
        return self.now


class FakeCa(BaseAdapter):
    """Issues what is ordered once the challenge was answered.

    `script` holds, by the last part of the path, what is answered before anything else: answers,
    exceptions that are raised, and functions of the payload that return an answer or None (go on
    as ever). `posts` are the resource and payload of each signed message. `solved` is called when
    a challenge is answered, with its kind; it returns the problem of a validation that fails.
    """

    def __init__(self) -> None:
        super().__init__()
        self.ca = pki.make_ca()
        self.intermediate = pki.make_ca("Test Intermediate", self.ca)
        self.script: dict[str, list[Any]] = {}
        self.requests: list[str] = []
        self.posts: list[tuple[str, Any]] = []
        self.accounts: dict[str, dict[str, Any]] = {}
        self.kinds = ["http-01", "tls-alpn-01", "dns-01", "mystery-01"]
        self.token = "LoqXcYV8q5ONbJQxbmR7SCTNo3tiAXDfowyjxAjEuX0"
        self.solved: Callable[[str], dict[str, Any] | None] = lambda _: None
        self.meta: dict[str, Any] = {}
        self.renewal_info = False
        self.names: list[str] = []
        self.status = "pending"
        self.failure: dict[str, Any] | None = None
        self.chain: Callable[[x509.CertificateSigningRequest], bytes] = self._issue
        self._certificate = b""
        self._nonce = 0
        self.verify: Any = None
        self.proxies: Any = None

    def close(self) -> None:
        pass

    def network(self, ca: AcmeCa | None = None, stop: Stop | None = None) -> Network:
        """Return a way to this CA without waits."""
        stop = stop if stop is not None else Stop()

        def session() -> requests.Session:
            made = requests.Session()
            made.mount("https://", self)
            return made

        return Network(
            ca if ca is not None else AcmeCa(f"{BASE}/dir"), stop, session, stop.clock, stop.clock
        )

    # --- as an adapter of requests ------------------------------------------

    def send(
        self, request: requests.PreparedRequest, *args: Any, **kwargs: Any
    ) -> requests.Response:
        self.verify, self.proxies = kwargs["verify"], kwargs["proxies"]
        path = urlsplit(request.url or "").path
        what = path.rpartition("/")[2]
        self.requests.append(f"{request.method} {path}")
        payload = None
        if request.method == "POST":
            payload = self._payload(request)
            self.posts.append((what, payload))
        answer = None
        if self.script.get(what):
            answer = self.script[what].pop(0)
            if isinstance(answer, Exception):
                raise answer
            if callable(answer):
                answer = answer(payload)
        if answer is None:
            answer = getattr(self, f"_do_{what}")(payload)
        return self._response(request, answer)

    def _payload(self, request: requests.PreparedRequest) -> Any:
        body = request.body or b""
        message = jws.JWS.json_loads(body.decode() if isinstance(body, bytes) else body)
        header = message.signature.combined
        assert header.url == request.url
        assert header.alg == josepy.ES256
        assert header.nonce
        if header.kid is None:
            self._key = header.jwk
        else:
            account = self.accounts.get(header.kid)
            self._key = josepy.JWK.from_json(account["jwk"]) if account else None
        assert self._key is None or message.verify(self._key)
        self._kid = header.kid
        return json.loads(message.payload) if message.payload else None

    def _response(self, request: requests.PreparedRequest, answer: Answer) -> requests.Response:
        body = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
        response = requests.Response()
        response.status_code = answer.status
        response.raw = io.BytesIO(body)
        response.request = request
        response.url = request.url or ""
        self._nonce += 1
        headers = {"Replay-Nonce": f"nonce{self._nonce:03d}", **answer.headers}
        response.headers.update({name: value for name, value in headers.items() if value})
        return response

    # --- as a CA ------------------------------------------------------------

    def _do_dir(self, payload: Any) -> Answer:
        urls = {name: f"{BASE}/{name}" for name in ("newNonce", "newAccount", "newOrder")}
        if self.renewal_info:
            urls["renewalInfo"] = f"{BASE}/renewalInfo"
        return Answer(200, {**urls, "meta": self.meta})

    def _do_newNonce(self, payload: Any) -> Answer:
        return Answer()

    def _do_newAccount(self, payload: Any) -> Answer:
        jwk = self._key.to_partial_json()
        for url, account in self.accounts.items():
            if account["jwk"] == jwk:
                return Answer(200, {}, {"Location": url})
        url = f"{BASE}/accounts/account"
        self.accounts[url] = {"jwk": jwk, **payload}
        return Answer(201, {}, {"Location": url})

    def _do_account(self, payload: Any) -> Answer:
        if self._kid not in self.accounts:
            return problem("accountDoesNotExist", "Who?")
        self.accounts[self._kid].update(payload)
        return Answer(200, {})

    def _do_newOrder(self, payload: Any) -> Answer:
        if self._kid not in self.accounts:
            return problem("accountDoesNotExist", "Who?")
        self.names = [each["value"] for each in payload["identifiers"]]
        self.status, self.failure = "pending", None
        return Answer(201, self._order(), {"Location": f"{BASE}/order"})

    def _order(self) -> dict[str, Any]:
        order: dict[str, Any] = {
            "status": self.status if self._certificate or self.status != "valid" else "ready",
            "authorizations": [f"{BASE}/authorization"],
            "finalize": f"{BASE}/finalize",
        }
        if order["status"] == "valid":
            order["certificate"] = f"{BASE}/certificate"
        if self.failure is not None:
            order["error"] = self.failure
        return order

    def _do_order(self, payload: Any) -> Answer:
        return Answer(200, self._order())

    def _do_authorization(self, payload: Any) -> Answer:
        challenges = []
        for kind in self.kinds:
            challenge = {"type": kind, "url": f"{BASE}/challenges/{kind}", "token": self.token}
            if self.failure is not None:
                challenge["error"] = self.failure
            challenges.append(challenge)
        name = self.names[0].removeprefix("*.")
        return Answer(
            200,
            {
                "status": self.status,
                "identifier": {"type": "dns", "value": name},
                "challenges": challenges,
            },
        )

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_do_") and name.endswith("-01"):
            return lambda _: self._solve(name.removeprefix("_do_"))
        raise AttributeError(name)

    def _solve(self, kind: str) -> Answer:
        self._certificate = b""
        self.failure = self.solved(kind)
        self.status = "valid" if self.failure is None else "invalid"
        return Answer(200, {"type": kind, "url": f"{BASE}/challenges/{kind}"})

    def _do_finalize(self, payload: Any) -> Answer:
        csr = x509.load_der_x509_csr(josepy.b64decode(payload["csr"]))
        assert csr.is_signature_valid
        self._certificate = self.chain(csr)
        return Answer(200, self._order())

    def _issue(self, csr: x509.CertificateSigningRequest) -> bytes:
        extension = csr.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        names = [str(name) for name in extension.value.get_values_for_type(x509.DNSName)]
        begin = datetime.fromtimestamp(Stop().now, UTC) - timedelta(hours=1)
        extra = [
            (each.value, each.critical)
            for each in csr.extensions
            if not isinstance(each.value, x509.SubjectAlternativeName)
        ]
        leaf = pki.make_leaf(
            self.intermediate,
            names,
            key=csr,  # all that is asked of it is its public_key()
            not_before=begin,
            extra=extra,
        )
        return pki.pem_of(leaf.chain[:2])

    def _do_certificate(self, payload: Any) -> Answer:
        return Answer(200, self._certificate, {"Content-Type": "application/pem-certificate-chain"})
