import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dwaarx.console.colour import colour
from dwaarx.console.completion import complete


class Thing:
    value = 3

    @property
    def bad(self):
        raise RuntimeError("must not matter")

    def method(self):
        return None

    def _private(self):
        return None


NAMESPACE = {
    "showBinds": lambda: None,
    "showServers": lambda: None,
    "shop": 1,
    "thing": Thing(),
    "_hidden": 1,
    "help": lambda: None,
}


@pytest.mark.parametrize(
    ("line", "insert"),
    [
        ("showB", "inds("),
        ("x = showS", "ervers("),
        ("print(thi", "ng"),
        ("thing.me", "thod("),
        ("thing.va", "lue"),
        ("thing._p", "rivate("),
        ("help(showB", "inds("),
        ("_hid", "den"),
        ("isinst", "ance("),
        ("lamb", "da"),
        ("sh", "o"),
        ("nothing_such", ""),
        ("thing.nothing", ""),
        ("unknown.a", ""),
        ("f().a", ""),
        ("1 + ", ""),
        ("a.", ""),
        ("3.", ""),
        ("", ""),
    ],
)
def test_what_is_inserted(line, insert):
    assert complete(line, NAMESPACE).insert == insert


def test_choices_are_given_when_nothing_is_certain():
    assert complete("show", NAMESPACE).choices == ("showBinds(", "showServers(")
    assert complete("sho", NAMESPACE).choices == ("shop", "showBinds(", "showServers(")
    assert complete("sh", NAMESPACE).choices == ()


def test_an_empty_line_offers_the_public_names():
    choices = complete("help(", NAMESPACE).choices
    assert "showBinds" in choices
    assert "_hidden" not in choices


def test_attributes_hide_the_private_ones_until_asked():
    choices = complete("thing.", NAMESPACE).choices
    assert choices == ("bad", "method(", "value")


def test_a_property_that_raises_is_named_but_not_entered():
    assert complete("thing.ba", NAMESPACE).insert == "d"
    assert complete("thing.bad.x", NAMESPACE).choices == ()


def test_within_a_string_files_are_completed(tmp_path):
    (tmp_path / "cert.pem").touch()
    (tmp_path / "cert.key").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / ".hidden").touch()
    assert complete(f"f('{tmp_path}/ce", {}).insert == "rt."
    assert complete(f'f("{tmp_path}/cert.', {}).choices == ("cert.key", "cert.pem")
    assert complete(f'f("a", "{tmp_path}/fo', {}).insert == "lder/"
    assert ".hidden" not in complete(f'f("{tmp_path}/', {}).choices
    assert complete(f'f("{tmp_path}/none/', {}).insert == ""


@given(st.text(max_size=60))
def test_nothing_typed_can_break_completion(line):
    complete(line, NAMESPACE)


def test_many_quotes_take_no_time():
    start = time.process_time()
    complete("'" * 3_000 + "\n(", {})
    assert time.process_time() - start < 10  # it takes milliseconds


def test_colours_mark_keywords_strings_numbers_and_comments():
    assert colour("for x in 'a', 12: pass # c") == (
        "\x1b[35mfor\x1b[0m x \x1b[35min\x1b[0m \x1b[32m'a'\x1b[0m, \x1b[36m12\x1b[0m: "
        "\x1b[35mpass\x1b[0m \x1b[34m# c\x1b[0m"
    )


def test_an_open_string_is_coloured_to_the_end_of_the_line():
    line = 'f("/etc/dwaarx'
    assert colour(line) == 'f(\x1b[32m"/etc/dwaarx\x1b[0m'


def test_what_is_not_complete_keeps_the_colours_it_has():
    assert colour("f((1, ") == "f((\x1b[36m1\x1b[0m, "


@given(st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=60))
def test_colours_change_no_character(line):
    assert re.sub(r"\x1b\[\d+m", "", colour(line)) == line
