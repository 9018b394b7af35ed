import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionDone
from twisted.internet.testing import StringTransport
from twisted.logger import formatEvent, globalLogPublisher
from twisted.python.failure import Failure

from dwaarx.console import manhole
from dwaarx.console.errors import ConsoleError
from dwaarx.console.manhole import BANNER, Terminal
from dwaarx.console.table import Report, Table

from .screen import Screen

UP, DOWN, RIGHT, LEFT = b"\x1b[A", b"\x1b[B", b"\x1b[C", b"\x1b[D"
HOME, END, DELETE, INSERT = b"\x1b[H", b"\x1b[F", b"\x1b[3~", b"\x1b[2~"
BACKSPACE, TAB = b"\x7f", b"\t"


class Session:
    """A person at a terminal of the console."""

    def __init__(self, namespace=None, width=80):
        self.screen = Screen(width)
        self.transport = StringTransport()
        self.terminal = Terminal(namespace or {}, width, 24)
        self.terminal.makeConnection(self.transport)
        self.look()

    def type(self, *keys):
        for each in keys:
            self.terminal.dataReceived(each.encode() if isinstance(each, str) else each)
        self.look()

    def look(self):
        self.screen.feed(self.transport.value())
        self.transport.clear()

    def enter(self, line):
        """Type a line; give what came out below it."""
        before = self.screen.row
        self.type(line + "\r")
        assert self.lines[-1] in (">>>", "...")
        return "\n".join(self.lines[before + 1 : -1])

    @property
    def lines(self):
        return self.screen.text.split("\n")

    @property
    def line(self):
        return self.lines[-1]


def test_the_greeting_tells_of_help_and_leaves_the_screen_alone():
    session = Session()
    assert session.lines == [*BANNER.splitlines(), ">>>"]
    assert "help()" in BANNER
    assert session.screen.cursor == (1, 4)


def test_a_line_is_run_and_its_value_shown():
    session = Session()
    assert session.enter("6 * 7") == "42"
    assert session.enter("_ + 1") == "43"
    assert session.enter("x = 1") == ""
    assert session.enter("") == ""
    assert session.enter("x") == "1"


def test_what_is_printed_is_shown():
    assert Session().enter("print('a'); print('b', end='')") == "a\nb"


def test_a_block_goes_on_until_an_empty_line():
    session = Session()
    session.type("for i in (1, 2):\r")
    assert session.line == "..."
    session.type(TAB, "print(i)\r", "\r")
    assert session.lines[-5:] == ["...     print(i)", "...", "1", "2", ">>>"]


def test_keys_of_one_chunk_give_one_write():
    session = Session()
    writes = []
    session.transport.write = writes.append
    session.terminal.dataReceived(b"print(1)\rprint(2)\r")
    assert len(writes) == 1


def test_lines_end_in_cr_lf():
    session = Session({"table": Table(("a", "b"), [(1, 2), (3, 4)])})
    session.terminal.dataReceived(b"table\r")
    written = session.transport.value()
    assert b"\r\na  b\r\n1  2\r\n3  4\r\n" in written
    assert written.count(b"\n") == written.count(b"\r\n")


def test_a_table_is_fitted_to_the_window():
    table = Table(("name", "why"), [("a", "x" * 60)])
    assert Session({"table": table}, 80).enter("table").startswith("name  why")
    assert Session({"table": table}, 40).enter("table").startswith("name  a\nwhy   xxx")


def test_a_report_is_shown_as_text():
    assert Session({"f": lambda: Report("one\ntwo")}).enter("f()") == "one\ntwo"


def test_errors_are_short():
    def ours():
        raise ConsoleError("because of this")

    session = Session({"ours": ours, "showBinds": print})
    assert session.enter("ours()") == "ConsoleError: because of this"
    assert session.enter("showBind()").endswith("Did you mean showBinds?")
    assert session.enter("1 +").endswith("SyntaxError: invalid syntax")
    assert session.enter("1") == "1"


def test_editing():
    session = Session()
    session.type("2222", LEFT, LEFT, BACKSPACE, "13", DELETE, HOME, "1 + ", END, "0", RIGHT, LEFT)
    assert session.line == ">>> 1 + 21320"
    assert session.screen.cursor == (1, 4 + 8)
    session.type(b"\x0b")  # kill to the end
    assert session.line == ">>> 1 + 2132"
    session.type(b"\x17")  # kill a word
    assert session.line == ">>> 1 +"
    session.type("\x01x", b"\x05", b"\x15")  # home, end, kill to the start
    assert session.line == ">>>"
    session.type(BACKSPACE, DELETE, LEFT, RIGHT)
    assert session.screen.cursor == (1, 4)


def test_a_word_is_killed_with_the_blanks_after_it():
    session = Session()
    session.type("one two  ", b"\x17")
    assert session.line == ">>> one"
    assert session.screen.cursor == (1, 8)


def test_typing_over():
    session = Session()
    session.type("abc", HOME, INSERT, "xy", INSERT, "z")
    assert session.line == ">>> xyzc"


def test_a_line_longer_than_the_window_can_be_edited():
    session = Session(width=20)
    text = "'" + "abcdefghij" * 5 + "'"
    session.type(text)
    assert "".join(session.lines[-3:]) == ">>> " + text
    session.type(HOME, RIGHT, "X", END, LEFT, "Y")
    edited = text[0] + "X" + text[1:-1] + "Y'"
    assert "".join(session.lines[-3:]) == ">>> " + edited
    session.type(*[BACKSPACE] * 40)
    assert "".join(session.lines[-1:]) == ">>> " + edited[:-41] + "'"


@pytest.mark.parametrize("length", range(14, 20))
def test_the_cursor_is_right_at_the_edge_of_the_window(length):
    session = Session(width=20)
    top = session.screen.row
    session.type("1" * length)
    assert session.screen.cursor == (top + (4 + length) // 20, (4 + length) % 20)
    session.type(LEFT, "2")
    assert session.screen.rows[top] == (">>> " + "1" * (length - 1) + "21")[:20]


def test_history():
    session = Session()
    for line in ("1", "2", "2", "3"):
        session.enter(line)
    session.type("dra", UP)
    assert session.line == ">>> 3"
    session.type(UP, UP, UP, UP)
    assert session.line == ">>> 1"
    session.type(DOWN, DOWN, DOWN)
    assert session.line == ">>> dra"
    session.type(DOWN)
    assert session.line == ">>> dra"
    session.type(UP, "\r")
    assert session.lines[-2:] == ["3", ">>>"]


def test_a_recalled_line_that_was_changed_leaves_the_history_as_it_was():
    session = Session()
    session.enter("12")
    session.type(UP, BACKSPACE, DOWN, UP)
    assert session.line == ">>> 12"


def test_tab_completes():
    session = Session({"showBinds": lambda: 7, "showServers": lambda: 8})
    session.type("showB", TAB)
    assert session.line == ">>> showBinds("
    session.type(")\r")
    assert session.lines[-2:] == ["7", ">>>"]
    session.type("x = show", TAB)
    assert session.lines[-2:] == ["showBinds(    showServers(", ">>> x = show"]
    assert session.screen.column == len(">>> x = show")


def test_tab_in_the_middle_of_a_line_keeps_the_rest():
    session = Session({"showBinds": print})
    session.type("f(show, 1)", *[LEFT] * 4, TAB)
    assert session.line == ">>> f(showBinds(, 1)"


def test_tab_without_anything_to_add_rings():
    session = Session()
    session.type("nothing_such", TAB)
    assert session.screen.bells == 1


def test_what_is_typed_is_coloured():
    session = Session()
    session.terminal.dataReceived(b"not 'a'")
    assert b"\x1b[35mnot\x1b[0m \x1b[32m'a'\x1b[0m" in session.transport.value()


def test_ctrl_c_gives_up_the_line_and_the_block():
    session = Session()
    session.type("if 1:\r", "  half", b"\x03")
    assert session.lines[-2:] == ["...   half^C", ">>>"]
    assert session.enter("1") == "1"


@pytest.mark.parametrize("key", [b"\x04", b"\x1c", b"exit()\r", b"quit()\r"])
def test_leaving(key):
    session = Session()
    session.type(key)
    assert session.transport.disconnecting
    session.type("1 + 1\r")
    assert "2" not in session.lines[-1]


def test_ctrl_d_in_a_line_deletes():
    session = Session()
    session.type("ab", HOME, b"\x04")
    assert session.line == ">>> b"
    assert not session.transport.disconnecting


def test_ctrl_l_clears_the_screen_and_keeps_the_line():
    session = Session()
    session.type("abc", b"\x0c")
    assert session.lines == [">>> abc"]
    session.type("d")
    assert session.lines == [">>> abcd"]


def test_deferreds_are_shown_when_they_fire():
    waiting, failing = Deferred(), Deferred()
    session = Session({"waiting": waiting, "failing": failing})
    assert session.enter("waiting") == "<Deferred #0>"
    assert session.enter("failing") == "<Deferred #1>"
    session.type("half a li")
    waiting.callback([1, 2])
    session.look()
    assert session.lines[-2:] == ["Deferred #0: [1, 2]", ">>> half a li"]
    failing.errback(ConsoleError("no"))
    session.type("n")
    assert session.lines[-2:] == ["Deferred #1: ConsoleError: no", ">>> half a lin"]


def test_deferreds_that_have_fired_are_shown_at_once():
    session = Session({"good": succeed(3), "bad": fail(ConsoleError("no")), "none": succeed(None)})
    assert session.enter("good") == "3"
    assert session.enter("bad") == "ConsoleError: no"
    assert session.enter("none") == ""


def test_a_result_that_cannot_be_shown_is_an_error_and_no_more():
    class Bad:
        def __repr__(self):
            raise ValueError("no")

    waiting = Deferred()
    session = Session({"bad": Bad(), "waiting": waiting})
    assert session.enter("bad").startswith("ValueError: no")
    session.enter("waiting")
    waiting.callback(Bad())
    session.look()
    assert any(line.startswith("Deferred #0: ValueError: no") for line in session.lines)
    assert waiting.result is None


@pytest.mark.parametrize("name", ["KeyboardInterrupt", "GeneratorExit"])
def test_what_is_raised_stays_in_the_session(name):
    session = Session()
    assert session.enter(f"raise {name}") == name
    assert session.enter("1") == "1"


def test_coroutines_are_run():
    waiting = Deferred()

    async def function():
        return 1 + await waiting

    session = Session({"function": function})
    assert session.enter("function()") == "<Deferred #0>"
    waiting.callback(1)
    session.look()
    assert session.lines[-2:] == ["Deferred #0: 2", ">>>"]


def test_a_lost_connection_cancels_what_is_waited_for():
    cancelled = []
    waiting = Deferred(cancelled.append)
    session = Session({"waiting": waiting})
    session.enter("waiting")
    session.terminal.connectionLost(Failure(ConnectionDone()))
    assert cancelled == [waiting]
    assert session.transport.value() == b""


def test_letters_of_every_script_may_be_typed():
    session = Session()
    for byte in "'dnš ✓'".encode():
        session.type(bytes([byte]))
    assert session.line == ">>> 'dnš ✓'"
    session.type(LEFT, BACKSPACE, "é\r")
    assert session.lines[-2:] == ["'dnš é'", ">>>"]
    session.type(UP)
    assert session.line == ">>> 'dnš é'"


def test_a_new_window_size_is_taken():
    session = Session(width=40)
    session.type("a" * 50)
    session.screen = Screen(100)
    session.type(b"\x1b[8;30;100t")
    assert session.line.endswith("a" * 50)
    assert session.terminal.terminalProtocol.width == 100
    session.type(b"\x1b[8;30;0t", b"\x1b[8;x;1t", b"\x1b[9;1;77t", b"\x1b[1;2Z")
    assert session.terminal.terminalProtocol.width == manhole.MIN_WIDTH


def test_a_line_is_bounded(monkeypatch):
    monkeypatch.setattr(manhole, "MAX_LINE", 10)
    session = Session()
    session.type("a" * 12)
    assert session.line == ">>> " + "a" * 10
    assert session.screen.bells == 2


def test_a_block_is_bounded(monkeypatch):
    monkeypatch.setattr(manhole, "MAX_SOURCE", 20)
    session = Session()
    session.type("if 1:\r", " a = 1\r", " bbbbbbbbbb\r")
    assert session.lines[-2:] == ["The block is too long, and is dropped.", ">>>"]
    assert session.enter("5") == "5"


def test_an_endless_escape_sequence_is_dropped():
    session = Session()
    session.type(b"\x1b[" + b"1" * 1_000, "x")
    assert session.terminal.state == b"data"
    session.type(b"\x15", "7\r")
    assert session.lines[-2:] == ["7", ">>>"]


def test_an_error_of_the_editor_is_logged_and_ends_nothing():
    session = Session()
    events = []
    globalLogPublisher.addObserver(events.append)

    def broken():
        raise RuntimeError("broken key")

    session.terminal.terminalProtocol.keyHandlers[b"\x06"] = broken
    try:
        session.type(b"\x06", "1\r")
    finally:
        globalLogPublisher.removeObserver(events.append)
    assert session.lines[-2:] == ["1", ">>>"]
    assert "broken key" in formatEvent(events[0])


@given(st.binary(max_size=80), st.integers(1, 10))
def test_no_keys_can_break_the_terminal(keys, size):
    transport = StringTransport()
    terminal = Terminal({"showBinds": lambda: None}, 20, 5)
    terminal.makeConnection(transport)
    for at in range(0, len(keys), size):
        terminal.dataReceived(keys[at : at + size])
    terminal.connectionLost(Failure(ConnectionDone()))


EDITS = [b"a", b"bc", b" ", UP, DOWN, LEFT, RIGHT, HOME, END, DELETE, BACKSPACE, b"\x0b", b"\x15"]


@given(st.lists(st.sampled_from(EDITS), max_size=60))
def test_the_screen_shows_the_line_after_any_edits(edits):
    session = Session(width=20)
    top = session.screen.row
    session.type(*edits)
    editor = session.terminal.terminalProtocol
    shown = ">>> " + b"".join(editor.lineBuffer).decode()
    assert "".join(row.ljust(20) for row in session.screen.rows[top:]).rstrip() == shown.rstrip()
    at = 4 + editor.lineBufferIndex
    assert session.screen.cursor == (top + at // 20, at % 20)
