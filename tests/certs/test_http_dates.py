"""Retry-After, and how long a response is fresh."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis.strategies import floats, sampled_from, text

from dwaarx.certs.http_dates import (
    MAX_FRESHNESS,
    MAX_RETRY_AFTER,
    fresh_until,
    http_date,
    retry_after,
)

NOW = 1_790_000_000.0  # Mon, 21 Sep 2026 14:13:20 GMT
RFC_EXAMPLE = 784_111_777.0


@pytest.mark.parametrize(
    "date",
    [
        "Sun, 06 Nov 1994 08:49:37 GMT",
        "Sunday, 06-Nov-94 08:49:37 GMT",
        "Sun Nov  6 08:49:37 1994",
    ],
)
def test_the_three_forms_of_a_date(date):
    assert http_date(date, NOW) == RFC_EXAMPLE


@pytest.mark.parametrize(
    ("date", "same"),
    [
        ("Monday, 21-Sep-26 14:13:20 GMT", "Mon, 21 Sep 2026 14:13:20 GMT"),
        ("Monday, 21-Sep-76 14:13:20 GMT", "Mon, 21 Sep 2076 14:13:20 GMT"),
        ("Monday, 21-Sep-77 14:13:20 GMT", "Mon, 21 Sep 1977 14:13:20 GMT"),
        ("Sat, 31 Dec 2016 23:59:60 GMT", "Sat, 31 Dec 2016 23:59:59 GMT"),
    ],
)
def test_two_digits_of_a_year_and_leap_seconds(date, same):
    assert http_date(date, NOW) == http_date(same, NOW) is not None


@pytest.mark.parametrize(
    "date",
    [
        "",
        "0",
        "-1",
        "Sun, 06 Nov 1994 08:49:37",
        "Sun, 06 Nov 1994 08:49:37 +0100",
        "Sun, 32 Nov 1994 08:49:37 GMT",
        "Sun, 00 Nov 1994 08:49:37 GMT",
        "Sun, 06 Foo 1994 08:49:37 GMT",
        "Sun, 06 Nov 1994 24:49:37 GMT",
        "Sun, 06 Nov 1994 08:60:37 GMT",
        "Sun, 06 Nov 0000 08:49:37 GMT",
        "Sun, 29 Feb 1995 08:49:37 GMT",
        "Sun, 06 Nov 1994 08:49:37 GMT, Sun, 06 Nov 1994 08:49:37 GMT",
        "Sun, ٠٦ Nov 1994 08:49:37 GMT",
    ],
)
def test_what_is_no_date(date):
    assert http_date(date, NOW) is None


@pytest.mark.parametrize(
    ("value", "after"),
    [
        ("0", 0),
        ("120", 120),
        (" 120 ", 120),
        ("Mon, 21 Sep 2026 14:15:20 GMT", 120),
        ("Mon, 21 Sep 2026 14:10:20 GMT", 0),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 0),
        ("Fri, 21 Sep 2096 14:15:20 GMT", MAX_RETRY_AFTER),
        ("999999999", MAX_RETRY_AFTER),
        ("9" * 10_000, MAX_RETRY_AFTER),
    ],
)
def test_retry_after(value, after):
    assert retry_after(value, NOW) == NOW + after


@pytest.mark.parametrize("value", [None, "", "soon", "-5", "1.5", "+5", "5 s", "٥", "120, 130"])
def test_no_retry_after(value):
    assert retry_after(value, NOW) is None


DATE = "Mon, 21 Sep 2026 14:13:20 GMT"
HOUR_LATER = "Mon, 21 Sep 2026 15:13:20 GMT"


@pytest.mark.parametrize(
    ("headers", "after"),
    [
        ({"cache-control": "max-age=60"}, 60),
        ({"cache-control": "public,Max-Age=60,no-transform, must-revalidate"}, 60),
        ({"cache-control": 'max-age="60"'}, 60),
        ({"cache-control": "s-maxage=600, max-age=60"}, 60),
        ({"cache-control": "s-maxage=600"}, 600),
        ({"cache-control": "max-age=60, max-age=90"}, 60),
        ({"cache-control": "max-age=90, max-age=60"}, 60),
        ({"cache-control": 'x="no-store, max-age=7", max-age=60'}, 60),
        ({"cache-control": "max-age=60", "age": "20"}, 40),
        ({"cache-control": "max-age=60", "age": "old"}, 60),
        ({"cache-control": "max-age=60", "expires": HOUR_LATER, "date": DATE}, 60),
        ({"cache-control": "public", "expires": HOUR_LATER, "date": DATE}, 3600),
        ({"expires": HOUR_LATER, "date": DATE, "age": "600"}, 3000),
        ({"expires": HOUR_LATER, "date": "Mon, 21 Sep 2026 15:03:20 GMT"}, 600),
        ({"expires": HOUR_LATER}, 3600),
        ({"expires": HOUR_LATER, "date": "today"}, 3600),
        ({"cache-control": "max-age=99999999999999999999"}, MAX_FRESHNESS),
        ({"expires": "Fri, 21 Sep 2096 14:15:20 GMT"}, MAX_FRESHNESS),
    ],
)
def test_fresh_until(headers, after):
    assert fresh_until(headers, NOW) == NOW + after


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"cache-control": ""},
        {"cache-control": ",,=;"},
        {"cache-control": "public"},
        {"cache-control": "max-age"},
        {"cache-control": "max-age=soon"},
        {"cache-control": "max-age=-5"},
        {"cache-control": "max-age=60, max-age=x"},
        {"cache-control": "max-age=0"},
        {"cache-control": "max-age=60", "age": "60"},
        {"cache-control": "max-age=60", "age": "9" * 40},
        {"cache-control": "no-store, max-age=60"},
        {"cache-control": "max-age=60, No-Cache"},
        {"cache-control": "max-age=x", "expires": HOUR_LATER},
        {"expires": "0"},
        {"expires": "-1"},
        {"expires": DATE, "date": DATE},
        {"expires": DATE, "date": HOUR_LATER},
    ],
)
def test_not_fresh(headers):
    assert fresh_until(headers, NOW) is None


@given(text(), sampled_from(["cache-control", "expires", "date", "age"]), text(), floats(0, 4e9))
def test_whatever_comes_is_bounded(value, name, other, now):
    until = fresh_until({"cache-control": "max-age=60", name: value, "age": other}, now)
    assert until is None or now < until <= now + MAX_FRESHNESS
    again = retry_after(value, now)
    assert again is None or now <= again <= now + MAX_RETRY_AFTER


@given(text(alphabet='max-age=0123456789,; "s-maxagenostore', max_size=60))
def test_whatever_looks_like_cache_control_is_bounded(value):
    until = fresh_until({"cache-control": value}, NOW)
    assert until is None or NOW < until <= NOW + MAX_FRESHNESS
