"""The history as the vault publishes it, read without what is not asked for. Standard library only.

    outbox/ledger.jsonl   one line per record, in the order of their numbers; it only ever grows
                          {"hash":…,"record":…,"sequence":n,"signature":…}

Lines are sorted by number, so the file is its own index: a record is found by halving the file, 20 looks at one line
for a million records, and nothing has to be kept beside it, repaired or believed. A last line without its newline is
still being written and is left out.
"""

from __future__ import annotations

import json
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any, BinaryIO

    Row = dict[str, Any]

_BLOCK = 1 << 16


class NoRecord(LookupError):
    """The history has no record of that number, or none at all."""


class Published:
    """A published history, open as it stands now; what is appended later is not looked at.

    Args:
        file: ledger.jsonl, open for reading; the caller closes it.

    Raises:
        ValueError: From every method: a line on the way is not a ledger line.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._end = self._line_start(os.fstat(file.fileno()).st_size)

    @property
    def end(self) -> int:
        """Where its last whole line ends."""
        return self._end

    @property
    def count(self) -> int:
        """The number of the newest record; 0 without any."""
        return number_of(self._line(self._line_start(self._end - 1))) if self._end else 0

    def lines(self, after: int = 0) -> Iterator[bytes]:
        """The lines of the records above a number, in order."""
        start = self._place(after + 1) if after else 0
        self._file.seek(start)
        while start < self._end and (line := self._file.readline()):
            start += len(line)
            yield line

    def rows(self, after: int = 0) -> Iterator[Row]:
        """The records above a number, in order."""
        return map(row_of, self.lines(after))

    def line(self, sequence: int) -> bytes:
        """The line of one record.

        Raises:
            NoRecord: There is none of that number.
        """
        if sequence > 0:
            for line in self.lines(sequence - 1):
                if number_of(line) == sequence:
                    return line
                break
        raise NoRecord(f"the history has no record {sequence}; it ends with {self.count}")

    def row(self, sequence: int) -> Row:
        """One record.

        Raises:
            NoRecord: There is none of that number.
        """
        return row_of(self.line(sequence))

    def start_of(self, sequence: int) -> int:
        """Where the line of the first record from a number on begins; the end of the last line when there is none."""
        return self._place(sequence)

    def _place(self, sequence: int) -> int:
        low, high = 0, self._end  # of the lines that begin before `low` none is wanted, of those from `high` on all
        while low < high:
            start = self._line_start((low + high) // 2)
            line = self._line(start)
            if number_of(line) < sequence:
                low = start + len(line)
            else:
                high = start
        return low

    def _line(self, start: int) -> bytes:
        self._file.seek(start)
        return self._file.readline()

    def _line_start(self, place: int) -> int:
        """Where the last line begins that begins at `place` or before; at the file's end, where a whole one may end."""
        while place > 0:
            first = max(0, place - _BLOCK)
            block = os.pread(self._file.fileno(), place - first, first)
            found = block.rfind(b"\n")
            if found >= 0:
                return first + found + 1
            place = first
        return 0


def number_of(line: bytes) -> int:
    """The number of a ledger line.

    Raises:
        ValueError: It is not one.
    """
    try:
        return int(json.loads(line)["sequence"])
    except (KeyError, TypeError):
        raise ValueError("not a ledger line") from None


def row_of(line: bytes) -> Row:
    """A record's own fields with its hash and signature.

    Raises:
        ValueError: Not a ledger line.
    """
    try:
        whole = json.loads(line)
        row: Row = json.loads(whole["record"]) | {"hash": whole["hash"], "signature": whole["signature"]}
    except (KeyError, TypeError):
        raise ValueError("not a ledger line") from None
    return row


def export(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Ledger lines with every letter beyond ASCII escaped, and DEL: the same JSON values, safe for a terminal."""
    for line in lines:
        if not line.isascii() or b"\x7f" in line:
            line = escaped(json.dumps(json.loads(line), separators=(",", ":"), sort_keys=True)).encode() + b"\n"
        yield line


def escaped(text: str) -> str:
    """JSON in ASCII without the one letter of it that a terminal acts on."""
    return text.replace("\x7f", "\\u007f")
