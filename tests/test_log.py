from __future__ import annotations

from collections.abc import Iterator

import pytest
from twisted.logger import globalLogPublisher

from dwaarx.log import quiet_logger, show_debug


@pytest.fixture
def heard() -> Iterator[list[str]]:
    heard: list[str] = []

    def observe(event: dict[str, object]) -> None:
        if event.get("log_namespace") == "dwaarx.some.room":
            heard.append(str(event["log_format"]))

    globalLogPublisher.addObserver(observe)
    yield heard
    globalLogPublisher.removeObserver(observe)
    show_debug(show=False)


def test_debug_is_told_where_it_was_asked_for(heard: list[str]) -> None:
    room = quiet_logger("dwaarx.some.room")
    room.debug("before")
    room.warn("a warning")
    show_debug()
    room.debug("after")
    show_debug(show=False)
    room.debug("again not")
    assert heard == ["a warning", "after"]
