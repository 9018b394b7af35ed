from collections.abc import Iterator

import pytest

from dwaarx.http import h1


@pytest.fixture(scope="module")
def fixed_date() -> Iterator[None]:
    """Answers are compared, and a second may pass between them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(h1, "http_date", lambda: b"now")
        yield
