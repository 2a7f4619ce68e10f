"""A history in a file on this machine, as a coordinator publishes it, line by line."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from fedssh.chain import MAX_LINE_BYTES
from fedssh.errors import LedgerError, UnreachableError
from fedssh.history.published import Published

POLL_SECONDS = 0.2


@dataclass
class File:
    """Reads `ledger.jsonl`, and waits for what is added to it."""

    path: Path
    _stop: threading.Event = field(default_factory=threading.Event, init=False)

    def __str__(self) -> str:
        return str(self.path)

    def lines(self, after: int, *, follow: bool = False) -> Iterator[bytes]:
        """The lines of the history above a number: those there are, or also those that come.

        Raises:
            UnreachableError: There is no such file yet.
            LedgerError: A line is none, or is longer than any is.
        """
        try:
            with self.path.open("rb") as file:
                place = Published(file).start_of(after + 1)
                while not self._stop.is_set():
                    file.seek(place)
                    line = file.readline(MAX_LINE_BYTES + 1)
                    if line.endswith(b"\n"):
                        place += len(line)
                        yield line
                    elif len(line) > MAX_LINE_BYTES:
                        raise LedgerError(f"a line of {self.path} is longer than {MAX_LINE_BYTES:,} bytes")
                    elif not follow or self._stop.wait(POLL_SECONDS):
                        return
        except FileNotFoundError:
            raise UnreachableError(f"there is no {self.path} yet") from None
        except ValueError as error:
            raise LedgerError(f"{self.path}: {error}") from None

    def stop(self) -> None:
        """End what waits, from any thread."""
        self._stop.set()
