"""The plan of the house: what may import what, read from the imports of every file."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import dwaarx

PACKAGE = Path(dwaarx.__file__).parent

# From the bottom to the top: a file imports files of its own room and of rooms before it. Rooms
# of one row do not know of each other.
ORDER = (
    ("__init__", "words", "collector"),  # the version; wordings; memory
    ("config",),
    ("plan", "deadline", "log", "reactor", "transport"),
    ("tls", "http"),
    ("certs", "dns"),
    ("check", "listening"),
    ("frontend",),
    ("console",),
    ("cli", "tap"),
)

# These import more narrowly than their rooms may.
ONLY = {"plan": {"config", "plan"}}

# Room by room, the files that know neither Twisted nor sockets nor TLS, by any way: what is said
# on the wire and in files, what follows from it, and when.
# fmt: off
SANS_IO = {
    "words": {""},
    "collector": {""},
    "plan": {""},
    "config": {
        "acme", "addresses", "errors", "expand", "fmt", "headers", "model", "options",
        "placeholders", "proxy", "reader", "reserved", "resolvers", "routes", "sites",
        "statements", "syntax", "values",
    },
    "tls": {"client_hello", "descriptors", "names"},
    "http": {
        "acme_challenge", "answers", "chunked", "date", "events", "exchange", "fields", "forwarded",
        "frames", "h1", "h1_client", "h1_exchange", "h1_request", "h2", "h2_core", "h2_exchange",
        "h2_flood", "h2_headers", "h2_output", "h2_settings", "h2_streams", "headers", "llhttp",
        "matchers", "placeholders", "router", "site",
    },
    "certs": {
        "acme.answers", "acme.ari", "acme.problems", "agenda", "crl", "der", "errors",
        "file_watch", "guard", "http_dates", "matching", "ocsp", "ocsp_request", "pacer",
        "schedule", "turns", "url",
    },
    "dns": {
        "acl", "answer", "asking", "channel", "doh", "dot", "errors", "message", "policies",
        "query", "randomness", "records", "resolv", "resolver", "stream",
    },
    "console": {
        "arguments", "colour", "completion", "errors", "evaluate", "table",
    },
}
# fmt: on
IO = {"OpenSSL", "_socket", "asyncio", "select", "selectors", "socket", "ssl", "twisted"}


def name_of(file: Path) -> str:
    """Return a file's module without `dwaarx.`; a package's is PACKAGE.__init__."""
    return ".".join(file.relative_to(PACKAGE).with_suffix("").parts)


FILES = {name_of(file): file for file in PACKAGE.rglob("*.py")}


def module(dotted: str) -> str:
    """Return the file that a dotted name of the house (without `dwaarx.`) is in."""
    while dotted and dotted not in FILES:
        if f"{dotted}.__init__" in FILES:
            return f"{dotted}.__init__"
        dotted = dotted.rpartition(".")[0]
    return dotted or "__init__"


def imports(file: Path) -> tuple[set[str], set[str]]:
    """Return the files of the house that one imports, and the top names of other packages."""
    dotted: set[str] = set()
    left: list[ast.AST] = [ast.parse(file.read_text())]
    while left:
        node = left.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            left += node.orelse  # what only says a type is not there when the house runs
            continue
        left += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            dotted |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: a relative import"
            dotted |= {f"{node.module}.{alias.name}" for alias in node.names}
    house = {name for name in dotted if name.partition(".")[0] == "dwaarx"}
    return (
        {module(name.partition(".")[2]) for name in house},
        {name.partition(".")[0] for name in dotted - house},
    )


IMPORTS = {name: imports(file) for name, file in FILES.items()}


def room(name: str) -> str:
    return name.partition(".")[0]


def test_every_file_is_in_a_room() -> None:
    rooms = [each for row in ORDER for each in row]
    assert sorted(rooms) == sorted({room(name) for name in FILES})


@pytest.mark.parametrize("name", sorted(FILES))
def test_no_import_runs_upward(name: str) -> None:
    floor = {each: index for index, row in enumerate(ORDER) for each in row}
    house, _ = IMPORTS[name]
    upward = {
        other
        for other in house
        if room(other) != room(name) and floor[room(other)] >= floor[room(name)]
    }
    assert upward == set()
    assert {room(other) for other in house} <= ONLY.get(room(name), set(floor))


@pytest.mark.parametrize("name", sorted(FILES))
def test_no_imports_run_in_a_circle(name: str) -> None:
    assert name not in reached(IMPORTS[name][0])


def reached(names: set[str]) -> set[str]:
    """Return these files of the house and all that they import, by any way."""
    found: set[str] = set()
    left = set(names)
    while left:
        name = left.pop()
        found.add(name)
        left |= IMPORTS[name][0] - found
    return found


def test_what_is_sans_io_reaches_neither_twisted_nor_sockets() -> None:
    """Both ways: what is listed keeps the rule, and what keeps the rule is listed."""
    listed = {f"{room}.{name}".rstrip(".") for room, names in SANS_IO.items() for name in names}
    free = {
        name
        for name in FILES
        if not name.endswith("__init__")
        and not any(IMPORTS[other][1] & IO for other in reached({name}))
    }
    assert listed - free == set()
    assert free - listed == set()
