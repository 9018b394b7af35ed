"""A client of the HTTP/1.1 session: what it feeds, and what it hears."""

from collections.abc import Callable

from dwaarx.http.events import (
    BodyEnded,
    BodyReceived,
    ConnectionEnded,
    Event,
    Fields,
    RequestHead,
    RequestReceived,
)
from dwaarx.http.h1 import H1Session

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


class Driver:
    """Feeds a session and answers each request with 204 as soon as it is whole."""

    def __init__(self, answer: Callable[[H1Session], None] | None = None) -> None:
        self.session = H1Session(b"https")
        self.heads: list[RequestHead] = []
        self.bodies: list[bytes] = []
        self.trailers: list[Fields] = []
        self.error: str | None = None
        self.over = False
        self.sent = b""
        self._answer = answer or (lambda session: session.send_head(204, (), end=True))

    def feed(self, *parts: bytes) -> "Driver":
        for part in parts:
            events = self.session.receive_data(part)
            while events:
                for event in events:
                    self.take(event)
                events = self.session.next_request()
            self.sent += b"".join(self.session.data_to_send())
        return self

    def take(self, event: Event) -> None:
        if isinstance(event, RequestReceived):
            self.heads.append(event.head)
            self.bodies.append(b"")
            if event.ended:
                self.trailers.append(())
                self._answer(self.session)
        elif isinstance(event, BodyReceived):
            assert event.data, "an empty piece"
            self.bodies[-1] += event.data
        elif isinstance(event, BodyEnded):
            self.trailers.append(event.trailers)
            self._answer(self.session)
        elif isinstance(event, ConnectionEnded):
            self.over = True
            self.error = event.error

    @property
    def status(self) -> int:
        """Of the last answer."""
        return int(self.sent.rpartition(b"HTTP/1.1 ")[2][:3])

    def told(self) -> tuple[object, ...]:
        return self.heads, self.bodies, self.trailers, self.error, self.over, self.sent


def single(data: bytes) -> list[bytes]:
    return [bytes([byte]) for byte in data]


def both(data: bytes) -> Driver:
    """Feed it whole and byte by byte: the same must be told, and answered."""
    whole = Driver().feed(data)
    assert whole.told() == Driver().feed(*single(data)).told()
    return whole


def request(*lines: bytes, line: bytes = b"GET / HTTP/1.1", host: bytes = b"Host: a\r\n") -> bytes:
    return line + b"\r\n" + host + b"".join(field + b"\r\n" for field in lines) + b"\r\n"
