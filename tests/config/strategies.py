"""Texts that look like Dwaarfiles, for hypothesis."""

from __future__ import annotations

from hypothesis import strategies as st

_WORDS = r"""
    a.test *.a.test localhost:8443 http://x https://y:1 :8080 [::1]:1 127.0.0.1 a, , @m * /x /x/*
    tls internal bind respond redir header request_header handle handle_path reverse_proxy to
    dns_over_tls dns_over_https resolvers record allow policy A AAAA TXT MX CNAME hello.test
    192.0.2.1 ::1 10.0.0.0/8 udp://[::1]:53 http_port https_port console ssh unix off workers 1 80
    timeouts idle 10s 1h30m 0 storage auto_https import (s) s snippet ocsp transport http
    email a@b.test acme_ca https://a.test/d eab QUJD profile certificate_cache refresh max_age
    allow_responder dns rfc2136 hmac-sha512 must_staple
    dial_timeout lb_policy {$X} {$X:y} {$} {$ {uri} {nope} permanent 301 204 +A -A ?A >A -X-* # "x
    "two words" `raw` "" 99999999999999999999 ü x{ }y {} $
"""
_strange = st.sampled_from(["\u2028", "\x00", "\ufeff", '"', "\\"])
_words = st.sampled_from(_WORDS.split()) | _strange | st.text(max_size=3)
_line = st.lists(_words, min_size=1, max_size=5).map(" ".join)


def _nested(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    block = st.lists(inner, max_size=4).map("\n".join)
    many = st.tuples(_line, block).map(lambda both: f"{both[0]} {{\n{both[1]}\n}}")
    one = st.tuples(_line, inner).map(lambda both: f"{both[0]} {{ {both[1]} }} # c")
    return many | one


def dwaarfiles() -> st.SearchStrategy[str]:
    """Lines and blocks of words that mean something somewhere, and of some that do not."""
    statement = st.recursive(_line, _nested, max_leaves=8)
    return st.lists(statement | st.just("") | st.just("{\n}"), max_size=6).map("\n".join)
