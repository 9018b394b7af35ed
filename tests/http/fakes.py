"""An Exchange that writes down what a handler does with it, and what else handlers need."""

from __future__ import annotations

from dwaarx.http.events import Fields, RequestHead
from dwaarx.http.exchange import ConnectionInfo, Exchange

INFO = ConnectionInfo("192.0.2.7", 50000, "192.0.2.1", 443, secure=True, server_name="example.com")


class FakeExchange(Exchange):
    """`said` holds every call in order: (name, *arguments); pieces of body stand in `body`."""

    __slots__ = ("_ended", "body", "said")

    def __init__(self, request, info=INFO, *, request_ended=True):
        super().__init__(request, info, request_ended=request_ended)
        self.said = []
        self.body = b""
        self._ended = False

    @property
    def ended(self):
        return self._ended

    @property
    def status(self):
        return next((entry[1] for entry in self.said if entry[0] in ("head", "answer")), None)

    @property
    def fields(self):
        return dict(next(entry[2] for entry in self.said if entry[0] in ("head", "answer")))

    @property
    def names(self):
        """What was called, in order, with `body` once for pieces in a row."""
        names = [entry[0] for entry in self.said]
        return [n for at, n in enumerate(names) if n != "body" or names[at - 1 : at] != ["body"]]

    def _say(self, *entry):
        if not self._ended:
            self.said.append(entry)

    def send_informational(self, status, fields):
        self._say("informational", status, list(fields))

    def _send_head(self, status: int, fields: Fields, end: bool) -> None:
        self._say("head", status, list(fields), end)
        self._ended = self._ended or end

    def _send_answer(self, status: int, fields: Fields, body: bytes) -> None:
        self._say("answer", status, list(fields), body)
        self._ended = True

    def send_body(self, data):
        self._say("body", data)
        self.body += data

    def end(self, trailers=()):
        self._say("end", tuple(trailers))
        self._ended = True

    def reset(self, reason):
        self.said.append(("reset", reason))
        self._ended = True

    def pause_request(self):
        self._say("pause_request")

    def resume_request(self):
        self._say("resume_request")


def make_request(target=b"/", method=b"GET", **changes):
    values = {
        "scheme": b"https",
        "authority": b"example.com",
        "fields": [],
        "version": b"1.1",
        **changes,
    }
    return RequestHead(method, values.pop("scheme"), values.pop("authority"), target, **values)


def make_exchange(target=b"/", method=b"GET", info=INFO, request_ended=None, **changes):
    """An exchange for a request; it has a body if `content_length` or `request_ended` say so."""
    if request_ended is None:
        request_ended = not changes.get("content_length")
    return FakeExchange(make_request(target, method, **changes), info, request_ended=request_ended)


class NamedHandler:
    """Answers 200 with its name."""

    def __init__(self, name):
        self.name = name
        self.seen = []

    def handle(self, exchange):
        self.seen.append(exchange)
        exchange.answer(200, (), self.name.encode())
