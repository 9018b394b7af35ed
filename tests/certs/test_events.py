from __future__ import annotations

import json

import pytest
from twisted.logger import LogLevel, capturedLogs, eventAsJSON, formatEvent

from dwaarx.certs.events import tell


def line(**fields):
    with capturedLogs() as logs:
        tell("stapled", **fields)
    [event] = logs
    return formatEvent(event)


def test_a_line_for_people_and_fields_for_programs():
    with capturedLogs() as logs:
        tell("failed", LogLevel.warn, what="staple", name="example.test", tries=3)
    [event] = logs
    assert formatEvent(event) == "failed what=staple name=example.test tries=3"
    assert event["log_level"] is LogLevel.warn
    assert event["certificate_event"] == "failed"
    assert (event["what"], event["name"], event["tries"]) == ("staple", "example.test", 3)
    assert json.loads(eventAsJSON(event))["what"] == "staple"


def test_what_is_not_known_is_left_out_and_zero_is_known():
    assert line(name="a", reason=None, why="", count=0) == "stapled name=a count=0"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("http://ocsp.test:80/a+b=,@*", "http://ocsp.test:80/a+b=,@*"),
        ("two words", '"two words"'),
        ('say "hello"', r'"say \"hello\""'),
        ("line\nrevoked name=x", r'"line\nrevoked name=x"'),
        ("{log_level} {0}", '"{log_level} {0}"'),
        ("bücher", '"bücher"'),
        ("a\x1b[2J", r'"a\u001b[2J"'),
        # What ends a line, moves the cursor or turns text around, and is no ASCII.
        ("a\x85b\u2028c\x9bd\u202ee\x7f", r'"a\u0085b\u2028c\u009bd\u202ee\u007f"'),
        ("\udcff", r'"\udcff"'),
        ("\U000e0001", r'"\udb40\udc01"'),
    ],
)
def test_nobody_elses_text_can_forge_a_line(value, shown):
    text = line(reason=value)
    assert text == f"stapled reason={shown}"
    assert text.isprintable()
    if shown.startswith('"'):
        assert json.loads(shown) == value
