"""The functions that the console offers, named and called as dnsdist's are."""

from __future__ import annotations

import difflib
import functools
import inspect
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import cryptography
import OpenSSL
from OpenSSL import SSL
from twisted.internet.defer import Deferred

import twisted
from dwaarx import __version__
from dwaarx.certs.ocsp_sign import generate_to_file
from dwaarx.certs.stapling import Outcome
from dwaarx.console.arguments import (
    Paths,
    read_address,
    read_path,
    read_sources,
    read_urls,
)
from dwaarx.console.errors import ConsoleError
from dwaarx.console.table import Report, Table
from dwaarx.frontend import Frontend
from dwaarx.listening import BindStatus
from dwaarx.words import utc

TLS_PORT = 853
DOH_PORT = 443


class Offered:
    """A function of the console; typed without its parentheses it tells what it does."""

    def __init__(self, function: Callable[..., object]) -> None:
        functools.update_wrapper(self, function)
        self._function = function

    def __call__(self, *args: Any, **kwargs: Any) -> object:
        """Call the function."""
        return self._function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"{self.usage}  {self.summary}"

    @property
    def usage(self) -> str:
        """Name and arguments."""
        words = []
        for name, parameter in inspect.signature(self._function).parameters.items():
            default = parameter.default
            words.append(name if default is parameter.empty else f"{name}={default!r}")
        return f"{self._function.__name__}({', '.join(words)})"

    @property
    def summary(self) -> str:
        """The first line of what help() says."""
        return (inspect.getdoc(self._function) or "").partition("\n")[0]


class Console:
    """Steers a frontend; `namespace()` is what is typed at the console."""

    def __init__(self, frontend: Frontend) -> None:
        self._frontend = frontend
        self._offered = {
            function.__name__: Offered(function)
            for function in (
                self.generateOCSPResponse,
                self.reloadAllCertificates,
                self.reloadConfig,
                self.refreshOCSP,
                self.renewCertificate,
                self.addTLSLocal,
                self.addDOHLocal,
                self.showCertificates,
                self.showOCSPCounters,
                self.showTLSFrontends,
                self.showDOHFrontends,
                self.showServers,
                self.showBinds,
                self.showVersion,
                self.help,
            )
        }

    def namespace(self) -> dict[str, Callable[..., object]]:
        """Give the functions by their names."""
        return dict(self._offered)

    # --- functions that act -----------------------------------------------------

    def generateOCSPResponse(
        self,
        certificate: str,
        caCertificate: str,
        caKey: str,
        output: str,
        days: int,
        minutes: int = 0,
    ) -> Report:
        """Sign an OCSP response "good" for a certificate of your own CA, into a file.

        certificate     PEM file with the certificate to answer for
        caCertificate   PEM file with the CA that issued it
        caKey           PEM file with that CA's key
        output          file to write the DER response to; it is replaced at once, as a whole
        days, minutes   how long the response is good, from now

        A certificate that this CA did not issue, a key that is not the CA's and a file that
        cannot be written are refused. reloadAllCertificates() then puts it to use.

        generateOCSPResponse("/etc/dwaarx/dns.pem", "/etc/dwaarx/ca.pem", "/etc/dwaarx/ca.key",
                             "/etc/dwaarx/dns.ocsp.der", 7)
        """
        paths = (
            read_path("certificate", certificate),
            read_path("caCertificate", caCertificate),
            read_path("caKey", caKey),
            read_path("output", output),
        )
        try:
            staple = generate_to_file(*paths, days, minutes, datetime.now(UTC))
        except (TypeError, ValueError) as error:
            # Only of days and minutes; a file at fault is told by an error of its own.
            raise ConsoleError(str(error)) from error
        return Report(f"wrote {paths[3]}: good until {utc(staple.end)}")

    def reloadAllCertificates(self) -> Report:
        """Read every certificate, key and OCSP response again; open connections go on.

        Each that cannot be loaded keeps what it had. If there is any such, the others are
        reloaded all the same, and then an error names those that were reloaded, those that
        were not, and why.
        """
        outcomes = self._frontend.manager.reload()
        kept = [f"kept {each.description}: {each.error}" for each in outcomes if each.error]
        reloaded = [f"reloaded {each.description}" for each in outcomes if not each.error]
        if kept:
            # An error and not a value, so that `dwaarx console` exits 1 and scripts stop.
            count = f"{len(kept)} of {len(outcomes)} could not be loaded"
            raise ConsoleError("\n".join((count, *kept, *reloaded)))
        return Report("\n".join(reloaded) or "there are no certificates")

    def refreshOCSP(self, name: str | None = None) -> Deferred[Report]:
        """Fetch new OCSP staples now, for one name or for all certificates.

        name   a name of the certificate, or the path of its file; None for all

        Waits for the responders and tells what came of each; if any did not give a staple, an
        error names it. Requests to one responder keep their distance, so thousands take time.

        refreshOCSP("dns.example.com")
        """
        try:
            outcomes = self._frontend.manager.refresh(name)
        except LookupError as error:
            raise ConsoleError(str(error.args[0])) from error
        return outcomes.addCallback(_report)

    def renewCertificate(self, name: str) -> Deferred[Report]:
        """Obtain a new certificate for a name now, however good the present one is.

        Waits until the new one is in use, or tells why it is not; the present one then stays.
        Certificates in files of your own are replaced in their files.

        renewCertificate("www.example.com")
        """
        try:
            renewed = self._frontend.manager.renew(name)
        except LookupError as error:
            raise ConsoleError(str(error.args[0])) from error
        return renewed.addCallback(lambda words: Report("\n".join(words)))

    def reloadConfig(self) -> Report:
        """Read the Dwaarfile again and apply it; an invalid one changes nothing.

        No connection is dropped. What addTLSLocal() and addDOHLocal() added stays.
        """
        return Report(self._frontend.reload())

    def addTLSLocal(
        self,
        address: str,
        certificate: Paths,
        key: Paths,
        options: Mapping[str, object] | None = None,
    ) -> Report:
        """Listen for DNS over TLS on one more address, until the service ends.

        address       "127.0.0.1:8853", "[::1]:853", "192.0.2.1" (then port 853)
        certificate   PEM file with the chain, leaf first; or a list (ECDSA and RSA)
        key           PEM file with the key; or a list of the same length
        options       {"ocspResponses": ["/etc/dwaarx/dns.ocsp.der"]}: one per certificate

        addTLSLocal("127.0.0.1:8853", "/etc/dwaarx/dns.pem", "/etc/dwaarx/dns.key")
        """
        where = read_address(address, TLS_PORT)
        sources = read_sources(certificate, key, options)
        return Report(self._frontend.add_tls_local(where, sources))

    def addDOHLocal(
        self,
        address: str,
        certificate: Paths,
        key: Paths,
        urls: str | Sequence[str] = "/dns-query",
        options: Mapping[str, object] | None = None,
    ) -> Report:
        """Listen for DNS over HTTPS on one more address, until the service ends.

        address       "127.0.0.1:8443", "[::1]:443", "192.0.2.1" (then port 443)
        certificate   PEM file with the chain, leaf first; or a list (ECDSA and RSA)
        key           PEM file with the key; or a list of the same length
        urls          path, or list of paths, to answer at
        options       {"ocspResponses": ["/etc/dwaarx/dns.ocsp.der"]}: one per certificate

        addDOHLocal("[::1]:8443", "/etc/dwaarx/dns.pem", "/etc/dwaarx/dns.key", ["/dns-query"])
        """
        where = read_address(address, DOH_PORT)
        sources = read_sources(certificate, key, options)
        return Report(self._frontend.add_doh_local(where, sources, read_urls(urls)))

    # --- functions that show ----------------------------------------------------

    def showCertificates(self) -> Table:
        """Show each certificate, its staple or why it has none, and what comes next.

        "guard" is who would tell that the certificate is revoked or to be renewed early: the
        OCSP responder, the CRL, ACME's renewal information (ARI). "problem" is what went wrong
        beside the staple: also why newer files are not served yet. "next attempt" is when dwaarx
        acts again by itself; it looks at files every few seconds.
        """
        return Table(
            (
                "names",
                "issuer",
                "serial",
                "not after",
                "key",
                "source",
                "staple",
                "why not stapled",
                "guard",
                "problem",
                "next attempt",
            ),
            (
                (
                    each.names,
                    each.issuer,
                    each.serial,
                    each.not_after,
                    each.key,
                    each.source,
                    each.staple,
                    each.why_not_stapled,
                    each.guard,
                    each.problem,
                    each.next_attempt,
                )
                for each in self._frontend.manager.status()
            ),
        )

    def showOCSPCounters(self) -> Table:
        """Show how often responders answered good, revoked, unknown, or not at all."""
        counts = self._frontend.manager.stapling.counts
        return Table(("outcome", "count"), sorted(counts.items()))

    def showTLSFrontends(self) -> Table:
        """Show the addresses that answer DNS over TLS."""
        return _binds(
            ("address", "certificates", "connections", "accepted", "TLS failures", "origin"),
            (each for each in self._frontend.binds() if "dot" in each.protocols),
        )

    def showDOHFrontends(self) -> Table:
        """Show the addresses that answer DNS over HTTPS, and at which paths."""
        return _binds(
            (
                "address",
                "urls",
                "certificates",
                "connections",
                "accepted",
                "TLS failures",
                "origin",
            ),
            (each for each in self._frontend.binds() if each.doh_paths),
        )

    def showServers(self) -> Table:
        """Show the servers that DNS queries are forwarded to."""
        return Table(
            (
                "pool",
                "name",
                "address",
                "outstanding",
                "queries",
                "failures",
                "latency ms",
            ),
            (
                (
                    each.pool,
                    each.name,
                    each.address,
                    each.outstanding,
                    each.queries,
                    each.failures,
                    each.latency,
                )
                for each in self._frontend.forwarder.servers()
            ),
        )

    def showBinds(self) -> Table:
        """Show every address that is listened on, and what it serves."""
        return _binds(tuple(_BIND_COLUMNS), self._frontend.binds())

    def showVersion(self) -> Report:
        """Tell the versions of dwaarx and of what it is built on."""
        tls = SSL.SSLeay_version(SSL.SSLEAY_VERSION).decode("ascii", "replace")
        return Report(
            f"dwaarx {__version__} (Python {platform.python_version()}, "
            f"Twisted {twisted.__version__}, pyOpenSSL {OpenSSL.__version__}, "
            f"cryptography {cryptography.__version__}, {tls})"
        )

    def help(self, function: object = None) -> Report:
        """List the functions; help(FUNCTION) tells all about one of them."""
        if function is None:
            margin = max(map(len, self._offered))
            lines = [f"{name:{margin}}  {each.summary}" for name, each in self._offered.items()]
            return Report("\n".join(lines))
        found = self._offered.get(function) if isinstance(function, str) else function
        if found is None:
            near = difflib.get_close_matches(str(function), self._offered, 1)
            hint = f"did you mean {near[0]}?" if near else "help() lists those there are"
            raise ConsoleError(f"there is no function {function}; {hint}")
        text = inspect.getdoc(found) or f"{type(found).__name__} without documentation"
        return Report(f"{found.usage}\n\n{text}" if isinstance(found, Offered) else text)


def _report(outcomes: Sequence[Outcome]) -> Report:
    lines = [f"{each.record.name}: {each.words}" for each in outcomes]
    failed = [line for line, each in zip(lines, outcomes, strict=True) if not each.good]
    if failed:
        # An error and not a value, so that `dwaarx console` exits 1 and scripts stop.
        good = [line for line, each in zip(lines, outcomes, strict=True) if each.good]
        count = f"{len(failed)} of {len(lines)} could not be refreshed"
        raise ConsoleError("\n".join((count, *failed, *good)))
    return Report("\n".join(lines) or "no certificate has an OCSP responder")


_BIND_COLUMNS: dict[str, Callable[[BindStatus], object]] = {
    "address": lambda bind: bind.address,
    "protocols": lambda bind: bind.protocols,
    "names": lambda bind: bind.names,
    "urls": lambda bind: bind.doh_paths,
    "certificates": lambda bind: bind.certificates,
    "connections": lambda bind: bind.connections,
    "accepted": lambda bind: bind.accepted,
    "TLS failures": lambda bind: bind.tls_failures,
    "origin": lambda bind: bind.origin,
}


def _binds(columns: tuple[str, ...], binds: Iterable[BindStatus]) -> Table:
    return Table(columns, ([_BIND_COLUMNS[column](bind) for column in columns] for bind in binds))
