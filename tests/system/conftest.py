from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.system.processes import Service, serving


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[[str], Service]]:
    """Start a service for this test: `serve(dwaarfile)`."""
    with ExitStack() as stack:

        def start(dwaarfile: str) -> Service:
            return stack.enter_context(serving(tmp_path, dwaarfile))

        yield start
