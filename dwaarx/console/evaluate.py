"""What a line typed at the console means: it is run in a namespace, and its outcome told."""

from __future__ import annotations

import builtins
import difflib
import io
import traceback
from collections.abc import Callable, Iterable, Mapping
from contextlib import redirect_stdout
from types import TracebackType
from typing import NoReturn

import attrs

FILENAME = "<console>"

# An unexpected error shows where it happened, but not the whole way there.
FRAMES_SHOWN = 5


@attrs.frozen
class Evaluation:
    """What came of an expression or statement.

    `value` may be a Deferred or a coroutine, which the caller then awaits. `output` is what
    print() wrote meanwhile. `error` is None unless an exception was raised; then `value` is None.
    """

    value: object = None
    output: str = ""
    error: str | None = None


class Attempt:
    """A context that keeps what is raised in it: typed code and its objects may raise anything.

    `error` is None as long as nothing was raised. What is no Exception is kept as well: a
    SystemExit or KeyboardInterrupt that was typed is not meant for the service (whose reactor
    takes care of the signals itself).
    """

    __slots__ = ("error",)

    def __init__(self) -> None:
        self.error: BaseException | None = None

    def __enter__(self) -> Attempt:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        self.error = error
        return True


class Leave:
    """`exit` and `quit` of the console: they end the session, never the service."""

    def __call__(self) -> NoReturn:
        """Leave the console; the service goes on."""
        raise SystemExit

    def __repr__(self) -> str:
        return "Use exit() or Ctrl-D to leave the console; the service goes on."


def fresh(namespace: Mapping[str, object]) -> dict[str, object]:
    """Give a session its own copy of the namespace, so that its variables stay its own."""
    leave = Leave()
    return {
        "__name__": "__console__",
        "__builtins__": builtins,
        "exit": leave,
        "quit": leave,
        **namespace,
    }


def evaluate(source: str, namespace: dict[str, object]) -> Evaluation:
    """Run `source` in `namespace`: its value if it is an expression, else as statements."""
    output = io.StringIO()
    value: object = None
    with Attempt() as attempt, redirect_stdout(output):
        value = _compile(source.strip())(namespace)
    error = attempt.error
    if error is None or isinstance(error, SystemExit):
        return Evaluation(value, output.getvalue())
    return Evaluation(None, output.getvalue(), describe(error, namespace))


def show(value: object) -> tuple[str | None, str | None]:
    """Give a value's text (None for None) and None, or None and the error that its repr raised."""
    if value is None:
        return None, None
    with Attempt() as attempt:
        return repr(value), None
    assert attempt.error is not None
    return None, describe(attempt.error)


def describe(error: BaseException, names: Iterable[object] = ()) -> str:
    """Tell an exception in words.

    One line `Type: reason` if it is one of ours, whose message says all, or if it comes from
    the typed line alone; otherwise with the last frames before it. `names` are those that a
    misspelt one may have meant.
    """
    kind = type(error)
    if kind.__module__.partition(".")[0] == "dwaarx":
        return f"{kind.__name__}: {error}"
    lines = "".join(traceback.format_exception_only(error)).rstrip("\n")
    if isinstance(error, NameError) and error.name is not None:
        # What is typed may have put keys into the namespace that are no names.
        known = [name for name in names if isinstance(name, str)]
        near = difflib.get_close_matches(error.name, known, 1)
        if near:
            lines += f". Did you mean {near[0]}?"
    frames = traceback.extract_tb(error.__traceback__)
    typed = [index for index, frame in enumerate(frames) if frame.filename == FILENAME]
    # What called the typed line is the console itself, and says nothing.
    outside = [
        frame
        for frame in frames[typed[0] if typed else 0 :]
        if frame.filename not in (FILENAME, __file__)
    ]
    if not outside or isinstance(error, SyntaxError):
        return lines
    where = "".join(traceback.format_list(outside[-FRAMES_SHOWN:]))
    return f"{lines}\n{where}".rstrip("\n")


def _compile(source: str) -> Callable[[dict[str, object]], object]:
    """Compile for eval if it is one expression, else for exec; raises SyntaxError."""
    try:
        expression = compile(source, FILENAME, "eval", dont_inherit=True)
    except SyntaxError:
        statements = compile(source, FILENAME, "exec", dont_inherit=True)
        return lambda namespace: exec(statements, namespace)
    return lambda namespace: eval(expression, namespace)
