"""TXT records for dns-01, put into a zone by dynamic updates (RFC 2136) signed with TSIG."""

from __future__ import annotations

import socket
import threading
import time

import dns.exception
import dns.message
import dns.name
import dns.query
import dns.rcode
import dns.rdatatype
import dns.tsig
import dns.tsigkeyring
import dns.update

from dwaarx.certs.errors import AcmeError
from dwaarx.config.model import Rfc2136
from dwaarx.words import reason_of

# For one exchange with the server, all in all.
TIMEOUT = 10.0
# A primary answers what it took at once; a server that passes updates on takes its time.
_SETTLED = 60.0
_PAUSE = 0.5

# CAs ask once; nobody else should remember the answer for long.
_TTL = 60

# More than anybody has in a row; the rest is a loop.
_MAX_ALIASES = 8

_LABEL = "_acme-challenge"

# One of the two has another key than the other, or another time: that does not mend itself.
_KEY_ERRORS = (
    dns.tsig.PeerError,
    dns.tsig.BadSignature,
    dns.tsig.BadKey,
    dns.tsig.BadAlgorithm,
    dns.tsig.BadTime,
)


class Rfc2136Solver:
    """One server that takes updates; synchronous, for threads.

    Every question and update goes to that server, over TCP, and is signed: a server with views
    tells by the key which one is meant.
    """

    def __init__(self, settings: Rfc2136, stop: threading.Event | None = None) -> None:
        self._settings = settings
        self._stop = stop if stop is not None else threading.Event()
        # Where the records are that the server took, or may have taken.
        self._there: dict[tuple[str, str], tuple[dns.name.Name, dns.name.Name]] = {}

    def present(self, name: str, value: str) -> None:
        """Add the TXT record for a name, and wait until the server answers it; raises AcmeError.

        The label of a wildcard is cut off (RFC 8555 section 7.1.3).
        """
        owner, zone = self._place(name)
        update = self._update(zone)
        update.add(owner, _TTL, "TXT", value)
        self._there[name, value] = owner, zone
        try:
            self._exchange(update, f"adding {owner}")
        except AcmeError as error:
            if error.rejected:
                del self._there[name, value]
            raise
        self._await(owner, value)

    def remove(self, name: str, value: str) -> None:
        """Delete the TXT record of that value, and no other, if it was added; raises AcmeError."""
        if (name, value) not in self._there:
            return
        owner, zone = self._there.pop((name, value))
        update = self._update(zone)
        update.delete(owner, "TXT", value)
        self._exchange(update, f"deleting {owner}")

    # --- where --------------------------------------------------------------

    def _place(self, name: str) -> tuple[dns.name.Name, dns.name.Name]:
        """Return the name of the record, aliases followed, and the zone that it is in."""
        try:
            owner = dns.name.from_text(f"{_LABEL}.{name.removeprefix('*.')}")
        except (dns.exception.DNSException, UnicodeError) as error:
            raise AcmeError(f"{name} is no name of the DNS: {error}", rejected=True) from error
        for _ in range(_MAX_ALIASES):
            answer = self._ask(owner, "SOA")
            alias = _alias(answer, owner)
            if alias is None:
                return owner, self._zone(owner, answer)
            owner = alias
        raise AcmeError(f"{_LABEL} of {name} is a loop of CNAME records", rejected=True)

    def _zone(self, owner: dns.name.Name, answer: dns.message.Message) -> dns.name.Name:
        """Return the zone that a name is in, by the SOA record that comes with any answer."""
        for section in (answer.answer, answer.authority):
            for records in section:
                if records.rdtype == dns.rdatatype.SOA and owner.is_subdomain(records.name):
                    return records.name
        raise AcmeError(
            f"{self._server} has no zone that {owner} is in: it answers "
            f"{dns.rcode.to_text(answer.rcode())} without an SOA record",
            rejected=True,
        )

    # --- whether it is there ------------------------------------------------

    def _await(self, owner: dns.name.Name, value: str) -> None:
        end = time.monotonic() + _SETTLED
        while not self._answers(owner, value):
            if time.monotonic() > end:
                raise AcmeError(
                    f"{self._server} took the record {owner}, and does not answer it after "
                    f"{_SETTLED:.0f} s"
                )
            if self._stop.wait(_PAUSE):
                raise AcmeError("dwaarx is stopping")

    def _answers(self, owner: dns.name.Name, value: str) -> bool:
        answer = self._ask(owner, "TXT")
        return any(
            b"".join(record.strings) == value.encode()
            for records in answer.answer
            if records.rdtype == dns.rdatatype.TXT
            for record in records
        )

    # --- the exchanges ------------------------------------------------------

    @property
    def _server(self) -> str:
        return str(self._settings.server)

    def _update(self, zone: dns.name.Name) -> dns.update.UpdateMessage:
        update = dns.update.UpdateMessage(zone)
        self._sign(update)
        return update

    def _ask(self, name: dns.name.Name, kind: str) -> dns.message.Message:
        query = dns.message.make_query(name, kind, flags=0)  # no RD: what it knows itself
        self._sign(query)
        answer = self._exchange(query, f"asking for {name}", refused=False)
        if answer.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
            raise AcmeError(
                f"{self._server} answers {dns.rcode.to_text(answer.rcode())} when asked for {name}",
                rejected=True,
            )
        return answer

    def _sign(self, message: dns.message.Message) -> None:
        settings = self._settings
        try:
            keyring = dns.tsigkeyring.from_text({settings.key_name: settings.secret})
            message.use_tsig(keyring, algorithm=dns.name.from_text(settings.algorithm))
        except (dns.exception.DNSException, ValueError) as error:
            raise AcmeError(
                f"the key of `dns rfc2136` is not usable: {error}", rejected=True
            ) from error

    def _exchange(
        self, message: dns.message.Message, what: str, *, refused: bool = True
    ) -> dns.message.Message:
        reason = ""
        for address in self._addresses():
            try:
                answer = dns.query.tcp(
                    message, address, timeout=TIMEOUT, port=self._settings.server.port
                )
            except dns.exception.Timeout:
                reason = f"no answer within {TIMEOUT:.0f} s"
            except OSError as error:
                reason = reason_of(error)
            except (dns.exception.DNSException, EOFError, ValueError) as error:
                raise AcmeError(
                    f"{what} at {self._server} failed: {_why(error)}",
                    rejected=isinstance(error, _KEY_ERRORS),
                ) from error
            else:
                if refused and answer.rcode() != dns.rcode.NOERROR:
                    code = dns.rcode.to_text(answer.rcode())
                    raise AcmeError(
                        f"{what} at {self._server} failed: it answers {code}", rejected=True
                    )
                return answer
        raise AcmeError(f"{what} at {self._server} failed: {reason}")

    def _addresses(self) -> list[str]:
        host, port = self._settings.server.host, self._settings.server.port
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise AcmeError(f"the DNS server {host} has no address: {reason_of(error)}") from error
        return list(dict.fromkeys(str(address[0]) for *_, address in found))


def _alias(answer: dns.message.Message, owner: dns.name.Name) -> dns.name.Name | None:
    for records in answer.answer:
        if records.rdtype == dns.rdatatype.CNAME and records.name == owner:
            target: dns.name.Name = records[0].target
            return target
    return None


def _why(error: Exception) -> str:
    return str(error) or type(error).__name__
