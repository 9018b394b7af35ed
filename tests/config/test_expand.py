from __future__ import annotations

from pathlib import Path

import pytest

from dwaarx.config import ConfigError, load, parse
from dwaarx.config.syntax import MAX_WORDS
from tests.config.reading import problem, problems, statements


def test_environment() -> None:
    environ = {"HOST": "a.test", "EMPTY": "", "SPACES": "two words"}
    assert statements('{$HOST} "x {$SPACES}" {$NO:b} a{$EMPTY}b {$NO:}z', environ) == [
        ["a.test", "x two words", "b", "ab", "z"]
    ]


def test_a_value_stays_one_word_and_opens_no_block() -> None:
    environ = {"X": "a {\n b }", "I": "import"}
    assert statements("x {$X} # c", environ) == [["x", "a {\n b }"]]
    assert statements("x {\n y {$HOST:z}\n}") == [["x", [["y", "z"]]]]


def test_a_location_is_that_of_the_file() -> None:
    assert problem("{\n  {$WHAT} 80\n}", {"WHAT": "htp_port"}) == (
        "2:3: `htp_port` is not a directive of the global options; did you mean `http_port`?"
    )


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        (
            "{$UNSET}",
            (
                "2:3: the environment variable UNSET is not set, and `{$UNSET}` gives no default "
                "as in `{$UNSET:default}`"
            ),
        ),
        ("{$}", "2:3: `{$}` names no environment variable"),
        ("{$1X}", "2:3: `{$1X}` names no environment variable"),
        ("{$BAD}", "2:3: the value of the environment variable BAD is not UTF-8 text"),
    ],
)
def test_bad_variables(word: str, expected: str) -> None:
    assert problem(f"{{\n  {word} 80\n}}", {"BAD": "a\udcffb"}) == expected


def test_snippets() -> None:
    text = """
    import all
    (all) {
        a.test {
            import inner
            x
        }
    }
    (inner) {
        y
        import (deep)
    }
    (deep) { z }
    """
    assert statements(text) == [["a.test", [["y"], ["z"], ["x"]]]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("(a) { import a }\nimport a", "1:14: this import goes round in a circle: "),
        ("(a) { import b }\n(b) { import a }\nimport a", "2:14: this import goes round in a"),
        ("(abcd) { x }\nimport (abce)", "2:8: there is no snippet `abce`; did you mean `abcd`?"),
        (
            "(abcd) { x }\nimport abce",
            "2:8: cannot import `abce`: No such file or directory; did you",
        ),
        ("import nosuch", "1:8: cannot import `nosuch`: No such file or directory"),
        ("import", "1:1: a word is missing: expected `import FILE|GLOB|SNIPPET`"),
        ("import a b", "1:10: arguments of `import`, such as `b`, are not available"),
        ("import a { b }", "1:1: `import` takes no block"),
        ('import ""', "1:8: expected a file or a snippet"),
        ("import a/**/b", "1:8: `**` is not available: name the folders one by one"),
        ("(a) { x }\n(a) { y }", "2:1: there are two snippets `a`: it is defined at Dwaarfile:1:1"),
        ("(a)", "1:1: expected `{` after the snippet's name (a)"),
        ("() { x }", "1:1: expected the snippet's name between `(` and `)`"),
        ("x {\n(a) { y }\n}", "2:1: a snippet is defined at the top of a file, in no block"),
    ],
)
def test_bad_imports(text: str, expected: str) -> None:
    assert problem(text).startswith(expected)


def test_files_are_found_beside_the_file_that_imports_them(tmp_path: Path) -> None:
    (tmp_path / "sub" / "sites").mkdir(parents=True)
    (tmp_path / "sub" / "more").write_text("import sites/*.conf\n(s) { respond /s 204 }\n")
    (tmp_path / "sub" / "sites" / "b.conf").write_text("http://b.test { respond b }")
    (tmp_path / "sub" / "sites" / "a.conf").write_text("http://a.test { respond a }")
    (tmp_path / "sub" / "sites" / ".b.conf.conf").write_text("nonsense")
    (tmp_path / "sub" / "sites" / "d.conf").mkdir()
    (tmp_path / "routes").write_text("respond /x 204")
    main = tmp_path / "Dwaarfile"
    main.write_text("import sub/more\nhttp://c.test {\nimport routes\nimport s\nimport no/*.x\n}")
    config = load(main)
    assert [site.addresses[0].host for site in config.sites] == ["a.test", "b.test", "c.test"]
    assert len(config.sites[2].routes) == 2
    assert config.file == str(main)


def test_an_absolute_glob_and_a_hidden_one(tmp_path: Path) -> None:
    (tmp_path / ".x.conf").write_text("http://x.test { respond x }")
    (tmp_path / "y.conf").write_text("http://y.test { respond x }")
    for pattern, host in ((f"{tmp_path}/*.conf", "y.test"), (f"{tmp_path}/.*.conf", "x.test")):
        (only,) = parse(f"import {pattern}", "elsewhere/Dwaarfile", {"HOME": "/h"}).sites
        assert only.addresses[0].host == host


def test_problems_in_imported_files_carry_their_names(tmp_path: Path) -> None:
    one, two, three = tmp_path / "one", tmp_path / "two", tmp_path / "three"
    one.write_text("\n  respont x\n")
    two.write_text("x {")
    three.write_bytes(b"# caf\xc3\xa9\n# caf\xe9")
    main = tmp_path / "Dwaarfile"
    main.write_text("http://a.test {\nimport one\n}")
    with pytest.raises(ConfigError) as caught:
        load(main)
    assert str(caught.value) == (
        f"{one}:2:3: `respont` is not a directive of a site; did you mean `respond`?"
    )
    main.write_text("http://a.test {\nimport two\nimport three\n}")
    with pytest.raises(ConfigError) as caught:
        load(main)
    assert str(caught.value).splitlines() == [
        f"{two}:1:3: this `{{` is never closed: expected a `}}`",
        f"{three}:2:6: the byte 0xe9 is not UTF-8: save the file as UTF-8",
    ]


def test_files_that_import_each_other(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("import b")
    (tmp_path / "b").write_text("import ./a")
    with pytest.raises(ConfigError) as caught:
        parse("import a", str(tmp_path / "Dwaarfile"))
    (only,) = caught.value.problems
    assert only.location.file == str(tmp_path / "b")
    assert only.message.startswith("this import goes round in a circle: ")


def test_a_file_that_imports_itself(tmp_path: Path) -> None:
    main = tmp_path / "Dwaarfile"
    main.write_text("import Dwaarfile")
    with pytest.raises(ConfigError, match="goes round in a circle"):
        load(main)


def test_what_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "Dwaarfile"
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert str(caught.value) == f"{path}:1:1: cannot read the file: No such file or directory"
    with pytest.raises(ConfigError, match="1:1: cannot read the file: Is a directory"):
        load(tmp_path)
    path.write_bytes(b"a\nb \xff")
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert str(caught.value) == f"{path}:2:3: the byte 0xff is not UTF-8: save the file as UTF-8"
    with pytest.raises(ConfigError, match="1:1: the file is larger than 10 MB"):
        load("/dev/zero")
    assert problem("import /") == "1:8: cannot import `/`: Is a directory"
    assert "File name too long" in problem("import " + "a" * 5000)


def test_a_chain_of_imports_is_bounded() -> None:
    chain = "".join(f"(s{n}) {{ import s{n + 1} }}\n" for n in range(5000))
    assert "nested more than 32 deep" in problem(chain + "import s0")


@pytest.mark.parametrize("inside", ["x y", ""])
def test_snippets_that_multiply_are_bounded(inside: str) -> None:
    doubling = "".join(f"(s{n}) {{\nimport s{n + 1}\nimport s{n + 1}\n}}\n" for n in range(30))
    text = f"{doubling}(s30) {{ {inside} }}\nimport s0"
    assert f"longer than {MAX_WORDS:,} words" in problems(text)[-1]


def test_imported_files_together_are_bounded(tmp_path: Path) -> None:
    (tmp_path / "big").write_text("#" + "x" * 3_000_000)
    with pytest.raises(ConfigError, match="the imported files together are larger than 10 MB"):
        parse("import big\n" * 4, str(tmp_path / "Dwaarfile"))
