"""Reading pieces of Dwaarfiles in tests."""

from __future__ import annotations

from collections.abc import Mapping
from textwrap import dedent

import pytest

from dwaarx.config import ConfigError, parse
from dwaarx.config.errors import Problems
from dwaarx.config.expand import Statement, expand
from dwaarx.config.model import Config, Route, Site


def read(text: str, environ: Mapping[str, str] | None = None) -> Config:
    return parse(dedent(text), "Dwaarfile", {"HOME": "/home/user"} if environ is None else environ)


def problems(text: str, environ: Mapping[str, str] | None = None) -> list[str]:
    """Return the problems as LINE:COL: message."""
    with pytest.raises(ConfigError) as caught:
        read(text, environ)
    assert {problem.location.file for problem in caught.value.problems} == {"Dwaarfile"}
    return [str(problem).removeprefix("Dwaarfile:") for problem in caught.value.problems]


def problem(text: str, environ: Mapping[str, str] | None = None) -> str:
    """Return the only problem."""
    (only,) = problems(text, environ)
    return only


def site(directives: str, address: str = "http://a.test") -> Site:
    return read(f"{address} {{\n{directives}\n}}").sites[0]


def routes(directives: str) -> tuple[Route, ...]:
    return site(directives).routes


def route(directive: str) -> Route:
    (only,) = routes(directive)
    return only


def site_problem(directive: str) -> str:
    """Return the only problem of a site whose second line is the directive."""
    return problem(f"http://a.test {{\n{directive}\n}}")


def option_problem(directive: str) -> str:
    """Return the only problem of the global option on the second line."""
    return problem(f"{{\n{directive}\n}}")


def statements(text: str, environ: Mapping[str, str] | None = None) -> list[object]:
    """Return the statements as lists of words and lists."""
    found = expand(dedent(text), "Dwaarfile", environ or {}, Problems())
    return [_plain(each) for each in found]


def _plain(statement: Statement) -> list[object]:
    plain: list[object] = [word.text for word in statement.words]
    if statement.block is not None:
        plain.append([_plain(inner) for inner in statement.block])
    return plain
