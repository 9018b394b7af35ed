"""Which `{placeholders}` a Dwaarfile may use; the HTTP room says what each stands for."""

from __future__ import annotations

import re
from typing import Final

# The names, without their braces.
PLACEHOLDERS: Final[frozenset[str]] = frozenset(
    {
        "host",
        "hostport",
        "method",
        "path",
        "port",
        "query",
        "remote_host",
        "scheme",
        "server_name",
        "uri",
    }
)

# What counts as a placeholder: a bare name in braces. `{"json": 1}` and `{ }` are plain text.
PLACEHOLDER: Final = re.compile(r"\{([A-Za-z_][A-Za-z0-9_.]*)\}")


def unknown_placeholder(text: str) -> str | None:
    """Return the first placeholder name in `text` that nothing stands for, or None."""
    for match in PLACEHOLDER.finditer(text):
        if match[1] not in PLACEHOLDERS:
            return match[1]
    return None
