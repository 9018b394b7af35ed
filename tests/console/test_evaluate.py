import pytest

from dwaarx.console.errors import ConsoleError
from dwaarx.console.evaluate import describe, evaluate, fresh, show
from dwaarx.console.table import Table


def run(source, **names):
    return evaluate(source, fresh(names))


def test_an_expression_gives_its_value():
    outcome = run(" 6 * seven ", seven=7)
    assert (outcome.value, outcome.output, outcome.error) == (42, "", None)


def test_a_statement_gives_none_and_changes_the_namespace():
    namespace = fresh({})
    assert evaluate("x = 1; y = x + 1", namespace).value is None
    assert evaluate("y", namespace).value == 2


def test_a_block_may_have_lines():
    assert run("for i in range(3):\n    print(i)").output == "0\n1\n2\n"


def test_what_is_printed_is_kept_even_before_an_error():
    outcome = run("print('so far') or 1/0")
    assert outcome.output == "so far\n"
    assert outcome.error == "ZeroDivisionError: division by zero"
    assert outcome.value is None


def test_the_sessions_do_not_share_variables():
    shared = {"a": 1}
    evaluate("a = 2", fresh(shared))
    assert shared == {"a": 1}


def test_an_error_of_ours_is_told_without_a_traceback():
    def function():
        raise ConsoleError("because\nof this")

    assert run("function()", function=function).error == "ConsoleError: because\nof this"


def test_a_wrong_call_is_told_in_one_line():
    def function(one):
        return one

    error = run("function()", function=function).error
    assert error is not None
    assert error.startswith("TypeError: ")
    assert "\n" not in error


def test_an_unexpected_error_shows_its_last_frames():
    def deep(n):
        return deep(n - 1) if n else {}["missing"]

    error = run("deep(20)", deep=deep).error
    assert error is not None
    first, *rest = error.splitlines()
    assert first == "KeyError: 'missing'"
    assert "test_evaluate.py" in rest[0]
    assert 5 <= len(rest) <= 15


def test_a_misspelt_name_is_suggested():
    assert run("showBind()", showBinds=print).error == (
        "NameError: name 'showBind' is not defined. Did you mean showBinds?"
    )
    assert run("qqqqqq").error == "NameError: name 'qqqqqq' is not defined"


def test_what_is_not_python_is_told_with_its_place():
    error = run("1 +").error
    assert error is not None
    assert error.splitlines()[-1].startswith("SyntaxError: ")
    assert "evaluate.py" not in error


@pytest.mark.parametrize("source", ["exit()", "quit()", "raise SystemExit(3)"])
def test_leaving_is_no_error_and_does_not_end_the_process(source):
    outcome = run(source)
    assert (outcome.value, outcome.error) == (None, None)


def test_exit_tells_how_to_leave():
    assert "Ctrl-D" in repr(fresh({})["exit"])


@pytest.mark.parametrize("name", ["KeyboardInterrupt", "GeneratorExit", "BaseException"])
def test_what_is_typed_cannot_reach_the_service(name):
    assert run(f"raise {name}").error == name


def test_a_namespace_may_hold_keys_that_are_no_names():
    assert run("globals()[1] = 2; shwo").error == "NameError: name 'shwo' is not defined"


def test_null_bytes_are_an_error_and_no_more():
    error = run("1\0").error
    assert error is not None


def test_values_are_shown_by_their_repr():
    assert show(None) == (None, None)
    assert show("a") == ("'a'", None)
    assert show(Table(("a",), [(1,)])) == ("a\n1", None)


def test_a_repr_that_raises_is_an_error():
    class Bad:
        def __repr__(self):
            raise RuntimeError("no")

    text, error = show(Bad())
    assert text is None
    assert error is not None
    assert error.startswith("RuntimeError: no")


def test_describe_takes_errors_that_were_never_raised():
    assert describe(ValueError("x")) == "ValueError: x"
