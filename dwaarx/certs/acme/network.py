"""Requests to one CA: signed, bounded, and without waits that a stop would have to await."""

from __future__ import annotations

import json
import logging
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import attrs
import requests
from acme.jws import JWS
from josepy.b64 import b64decode
from josepy.interfaces import JSONDeSerializable
from josepy.jwa import ES256
from josepy.jwk import JWK

from dwaarx import __version__
from dwaarx.certs import http_dates
from dwaarx.certs.acme.answers import Json, parse
from dwaarx.certs.acme.bounded import BoundedSession
from dwaarx.certs.acme.problems import CaError, Problem
from dwaarx.config.model import AcmeCa

# For a connection, and between two reads.
TIMEOUT = 10.0
# A chain with its intermediates is 10 KiB, a directory less.
_MAX_ANSWER = 256 * 1024
_CHUNK = 4096

# CAs refuse nonces for reasons of their own (those of another of their machines); each refusal
# carries a new one. Pebble refuses some at random.
_MAX_NONCES = 20
# Refused, dropped, 5xx: once more, after a moment.
_RETRIES = 1
_RETRY_PAUSE = 1.0

_LIBRARIES = ("acme", "josepy", "requests", "urllib3")


def silence() -> None:
    """Keep the libraries from logging.

    They write what is sent and received at debug level; and what they warn of goes to standard
    error by logging's last resort, which twistd takes for the log. The errors tell it all.
    """
    for name in _LIBRARIES:
        logger = logging.getLogger(name)
        logger.propagate = False
        if not logger.handlers:
            logger.addHandler(logging.NullHandler())


@attrs.frozen
class Signer:
    """An account's key, and the URL by which the CA knows it (None: by the key itself)."""

    key: JWK = attrs.field(repr=False)
    account: str | None = None


@attrs.frozen
class Reply:
    """A successful answer; header names are lower-case, `retry_after` is POSIX time."""

    status: int
    headers: dict[str, str]
    body: bytes
    retry_after: float | None

    @property
    def json(self) -> Json:
        """The body as a JSON object; raises CaError."""
        return parse(self.body)

    def location(self) -> str:
        """Return where the CA put what was made; raises CaError."""
        url = self.headers.get("location")
        # It is written to the log, and kept.
        if not url or not (url.isascii() and url.isprintable()):
            raise CaError("its answer names no Location")
        return url


class Network:
    """One thread's way to a CA. Everything here raises CaError and nothing else.

    `clock` is POSIX time, `timer` is for deadlines; `stop` ends pauses at once, and keeps further
    requests from being sent.
    """

    def __init__(
        self,
        ca: AcmeCa,
        stop: threading.Event,
        session: Callable[[], requests.Session] = BoundedSession,
        clock: Callable[[], float] = time.time,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stop = stop
        self._clock = clock
        self.timer = timer
        self._nonces: list[str] = []
        # By plain HTTP, which is for a CA on this machine, nobody else is asked.
        self._origin = _origin(ca.directory)
        self._session = session()
        # No proxy, no .netrc, no bundle from the environment: the Dwaarfile says it all.
        self._session.trust_env = False
        self._session.verify = _trust(ca.bundle)
        self._session.headers["User-Agent"] = f"dwaarx/{__version__}"
        self._session.headers["Accept-Encoding"] = "identity"  # what is bounded is what is sent

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def now(self) -> float:
        """Return the POSIX time."""
        return self._clock()

    def pause(self, seconds: float) -> None:
        """Wait; raises CaError at once when it is time to stop."""
        if self._stop.wait(seconds):
            raise CaError("dwaarx is stopping")

    def get(self, url: str) -> Reply:
        """Get what needs no signature: the directory."""
        return self._repeat(lambda: self._send("GET", url))

    def post(
        self,
        url: str,
        payload: JSONDeSerializable | None,
        signer: Signer,
        new_nonce: str,
        accept: str = "application/json",
    ) -> Reply:
        """Post a signed message; without payload it is a POST-as-GET (RFC 8555 section 6.3)."""
        content = b"" if payload is None else payload.json_dumps().encode()

        def send() -> Reply:
            message = JWS.sign(
                content,
                key=signer.key,
                alg=ES256,
                nonce=_decoded(self._nonce(new_nonce)),
                url=url,
                kid=signer.account,
            )
            headers = {"Content-Type": "application/jose+json", "Accept": accept}
            return self._send("POST", url, message.json_dumps().encode(), headers)

        return self._repeat(send)

    def _nonce(self, new_nonce: str) -> str:
        if not self._nonces:
            self._send("HEAD", new_nonce)
        if not self._nonces:
            raise CaError("it gives no Replay-Nonce")
        return self._nonces.pop()

    def _repeat(self, send: Callable[[], Reply]) -> Reply:
        nonces = failures = 0
        while True:
            try:
                return send()
            except CaError as error:
                if error.code == "badNonce" and nonces < _MAX_NONCES:
                    nonces += 1
                elif error.passing and failures < _RETRIES:
                    failures += 1
                    self.pause(_RETRY_PAUSE)
                else:
                    error.passing = False  # it was not
                    raise

    def _send(
        self, method: str, url: str, data: bytes = b"", headers: dict[str, str] | None = None
    ) -> Reply:
        if self._stop.is_set():
            raise CaError("dwaarx is stopping")
        if _origin(url)[0] != "https" and _origin(url) != self._origin:
            raise CaError(f"it sends us to {url[:200]!r}, which is not https")
        try:
            response = self._session.request(
                method,
                url,
                data=data or None,
                headers=headers,
                timeout=TIMEOUT,
                stream=True,
                allow_redirects=False,
            )
            with closing(response):
                body = self._read(response)
        except requests.Timeout as error:
            raise CaError(f"it did not answer within {TIMEOUT:.0f} s") from error
        except (OSError, ValueError) as error:  # a RequestException is an OSError
            passing = not isinstance(error, requests.exceptions.SSLError)
            raise CaError(f"it cannot be reached: {_why(error)}", passing=passing) from error
        return self._judge(response, body)

    @staticmethod
    def _read(response: requests.Response) -> bytes:
        packed = response.headers.get("content-encoding", "identity").lower()
        if packed != "identity":  # unpacked, a few bytes may be gigabytes
            raise CaError(f"its answer is packed ({packed[:50]}), which was not asked for")
        body = bytearray()
        for chunk in response.iter_content(_CHUNK):
            body += chunk
            if len(body) > _MAX_ANSWER:
                raise CaError(f"its answer is larger than {_MAX_ANSWER} bytes")
        return bytes(body)

    def _judge(self, response: requests.Response, body: bytes) -> Reply:
        headers = {name.lower(): value for name, value in response.headers.items()}
        nonce = headers.get("replay-nonce")
        if nonce is not None:
            self._nonces = [nonce]  # the newest is the one least likely to have ended
        status = response.status_code
        retry_after = http_dates.retry_after(headers.get("retry-after"), self._clock())
        if 200 <= status < 300:
            return Reply(status, headers, body, retry_after)
        problem = _problem(body)
        if problem is not None:
            raise problem.error(retry_after, status=status)
        if 300 <= status < 400:
            raise CaError(f"it redirects to {headers.get('location', 'nowhere')[:200]}")
        raise CaError(
            f"it answers with the HTTP status {status}",
            retry_after,
            rejected=400 <= status < 500 and status != 429,
            passing=status >= 500 and retry_after is None,
        )


def _origin(url: str) -> tuple[str, str]:
    try:
        parts = urlsplit(url)
    except ValueError:
        return "", ""
    return parts.scheme, parts.netloc.lower()


def _problem(body: bytes) -> Problem | None:
    try:
        return Problem.of(json.loads(body))
    except (ValueError, RecursionError):
        return None


def _decoded(nonce: str) -> bytes:
    try:
        return b64decode(nonce)
    except ValueError as error:  # binascii's is one too
        raise CaError("its Replay-Nonce is no base64url") from error


def _why(error: BaseException) -> str:
    """Say what is at the bottom: the libraries wrap an error three times, and print it all."""
    while True:
        below = error.__cause__ or error.__context__
        if below is None:
            break
        error = below
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error)[:200] or type(error).__name__


def _trust(bundle: Path | None) -> str | bool:
    """Return what the CA's own certificate is verified by: a file, a folder, or True.

    Without a bundle these are the CAs of the system, which its operator may have added to; if
    there are none, the library's own.
    """
    if bundle is not None:
        return str(bundle)
    paths = ssl.get_default_verify_paths()
    if paths.cafile:
        return paths.cafile
    if paths.capath and any(Path(paths.capath).iterdir()):
        return paths.capath
    return True
