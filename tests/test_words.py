import errno
from datetime import UTC, datetime

from dwaarx.words import reason_of, utc


def test_a_time() -> None:
    assert utc(datetime(2026, 1, 2, 3, 4, 5, 6, UTC)) == "2026-01-02 03:04:05 UTC"


def test_an_errors_reason() -> None:
    assert reason_of(OSError(errno.ENOENT, "No such file or directory", "x")) == (
        "No such file or directory"
    )
    assert reason_of(OSError("said by us")) == "said by us"
