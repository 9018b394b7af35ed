"""A small terminal: it keeps the screen that the bytes written to it would show."""

import re

_SEQUENCE = re.compile(r"\x1b\[(\d*(?:;\d*)*)([A-Za-z])|([\r\n\a])|([^\x1b\r\n\a])")


class Screen:
    """Rows of characters and a cursor; knows the sequences that the console writes."""

    def __init__(self, width=80):
        self.width = width
        self.rows = [""]
        self.row = 0
        self.column = 0
        self.bells = 0

    def feed(self, data: bytes):
        text = data.decode()
        at = 0
        while at < len(text):
            match = _SEQUENCE.match(text, at)
            assert match, f"unknown sequence {text[at : at + 10]!r}"
            at = match.end()
            number, final, control, character = match.groups()
            if final:
                self._control(final, int(number or 1) if number.isdigit() or not number else 0)
            elif control == "\r":
                self.column = 0
            elif control == "\n":
                self._down()
            elif control == "\a":
                self.bells += 1
            else:
                self._put(character)

    def _control(self, final, number):
        if final == "A":
            self.row = max(self.row - number, 0)
        elif final == "C":
            self.column = min(self.column + number, self.width - 1)
        elif final == "J" and number == 1:
            self.rows[self.row] = self.rows[self.row][: self.column]
            del self.rows[self.row + 1 :]
        elif final == "J":
            self.rows = [""] * (self.row + 1)
        elif final == "H":
            self.row = self.column = 0
        else:
            assert final == "m", f"unknown sequence ending in {final}"

    def _put(self, character):
        if self.column == self.width:
            self.column = 0
            self._down()
        row = self.rows[self.row].ljust(self.column)
        self.rows[self.row] = row[: self.column] + character + row[self.column + 1 :]
        self.column += 1

    def _down(self):
        self.row += 1
        if self.row == len(self.rows):
            self.rows.append("")

    @property
    def text(self):
        return "\n".join(row.rstrip() for row in self.rows)

    @property
    def cursor(self):
        return self.row, self.column
