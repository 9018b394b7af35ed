"""Path matchers: Caddy's meaning, and no way to spell a path around them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dwaarx.http.fields import is_target
from dwaarx.http.matchers import UnclearPathError, compile_matcher, compile_strip, path_of


def matches(pattern, target):
    return compile_matcher(pattern)(path_of(target))


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("/api", [b"/api", b"/api?x=/y", b"/API"], [b"/api/", b"/apix", b"/"]),
        ("/api/*", [b"/api/", b"/api/x/y", b"/Api/x?y"], [b"/api", b"/apix", b"/x/api/"]),
        ("/api*", [b"/api", b"/apix", b"/api/x"], [b"/ap", b"/x/api"]),
        ("*.css", [b"/a.css", b"/b/c.CSS?v=1"], [b"/a.cssx", b"/css", b"/x?a.css"]),
        ("*/static/*", [b"/a/static/b", b"/static/"], [b"/static", b"/a/b"]),
        ("*", [b"/", b"/x", b"*"], []),
        ("/ÄÖ/*", [b"/%C3%84%C3%96/x", b"/\xc3\x84\xc3\x96/x"], [b"/%c3%a4/x"]),
    ],
)
def test_patterns(pattern, yes, no):
    for target in yes:
        assert matches(pattern, target), target
    for target in no:
        assert not matches(pattern, target), target


@pytest.mark.parametrize(
    "target",
    [
        b"/admin/x",
        b"//admin/x",
        b"/ADMIN/x",
        b"/%61dmin/x",
        b"/%41DMIN/x",
        b"/./admin/x",
        b"/%2e/admin/x",
        b"/admin//x",
        b"/admin%2fx",
        b"/admin\\x",
        b"\\admin\\x",
        b"/%5cadmin/x",
    ],
)
def test_spelling_does_not_lead_around_a_rule(target):
    assert matches("/admin/*", target)


@pytest.mark.parametrize(
    "target",
    [
        b"/api/../admin",
        b"/..",
        b"/api/..",
        b"/api/%2e%2e/admin",
        b"/api/.%2E/admin",
        b"/api/..%2fadmin",
        b"/api/..%5Cadmin",
        b"/api/..\\admin",
        b"/api/..;/admin",
        b"/api/..;x=y/admin",
        b"/api%00/x",
    ],
)
def test_paths_with_two_readings_are_refused(target):
    with pytest.raises(UnclearPathError):
        path_of(target)


@pytest.mark.parametrize(
    ("pattern", "target"),
    [
        ("/admin/*", b"/admin;x/y"),
        ("/admin/*", b"/;/admin/y"),
        ("/admin/*", b"/.;x/admin/y"),
        ("/admin/*", b"/admin%3bx/y"),
        ("/admin", b"/admin;v=1"),
        ("*.css", b"/admin;.css"),
        ("*.css", b"/admin/x.css;y"),
        ("*admin*", b"/x;admin"),
        ("*/admin/*", b"/a;b/admin;c/d"),
    ],
)
def test_parameters_that_decide_are_refused(pattern, target):
    with pytest.raises(UnclearPathError):
        matches(pattern, target)


def test_parameters_that_do_not_decide_are_fine():
    assert matches("/app/*", b"/app/login;jsessionid=1?x")
    assert not matches("/app/*", b"/other/login;jsessionid=1")
    assert matches("*", b"/x;y")
    assert matches("/a;b/*", b"/A;b/c")
    assert not matches("/a;b/*", b"/a/c")


def test_what_only_looks_like_it_is_fine():
    for target in (
        b"/a..b/...",
        b"/..a",
        b"/a/b..",
        b"/.well-known/x",
        b"/x?a=/../b",
        b"/%252e%252e/",
    ):
        assert path_of(target)
    assert path_of(b"/a/.") == b"/a/"
    assert path_of(b"/.") == b"/"


@pytest.mark.parametrize(
    ("pattern", "target", "left"),
    [
        ("/api/*", b"/api/x?y=/api/", b"/x?y=/api/"),
        ("/api/*", b"/API/X", b"/X"),
        ("/api/*", b"/api/", b"/"),
        ("/api*", b"/api", b"/"),
        ("/api*", b"/apix", b"/x"),
        ("/api", b"/api?q", b"/?q"),
        ("/api/*", b"/api//evil.example/x", b"/evil.example/x"),
        ("/api/*", b"/api/\\evil.example/x", b"/evil.example/x"),
        ("/api/*", b"//api/\\/evil.example/x", b"/evil.example/x"),
        ("/api/*", b"/api/a%2Fb%20c", b"/a%2Fb%20c"),
        ("/api/*", b"//api/x", b"/x"),
        ("/api/*", b"/%61pi/a%20b%3F?q", b"/a%20b%3F?q"),
        ("/api/*", b"//api//evil.example", b"/evil.example"),
        ("*", b"/x/y", b"/x/y"),
        ("*.css", b"/x/y.css", b"/x/y.css"),
    ],
)
def test_strip(pattern, target, left):
    assert matches(pattern, target)
    assert compile_strip(pattern)(target) == left


@given(st.text("ab/%2eEfF5cC.;\\?*", max_size=30))
def test_whatever_is_matched_leaves_a_target(text):
    target = b"/" + text.encode()
    strip = compile_strip("/a/*")
    try:
        matched = matches("/a/*", target)
    except UnclearPathError:
        return
    if matched:
        left = strip(target)
        assert is_target(left)
        assert not left.startswith((b"//", b"/\\"))
