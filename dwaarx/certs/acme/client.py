"""One certificate from one CA: order, proof, finalization, download. Synchronous, for threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TypeVar

import attrs
from acme import messages
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from josepy.interfaces import JSONDeSerializable
from josepy.json_util import JSONObjectWithFields, field
from twisted.logger import Logger

from dwaarx.certs.acme import chain
from dwaarx.certs.acme.account import Account
from dwaarx.certs.acme.answers import Authorization, Challenge, Directory, Order
from dwaarx.certs.acme.network import Network, Reply, Signer
from dwaarx.certs.acme.problems import CaError
from dwaarx.certs.acme.registration import Registrar
from dwaarx.certs.acme.solvers import Solver
from dwaarx.certs.errors import AcmeError
from dwaarx.certs.pair import KeyPair
from dwaarx.config.model import AcmeCa

_log = Logger()

T = TypeVar("T")

# From the order to the certificate; CAs validate from several places, and take their time.
ORDER_DEADLINE = 180.0
# Between two looks at what the CA is about: first soon, for those that are quick.
_FIRST_PAUSE = 0.25
_LONGEST_PAUSE = 5.0

# Orders that fail for no reason of ours are placed once more.
_ORDERS = 2

_CHAIN_TYPE = "application/pem-certificate-chain"


class _NewOrder(messages.NewOrder):
    """An order that names the certificate it replaces (RFC 9773 section 5)."""

    replaces: str | None = field("replaces", omitempty=True)


class _ValidationError(CaError):
    """The CA did not find the proof; another kind of proof may do."""


@attrs.frozen
class Request:
    """What is wanted: a name (or a wildcard), and how.

    `replaces` is the id of the certificate that this one comes after (`ari.certificate_id`), if
    it is of this CA.
    """

    name: str
    email: str | None = None
    profile: str | None = None
    must_staple: bool = False
    replaces: str | None = None

    @property
    def proven(self) -> str:
        """The name that is to be proven: without the label of a wildcard."""
        return self.name.removeprefix("*.")


class AcmeClient:
    """One thread's dealings with one CA."""

    def __init__(
        self, ca: AcmeCa, directory: Directory, registrar: Registrar, network: Network
    ) -> None:
        self._ca = ca
        self._directory = directory
        self._registrar = registrar
        self._network = network

    def obtain(self, request: Request, solvers: Sequence[Solver]) -> tuple[KeyPair, str | None]:
        """Return a new certificate, and the kind of challenge that proved its name.

        The solvers are tried in order, each with an order of its own, because a proof that fails
        ends its order. The kind is None if the CA wanted no proof. Raises AcmeError.
        """
        self._check(request)
        failures = []
        for solver in solvers:
            try:
                return self._obtain(request, solver)
            except _ValidationError as error:
                failures.append(error.reason)
        raise CaError("; ".join(failures), rejected=True)

    def _obtain(self, request: Request, solver: Solver) -> tuple[KeyPair, str | None]:
        left = _ORDERS
        while True:
            left -= 1
            attempt = _Attempt(self._directory, self._network, self._account(request))
            try:
                order = self._order(attempt, request)
                proven = attempt.prove(order, request, solver)
                return attempt.finish(order, request), solver.kind if proven else None
            except CaError as error:
                if not left or not error.passing:
                    raise
            self._network.pause(_LONGEST_PAUSE)

    def _check(self, request: Request) -> None:
        profiles = self._directory.profiles
        if request.profile is not None and request.profile not in profiles:
            there = f"those it has are {', '.join(profiles)}" if profiles else "it has none"
            raise CaError(f"it has no profile {request.profile!r}: {there}", rejected=True)
        if self._directory.external_account_required and self._ca.eab is None:
            raise CaError(
                "it wants an external account: put `eab KEY_ID MAC_KEY` into its acme_ca block",
                rejected=True,
            )

    def _account(self, request: Request, unknown: str | None = None) -> Account:
        return self._registrar.account(
            self._ca, request.email, self._directory, self._network, unknown
        )

    def _order(self, attempt: _Attempt, request: Request) -> Order:
        try:
            return attempt.order(request)
        except CaError as error:
            if error.code == "accountDoesNotExist":
                attempt.account = self._account(request, attempt.account.url)
            elif request.replaces is None or not error.rejected:
                raise
        # What is replaced was replaced already, or is of another account, or forgotten: no
        # reason to go without a certificate.
        return attempt.order(attrs.evolve(request, replaces=None))


class _Attempt:
    """One order, from its making to the certificate."""

    def __init__(self, directory: Directory, network: Network, account: Account) -> None:
        self.account = account
        self._directory = directory
        self._network = network
        self._end = network.timer() + ORDER_DEADLINE

    def order(self, request: Request) -> Order:
        """Place the order."""
        identifier = messages.Identifier(typ=messages.IDENTIFIER_FQDN, value=request.name)
        replaces = request.replaces if self._directory.renewal_info is not None else None
        message = _NewOrder(identifiers=[identifier], profile=request.profile, replaces=replaces)
        reply = self._post(self._directory.new_order, message)
        return Order.of(reply.json, reply.location())

    # --- the proof ----------------------------------------------------------

    def prove(self, order: Order, request: Request, solver: Solver) -> bool:
        """Prove the name, unless the CA takes it for proven; return whether it was needed."""
        needed = False
        for url in order.authorizations:
            authorization = Authorization.of(self._post(url).json)
            if authorization.status == "valid":
                continue
            if authorization.status != "pending":
                raise _failed(authorization, request)
            challenge = authorization.challenge(solver.kind)
            if challenge is None:
                offered = ", ".join(each.kind for each in authorization.challenges) or "none"
                raise _ValidationError(
                    f"{request.name}: it offers no {solver.kind} challenge, but {offered}",
                    rejected=True,
                )
            self._solve(url, challenge, request, solver)
            needed = True
        return needed

    def _solve(self, url: str, challenge: Challenge, request: Request, solver: Solver) -> None:
        proof = challenge.token, self.account.key_authorization(challenge.token)
        try:
            solver.present(request.proven, *proof)
            self._post(challenge.url, _Empty())
            authorization = self._poll(
                url,
                lambda reply: Authorization.of(reply.json),
                lambda each: each.status != "pending",
                f"validating {request.proven} by {solver.kind}",
            )
        finally:
            try:
                solver.remove(request.proven, *proof)
            except AcmeError as error:
                _log.warn(
                    "what proved {name} by {kind} is not removed: {reason}",
                    name=request.proven,
                    kind=solver.kind,
                    reason=error.reason,
                )
        if authorization.status != "valid":
            raise _failed(authorization, request, solver.kind)

    # --- the certificate ----------------------------------------------------

    def finish(self, order: Order, request: Request) -> KeyPair:
        """Have the certificate made, once the CA is ready for it, and fetch it."""
        key = ec.generate_private_key(ec.SECP256R1())
        message = messages.CertificateRequest(csr=_csr(key, request))
        order = self._settle(order, ("pending",), request)
        if order.status == "ready":
            order = self._finalize(order, message)
        order = self._settle(order, ("pending", "ready", "processing"), request)
        if order.certificate is None:
            raise CaError(f"the order for {request.name} is {order.status}, without a certificate")
        reply = self._post(order.certificate, accept=_CHAIN_TYPE)
        now = datetime.fromtimestamp(self._network.now(), UTC)
        return chain.check(reply.body, key, request.name, now)

    def _finalize(self, order: Order, message: messages.CertificateRequest) -> Order:
        try:
            reply = self._post(order.finalize, message)
        except CaError as error:
            if error.rejected:
                raise
            # The answer may be all that is missing: some CAs sign while one waits, and what they
            # signed counts against their limits whether it is fetched or not.
            there = Order.of(self._post(order.url).json, order.url)
            if there.status == "ready":
                raise
            return there
        return Order.of(reply.json, order.url)

    def _settle(self, order: Order, passing: Sequence[str], request: Request) -> Order:
        """Wait until an order has none of these statuses any more."""
        if order.status in passing:
            order = self._poll(
                order.url,
                lambda reply: Order.of(reply.json, order.url),
                lambda each: each.status not in passing,
                f"making the certificate for {request.name}",
            )
        if order.status == "invalid":
            problem = order.problem
            if problem is None:
                raise CaError(f"the order for {request.name} failed, no reason given", passing=True)
            raise problem.error()
        return order

    # --- the requests -------------------------------------------------------

    def _post(
        self,
        url: str,
        payload: JSONDeSerializable | None = None,
        accept: str = "application/json",
    ) -> Reply:
        signer = Signer(self.account.jwk, self.account.url)
        return self._network.post(url, payload, signer, self._directory.new_nonce, accept)

    def _poll(
        self, url: str, read: Callable[[Reply], T], done: Callable[[T], bool], what: str
    ) -> T:
        pause = _FIRST_PAUSE
        while True:
            reply = self._post(url)
            value = read(reply)
            if done(value):
                return value
            wait = pause
            if reply.retry_after is not None:
                wait = max(wait, reply.retry_after - self._network.now())
            if self._network.timer() + wait > self._end:
                raise CaError(f"{what} has no end after {ORDER_DEADLINE:.0f} s")
            self._network.pause(wait)
            pause = min(pause * 2, _LONGEST_PAUSE)


class _Empty(JSONObjectWithFields):
    """`{}`: the answer to a challenge (RFC 8555 section 7.5.1)."""


def _csr(key: ec.EllipticCurvePrivateKey, request: Request) -> x509.CertificateSigningRequest:
    names = x509.SubjectAlternativeName([x509.DNSName(request.name)])
    builder = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .add_extension(names, critical=False)
    )
    if request.must_staple:
        feature = x509.TLSFeature([x509.TLSFeatureType.status_request])
        builder = builder.add_extension(feature, critical=False)
    return builder.sign(key, hashes.SHA256())


def _failed(
    authorization: Authorization, request: Request, kind: str = "validation"
) -> _ValidationError:
    problem = authorization.problem
    why = problem.sentence if problem is not None else f"it is {authorization.status}"
    return _ValidationError(f"{request.name}: {kind} failed: {why}", rejected=True)
