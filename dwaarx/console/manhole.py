"""The interactive console: a line editor on a terminal before a Python interpreter."""

from __future__ import annotations

import codecs
import sys
import traceback
from collections.abc import Mapping, Sequence
from inspect import iscoroutine
from types import CodeType

from twisted.conch.insults.insults import ServerProtocol
from twisted.conch.manhole import Manhole, ManholeInterpreter
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import ITransport
from twisted.logger import Logger
from twisted.python.failure import Failure

from dwaarx import __version__
from dwaarx.console.colour import colour
from dwaarx.console.completion import complete
from dwaarx.console.evaluate import Attempt, describe, fresh, show
from dwaarx.console.table import Table

_log = Logger()

BANNER = f"dwaarx {__version__}. help() lists the functions, Tab completes, Ctrl-D leaves.\n"

# Longer than any line that a person types or pastes.
MAX_LINE = 65_536
# All lines of a block that is not complete yet.
MAX_SOURCE = 1_048_576
MAX_HISTORY = 1_000
# No key sends a longer escape sequence; what is longer is none.
MAX_ESCAPE = 32
# Terminals report sizes that are absurd or 0 while they start.
MIN_WIDTH, MAX_WIDTH = 20, 1_000

CTRL_K, CTRL_U, CTRL_W = b"\x0b", b"\x15", b"\x17"
BELL = b"\a"
INDENT = b"    "


class Terminal(ServerProtocol):
    """The server's end of a terminal: keys in, one write for each chunk of them out.

    Unlike its base it neither clears the user's screen nor lets an exception go out to the
    transport, and its buffers are bounded.
    """

    transport: ITransport

    def __init__(self, namespace: Mapping[str, object], width: int = 80, height: int = 24) -> None:
        super().__init__(ConsoleManhole, namespace, width, height)
        self._gathered: list[bytes] | None = []  # None: write at once

    def connectionMade(self) -> None:
        """Greet."""
        super().connectionMade()
        self._flush()

    def dataReceived(self, data: bytes) -> None:
        """Take keys as they come, cut anywhere."""
        self._gathered = []
        for at in range(0, len(data), MAX_ESCAPE):
            with Attempt() as attempt:
                super().dataReceived(data[at : at + MAX_ESCAPE])
            if attempt.error is not None:
                self.state = b"data"
                _log.error("The console's terminal failed: {error}", error=attempt.error)
            if self.state == b"bracket-escaped" and len(self.escBuf) > MAX_ESCAPE:
                self.state = b"data"
        if self.terminalProtocol is not None:
            self.terminalProtocol.draw()
        self._flush()

    def write(self, data: bytes | str) -> None:
        r"""Write text whose lines end in \n."""
        if not data:
            return
        encoded = data.encode("utf-8", "replace") if isinstance(data, str) else data
        self.lastWrite = encoded
        encoded = encoded.replace(b"\n", b"\r\n")
        if self._gathered is None:
            self.transport.write(encoded)
        else:
            self._gathered.append(encoded)

    def resize(self, width: int, height: int) -> None:
        """Take a new size of the window."""
        if self.terminalProtocol is not None:
            self.terminalProtocol.terminalSize(width, height)

    def loseConnection(self) -> None:
        """Write what is gathered and close."""
        self._flush()
        self.transport.loseConnection()

    def _flush(self) -> None:
        gathered, self._gathered = self._gathered, None
        if gathered:
            self.transport.write(b"".join(gathered))


class ConsoleInterpreter(ManholeInterpreter):
    """Runs what was typed, shows results and waits for Deferreds; errors are told shortly."""

    handler: ConsoleManhole
    waiting: set[Deferred[object]]

    def __init__(self, handler: ConsoleManhole, namespace: dict[str, object]) -> None:
        super().__init__(handler, namespace)
        self.waiting = set()

    def runcode(self, code: CodeType) -> None:
        """Run one statement; exit() ends the session."""
        with Attempt() as attempt:
            super().runcode(code)
        if attempt.error is not None:
            self.handler.handle_QUIT()

    def showtraceback(self) -> None:
        """Tell the exception that is being handled."""
        error = sys.exception()
        assert error is not None
        self.write(describe(error, self.locals) + "\n")

    def showsyntaxerror(self, filename: str | None = None, **_: object) -> None:
        """Tell where the line is not Python."""
        error = sys.exception()
        assert error is not None
        self.write("".join(traceback.format_exception_only(error)))

    def displayhook(self, obj: object) -> None:
        """Show a result, or announce it if it is still to come."""
        self.locals["_"] = obj
        if iscoroutine(obj):
            obj = Deferred.fromCoroutine(obj)
        if isinstance(obj, Deferred):
            self._wait(obj)
        elif obj is not None:
            self.write(self._render(obj))

    def stop(self) -> None:
        """Cancel what is still waited for: nobody will see it."""
        for deferred in list(self.waiting):
            deferred.cancel()

    def _wait(self, deferred: Deferred[object]) -> None:
        number, self.numDeferreds = self.numDeferreds, self.numDeferreds + 1
        later = False

        def fired(result: object) -> None:
            self.waiting.discard(deferred)
            if isinstance(result, Failure):
                assert result.value is not None
                text = describe(result.value)
            else:
                text = "" if result is None else self._render(result)
            if later:
                self.handler.addOutput(f"Deferred #{number}: {text or None}", True)
            else:
                self.write(text)

        self.waiting.add(deferred)
        deferred.addBoth(fired)
        later = True
        if deferred in self.waiting:
            self.write(f"<Deferred #{number}>")

    def _render(self, value: object) -> str:
        if isinstance(value, Table):
            return value.fit(self.handler.width)
        text, error = show(value)
        return text or error or ""


class ConsoleManhole(Manhole):
    """A line editor with colour, completion and history, for lines of any length.

    It keeps no copy of the screen: each chunk of keys ends with the input line being drawn
    again from its first row. `lineBuffer` holds one character (as UTF-8) per entry.
    """

    interpreter: ConsoleInterpreter
    lineBuffer: list[bytes]
    lineBufferIndex: int
    historyLines: list[bytes]
    historyPosition: int

    def __init__(self, namespace: Mapping[str, object], width: int = 80, height: int = 24) -> None:
        super().__init__()
        self.namespace: dict[str, object] = fresh(namespace)
        self._set_size(width, height)
        self._decoder = codecs.getincrementaldecoder("utf-8")("ignore")
        self._row = 0  # of the cursor, below the row where the prompt stands
        self._stale = True
        self._open = True
        self._draft: list[bytes] = []

    def connectionMade(self) -> None:
        """Greet and prompt."""
        super().connectionMade()
        self.interpreter = ConsoleInterpreter(self, self.namespace)
        self.keyHandlers.update(
            {
                CTRL_K: self._kill_right,
                CTRL_U: self._kill_left,
                CTRL_W: self._kill_word,
                b"\x08": self.handle_BACKSPACE,
            }
        )

    def initializeScreen(self) -> None:
        """Leave the user's screen as it is."""
        self.mode = "insert"
        self.terminal.write(BANNER)
        self.draw()

    def terminalSize(self, width: int, height: int) -> None:
        """Take the size that the terminal has, or has now."""
        self._set_size(width, height)
        self._stale = True
        self.draw()

    def unhandledControlSequence(self, seq: bytes) -> None:
        """Take CSI 8 ; rows ; columns t for a change of the window's size; drop the others."""
        number = seq[2:-1].split(b";")
        if seq[-1:] == b"t" and len(number) == 3 and all(map(bytes.isdigit, number)):
            what, height, width = map(int, number)
            if what == 8:
                self.terminalSize(width, height)

    def connectionLost(self, reason: Failure) -> None:
        """Forget what is still waited for."""
        self._open = False
        self.interpreter.stop()

    # --- keys -------------------------------------------------------------------

    def keystrokeReceived(self, keyID: object, modifier: object) -> None:
        """Take a key: a byte, or one of the terminal's constants."""
        handler = self.keyHandlers.get(keyID)
        if handler is not None:
            handler()
        elif isinstance(keyID, bytes) and modifier is None:
            character = self._decoder.decode(keyID)
            if character.isprintable() and character:
                self.characterReceived(character.encode(), True)

    def characterReceived(self, ch: bytes, moreCharactersComing: bool) -> None:
        """Put a character at the cursor."""
        if len(self.lineBuffer) >= MAX_LINE:
            self.terminal.write(BELL)
            return
        end = self.lineBufferIndex + (self.mode == "typeover")
        self.lineBuffer[self.lineBufferIndex : end] = [ch]
        self.lineBufferIndex += 1
        self._stale = True

    def handle_LEFT(self) -> None:
        """Go left."""
        self._go(self.lineBufferIndex - 1)

    def handle_RIGHT(self) -> None:
        """Go right."""
        self._go(self.lineBufferIndex + 1)

    def handle_HOME(self) -> None:
        """Go to the start of the line."""
        self._go(0)

    def handle_END(self) -> None:
        """Go to the end of the line."""
        self._go(len(self.lineBuffer))

    def handle_BACKSPACE(self) -> None:
        """Delete the character before the cursor."""
        self._delete(self.lineBufferIndex - 1, self.lineBufferIndex)

    def handle_DELETE(self) -> None:
        """Delete the character at the cursor."""
        self._delete(self.lineBufferIndex, self.lineBufferIndex + 1)

    def handle_INSERT(self) -> None:
        """Change between inserting and typing over."""
        self.mode = "typeover" if self.mode == "insert" else "insert"

    def handle_UP(self) -> None:
        """Bring the line before this one in the history."""
        if self.historyPosition == len(self.historyLines):
            self._draft = self.lineBuffer
        if self.historyPosition > 0:
            self._recall(self.historyPosition - 1)

    def handle_DOWN(self) -> None:
        """Bring the line after this one in the history, at last the one begun before."""
        if self.historyPosition < len(self.historyLines):
            self._recall(self.historyPosition + 1)

    def handle_TAB(self) -> None:
        """Complete the word before the cursor, or show what it could become."""
        before = b"".join(self.lineBuffer[: self.lineBufferIndex]).decode()
        if not before.strip():
            self._insert(INDENT.decode())
            return
        completion = complete(before, self.interpreter.locals)
        self._insert(completion.insert)
        if completion.choices:
            self._below(_columns(completion.choices, self.width))
        elif not completion.insert:
            self.terminal.write(BELL)

    def handle_RETURN(self) -> None:
        """Run the line."""
        line = b"".join(self.lineBuffer)
        self.handle_END()
        self.draw()
        if line.strip() and line not in self.historyLines[-1:]:
            self.historyLines.append(line)
            del self.historyLines[:-MAX_HISTORY]
        self._clear()
        self.terminal.nextLine()
        self.lineReceived(line)

    def handle_INT(self) -> None:
        """Give up the line, and the block that it belongs to."""
        self.handle_END()
        self.draw()
        self.interpreter.resetBuffer()
        self.pn = 0
        self._clear()
        self.terminal.write(b"^C\n")

    def handle_EOF(self) -> None:
        """Leave if the line is empty; else delete, as shells do."""
        if self.lineBuffer:
            self.handle_DELETE()
        else:
            self.handle_QUIT()

    def handle_QUIT(self) -> None:
        """Leave."""
        self.terminal.nextLine()
        self._open = False
        self.terminal.loseConnection()

    # --- lines and output -------------------------------------------------------

    def lineReceived(self, line: bytes) -> None:
        """Run a line, or keep it if its block goes on."""
        if sum(map(len, self.interpreter.buffer)) + len(line) > MAX_SOURCE:
            self.interpreter.resetBuffer()
            self.pn = 0
            self.terminal.write("The block is too long, and is dropped.\n")
            return
        self.pn = int(bool(self.interpreter.push(line)))
        if self._needsNewline():
            self.terminal.nextLine()

    def addOutput(self, data: str, isAsync: bool | None = None) -> None:
        """Write output, above the input line if one is being typed."""
        if not self._open:
            return
        if isAsync:
            self.terminal.write(self._to_first_row())
        self.terminal.write(data)
        if isAsync:
            if self._needsNewline():
                self.terminal.nextLine()
            self._row = 0
            self._stale = True
            self.draw()

    def drawInputLine(self) -> None:
        """Draw the line where the cursor stands."""
        self._row = 0
        self._stale = True
        self.draw()

    def draw(self) -> None:
        """Draw prompt and line over what was drawn before, if anything changed."""
        if not self._stale or not self._open:
            return
        self._stale = False
        prompt = self.ps[self.pn]
        line = b"".join(self.lineBuffer).decode()
        last, column = divmod(len(prompt) + len(line), self.width)
        row, to_column = divmod(len(prompt) + self.lineBufferIndex, self.width)
        parts = [self._to_first_row(), prompt, colour(line).encode()]
        if column == 0:
            # Terminals differ in where the cursor is after the last column: make it certain.
            parts.append(b"\n")
        if last > row:
            parts.append(b"\x1b[%dA" % (last - row))
        if (row, to_column) != (last, column):
            parts.append(b"\r" + (b"\x1b[%dC" % to_column if to_column else b""))
        self._row = row
        self.terminal.write(b"".join(parts))

    def _to_first_row(self) -> bytes:
        up = b"\x1b[%dA" % self._row if self._row else b""
        return up + b"\r\x1b[J"

    def _below(self, text: str) -> None:
        self._stale = True
        index, self.lineBufferIndex = self.lineBufferIndex, len(self.lineBuffer)
        self.draw()
        self.terminal.write(f"\n{text}\n")
        self.lineBufferIndex = index
        self._row = 0
        self._stale = True

    def _clear(self) -> None:
        self.lineBuffer = []
        self.lineBufferIndex = 0
        self.historyPosition = len(self.historyLines)
        self._row = 0
        self._stale = True

    def _insert(self, text: str) -> None:
        for character in text:
            self.characterReceived(character.encode(), True)

    def _go(self, index: int) -> None:
        self.lineBufferIndex = min(max(index, 0), len(self.lineBuffer))
        self._stale = True

    def _delete(self, start: int, end: int) -> None:
        del self.lineBuffer[max(start, 0) : end]
        self._go(max(start, 0))

    def _kill_right(self) -> None:
        self._delete(self.lineBufferIndex, len(self.lineBuffer))

    def _kill_left(self) -> None:
        self._delete(0, self.lineBufferIndex)

    def _kill_word(self) -> None:
        start = self.lineBufferIndex
        while start > 0 and self.lineBuffer[start - 1] == b" ":
            start -= 1
        while start > 0 and self.lineBuffer[start - 1] != b" ":
            start -= 1
        self._delete(start, self.lineBufferIndex)

    def _recall(self, position: int) -> None:
        self.historyPosition = position
        if position < len(self.historyLines):
            self.lineBuffer = [c.encode() for c in self.historyLines[position].decode()]
        else:
            self.lineBuffer = self._draft
        self._go(len(self.lineBuffer))

    def _set_size(self, width: int, height: int) -> None:
        self.width = min(max(width, MIN_WIDTH), MAX_WIDTH)
        self.height = height


def _columns(words: Sequence[str], width: int) -> str:
    """Set words in as many columns as fit, read downwards."""
    space = max(map(len, words)) + 2
    count = max(width // space, 1)
    rows = -(-len(words) // count)
    return "\n".join(
        "".join(word.ljust(space) for word in words[row::rows]).rstrip() for row in range(rows)
    )
