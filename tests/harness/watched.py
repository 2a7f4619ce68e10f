"""A history that is watched: lines that come, connections that end, in process; and kept ones, which never change."""

from __future__ import annotations

import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

from fedssh.errors import UnreachableError
from fedssh.watch.ssh import NotUnderstoodError

HISTORIES = Path(__file__).resolve().parents[1] / "vectors" / "histories"


def kept(name: str) -> list[bytes]:
    """The lines of a history of tests/vectors."""
    with tarfile.open(HISTORIES / f"{name}.tar.gz") as archive:
        file = archive.extractfile("coordinator/outbox/ledger.jsonl")
        assert file is not None
        return file.read().splitlines(keepends=True)


class Played:
    """A door that shows these lines.

    Attributes:
        shown: What it shows; may grow, or be another history.
        asked: After which record it was asked, and whether to follow.
        old: Whether it knows no `--follow`.
        gone: Whether nobody reaches it.
    """

    def __init__(self, shown: list[bytes], old: bool = False) -> None:
        self.shown, self.old, self.gone = shown, old, False
        self.asked: list[tuple[int, bool]] = []
        self._changed = threading.Condition()
        self._cut = self._stopped = False

    def __str__(self) -> str:
        return "charity.example"

    def lines(self, after: int, *, follow: bool = False) -> Iterator[bytes]:
        self.asked.append((after, follow))
        if self.gone:
            raise UnreachableError("charity.example: Connection refused")
        if follow and self.old:
            raise NotUnderstoodError("charity.example: there is no --follow")
        self._cut = False
        while True:
            with self._changed:
                while follow and not self._ends() and len(self.shown) <= after:
                    self._changed.wait(20)
                new = [] if follow and self._ends() else self.shown[after:]
            yield from new
            after += len(new)
            if not follow or self._stopped:
                return
            if self._cut:
                raise UnreachableError("charity.example: Connection closed by remote host")

    def _ends(self) -> bool:
        return self._cut or self._stopped

    def show(self, *lines: bytes) -> None:
        """Let some more come."""
        with self._changed:
            self.shown = [*self.shown, *lines]
            self._changed.notify_all()

    def cut(self, shown: list[bytes] | None = None, *, gone: bool = False) -> None:
        """End the connection; the next one shows these lines, or there is none."""
        with self._changed:
            self.shown, self.gone, self._cut = self.shown if shown is None else shown, gone, True
            self._changed.notify_all()

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
