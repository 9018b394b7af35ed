"""`header` and `request_header`: changes of fields, compiled once and made for each message."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs

from dwaarx.config.model import HeaderOp
from dwaarx.http.events import Field, Fields
from dwaarx.http.exchange import Exchange
from dwaarx.http.fields import CONNECTION_SPECIFIC, FieldError, is_token, is_value, parse_authority
from dwaarx.http.forwarded import ClearedFields, without_claims
from dwaarx.http.placeholders import Template, compile_template

# The sessions write these; a Dwaarfile that changed them would break the framing.
_FRAMING = CONNECTION_SPECIFIC | {b"content-length", b"te", b"trailer"}

_Change = Callable[[list[Field], Exchange], list[Field]]


def compile_response_changes(ops: Sequence[HeaderOp]) -> Callable[[Exchange], None]:
    """Return what hangs these changes on an exchange. Raises ValueError for an impossible one."""
    changes = [_compile(op) for op in ops]

    def hang(exchange: Exchange) -> None:
        def change(_status: int, fields: Fields) -> Fields:
            changed = list(fields)
            for each in changes:
                changed = each(changed, exchange)
            return changed

        exchange.response_changes.append(change)

    return hang


def compile_request_changes(ops: Sequence[HeaderOp]) -> Callable[[Exchange], None]:
    """Return what changes an exchange's request. Raises ValueError for an impossible change.

    Before the first change, what the client claims about its way (X-Forwarded-*) is taken out.
    Setting `host` changes the authority; a value made from placeholders that is no authority
    leaves it as it was.
    """
    changes = [_compile(op) for op in ops if op.name != "host"]
    hosts = [_compile_host(op) for op in ops if op.name == "host"]

    def apply(exchange: Exchange) -> None:
        request = exchange.request
        fields: list[Field] = without_claims(request.fields)
        for change in changes:
            fields = change(fields, exchange)
        authority = request.authority
        for host in hosts:
            try:
                authority = parse_authority(host(exchange))
            except FieldError:
                continue
        exchange.request = attrs.evolve(request, fields=ClearedFields(fields), authority=authority)

    return apply


def _compile_host(op: HeaderOp) -> Template:
    if op.op != "set":
        raise ValueError("Host can only be set")
    if "{" not in op.value:
        parse_authority(op.value.encode("utf-8"))
    return compile_template(op.value)


def _compile(op: HeaderOp) -> _Change:
    name = op.name.encode("utf-8").lower()
    if op.op == "delete" and name.endswith(b"*"):
        prefix = name[:-1]

        def delete_prefixed(fields: list[Field], _exchange: Exchange) -> list[Field]:
            return [field for field in fields if not _is_prefixed(field[0], prefix)]

        return delete_prefixed
    if not is_token(name):
        raise ValueError(f"{op.name!r} is not a field name")
    if name in _FRAMING:
        raise ValueError(f"{op.name} belongs to the framing of the message")
    if op.op == "delete":
        return lambda fields, _exchange: [field for field in fields if field[0] != name]
    if not is_value(op.value.strip(" \t").encode("utf-8")):
        raise ValueError(f"the value for {op.name} cannot stand in a field")
    value = compile_template(op.value)

    def add(fields: list[Field], exchange: Exchange) -> list[Field]:
        # Empty placeholders may leave white space at the ends, which no field value has.
        fields.append((name, value(exchange).strip(b" \t")))
        return fields

    if op.op == "add":
        return add
    if op.op == "set":
        return lambda fields, exchange: add([f for f in fields if f[0] != name], exchange)
    if op.op == "default":
        return lambda fields, exchange: (
            fields if any(field[0] == name for field in fields) else add(fields, exchange)
        )
    raise ValueError(f"{op.op!r} is no change of a field")


def _is_prefixed(name: bytes, prefix: bytes) -> bool:
    return name.startswith(prefix) and name not in _FRAMING
