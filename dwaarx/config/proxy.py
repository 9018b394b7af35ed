"""`reverse_proxy`: upstreams and how to speak with them."""

from __future__ import annotations

from typing import Final

from dwaarx.config import addresses, statements, values
from dwaarx.config.errors import Problems, WrongError, likely, quoted
from dwaarx.config.expand import Statement
from dwaarx.config.model import Address, ReverseProxy
from dwaarx.config.statements import Grammar, read_block

_FORM: Final = "reverse_proxy [MATCHER] UPSTREAM…"
_UPCOMING: Final = """
    dynamic fail_duration flush_interval handle_response header_down header_up
    health_body health_fails health_follow_redirects health_headers health_interval health_method
    health_passes health_port health_request_body health_status health_timeout health_upstream
    health_uri lb_retries lb_retry_match lb_try_duration lb_try_interval max_fails replace_status
    request_buffers response_buffers rewrite method stream_close_delay stream_timeout
    trusted_proxies unhealthy_latency unhealthy_request_count unhealthy_status verbose_logs
"""
_PROXY: Final = Grammar(
    "`reverse_proxy`", not_yet=frozenset(_UPCOMING.split()), repeatable=frozenset({"to"})
)
_TRANSPORT_UPCOMING: Final = """
    compression dial_fallback_delay expect_continue_timeout forward_proxy_url keepalive
    keepalive_idle_conns keepalive_idle_conns_per_host keepalive_interval local_address
    max_conns_per_host max_response_header network_proxy proxy_protocol read_buffer resolvers
    tls tls_client_auth tls_curves tls_except_ports tls_insecure_skip_verify tls_renegotiation
    tls_server_name tls_timeout tls_trust_pool tls_trusted_ca_certs versions write_buffer
    write_timeout
"""
_TRANSPORT: Final = Grammar("`transport http`", not_yet=frozenset(_TRANSPORT_UPCOMING.split()))
_POLICIES_NOT_YET: Final = (
    "client_ip_hash",
    "cookie",
    "first",
    "header",
    "ip_hash",
    "least_conn",
    "query",
    "random",
    "random_choose",
    "uri_hash",
    "weighted_round_robin",
)
_DIRECTIVES: Final = frozenset(statements.PLACES)


def read_proxy(statement: Statement, problems: Problems) -> ReverseProxy:
    """Return what one `reverse_proxy` directive says."""
    reader = _Reader(problems)
    arguments = statement.arguments
    matcher = None
    if arguments and values.is_matcher(arguments[0]):
        matcher = values.matcher(arguments[0])
        arguments = arguments[1:]
    if statement.block is None and not arguments:
        raise WrongError(statement.location, f"an upstream is missing: expected `{_FORM}`")
    reader.upstreams.extend(addresses.upstream(word, _DIRECTIVES) for word in arguments)
    table = {"to": reader.to, "lb_policy": reader.lb_policy, "transport": reader.transport}
    read_block(statement.block or (), _PROXY, table, problems)
    if not reader.upstreams and not reader.tried:
        message = "an upstream is missing: expected `to UPSTREAM…` in the block"
        raise WrongError(statement.location, message)
    return ReverseProxy(
        tuple(reader.upstreams), matcher, **reader.times, location=statement.location
    )


class _Reader:
    def __init__(self, problems: Problems) -> None:
        self.upstreams: list[Address] = []
        self.times: dict[str, float] = {}
        self.tried = False
        self._problems = problems

    def to(self, statement: Statement) -> None:
        self.tried = True
        statements.no_block(statement)
        for word in statements.words(statement, "to UPSTREAM…", 1):
            self.upstreams.append(addresses.upstream(word, _DIRECTIVES))

    def lb_policy(self, statement: Statement) -> None:
        word = statements.words(statement, "lb_policy round_robin", 1)[0]
        if word.text in _POLICIES_NOT_YET:
            raise WrongError(word.location, statements.not_yet(f"lb_policy {word.text}"))
        if word.text != "round_robin":
            hint = likely(word.text, ["round_robin"])
            raise WrongError(word.location, f"there is no lb_policy {quoted(word.text)}{hint}")
        statements.one_word(statement, "lb_policy round_robin")

    def transport(self, statement: Statement) -> None:
        word = statements.words(statement, "transport http { … }", 1, 1)[0]
        if word.text == "fastcgi":
            raise WrongError(word.location, statements.not_yet("transport fastcgi"))
        if word.text != "http":
            hint = likely(word.text, ["http"])
            raise WrongError(word.location, f"there is no transport {quoted(word.text)}{hint}")
        block = statements.block(statement, "transport http")
        names = ["dial_timeout", "response_header_timeout", "read_timeout"]
        table = dict.fromkeys(names, self._time)
        read_block(block, _TRANSPORT, table, self._problems)

    def _time(self, statement: Statement) -> None:
        word = statements.one_word(statement, f"{statement.name} DURATION")
        zero = statement.name == "read_timeout"
        self.times[statement.name] = values.duration(word, zero=zero)
