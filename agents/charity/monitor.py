"""`charity serve --metrics FILE`: keeps a file up to date that node_exporter's textfile collector reads.

A thread of its own writes it, so that it is as fresh while a judgement takes minutes: about a second after something
has changed, and every 15 seconds anyway. It only reads, through a connection of its own. The file is written whole
under another name and renamed, readable for all (0644). What cannot be written is said once, tried again, and never in
the way of the work.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from fedssh.charity import intake
from fedssh.charity.exposition import Seen, text
from fedssh.charity.folders import Folders
from fedssh.charity.vault import row
from fedssh.commands import tell
from fedssh.errors import AgentError, LedgerError
from fedssh.files import is_part, whole_file
from fedssh.history import totals
from fedssh.history.rounds import rounds
from fedssh.history.views import sent
from fedssh.ledger import Ledger

EVERY_SECONDS = 15.0
LEAST_SECONDS = 1.0
LAST_SECONDS = 5.0
MODE = 0o644

logger = logging.getLogger("charity")


class Monitor:
    """Writes the file while the block runs, and a last time at its end.

    Args:
        path: The file; None writes nothing.
        folders: The coordinator's.
        door: Whether the door stands that she runs; None where she runs none.
    """

    def __init__(self, path: Path | None, folders: Folders, door: Callable[[], bool | None] = lambda: None) -> None:
        self._path, self._folders, self._door = path, folders, door
        self._started = self._looked = time.time()
        self._restarts = self._troubles = 0
        self._history: Totals | None = None
        self._written = ("", -EVERY_SECONDS)  # without what always changes, and when
        self._failed = False
        self._wake, self._stop = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)

    def __enter__(self) -> Monitor:
        if self._path is not None:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._path is not None:
            self._stop.set()
            self._wake.set()
            self._thread.join(LAST_SECONDS)
            if not self._thread.is_alive():  # a disk that hangs must not keep her from ending
                self._update(serving=False)

    def came_round(self) -> None:
        """She has looked for work."""
        self._looked = time.time()
        self._wake.set()

    def restarted(self) -> None:
        """The judge is started again."""
        self._restarts += 1

    def troubled(self) -> None:
        """Her work failed, and is tried again."""
        self._troubles += 1

    def _run(self) -> None:
        assert self._path is not None
        with contextlib.suppress(OSError):  # what a killed one left
            for part in self._path.parent.glob(f".{self._path.name}.*"):
                if is_part(part):
                    part.unlink()
        while not self._stop.is_set():
            self._wake.clear()
            self._update(serving=True)
            self._stop.wait(LEAST_SECONDS)
            self._wake.wait(EVERY_SECONDS - LEAST_SECONDS)

    def _update(self, *, serving: bool) -> None:
        assert self._path is not None
        try:
            seen = self._see(serving)
            timeless = text(dataclasses.replace(seen, now=0, looked=0, free={}))
            if timeless == self._written[0] and time.monotonic() - self._written[1] < EVERY_SECONDS - LEAST_SECONDS:
                return
            with whole_file(self._path, MODE) as file:
                os.fchmod(file.fileno(), MODE)  # whatever the umask
                file.write(text(seen).encode())
            self._written = timeless, time.monotonic()
        except (OSError, AgentError, ValueError) as error:  # ValueError: of a record or summary that is damaged
            if not self._failed:
                said = f"cannot write metrics to {self._path}: {error}; it is tried again"
                tell(logger, "metrics", said, logging.WARNING, path=str(self._path), reason=str(error))
            self._failed = True
        else:
            if self._failed:
                tell(logger, "metrics", f"metrics are written to {self._path} again", path=str(self._path))
            self._failed = False

    def _see(self, serving: bool) -> Seen:
        if self._history is None:
            self._history = Totals(self._folders)
        found = self._history.follow()
        nodes = found["nodes"].values()
        sites = [node["site"] for node in nodes if node["role"] == "site" and node["state"] == "enrolled"]
        from fedssh import __version__

        return Seen(
            totals=dict(found), received=dict(self._history.received), waiting=_waiting(self._folders, sites),
            round=rounds(found["rounds"], found["genesis"]["policy"], len(sites)) if found["rounds"] else None,
            free={name: _free(self._folders.state / name) for name in ("inbox", "outbox", "vault")},
            restarts=self._restarts, troubles=self._troubles, door=self._door(), serving=serving,
            started=self._started, looked=self._looked, now=time.time(), version=__version__,
        )  # fmt: skip


class Totals:
    """The totals of the history, and what was received since this was made."""

    def __init__(self, folders: Folders) -> None:
        self._ledger = Ledger(folders.ledger)
        head = self._ledger.head()
        if head is None:
            raise LedgerError("the history is empty")
        self._begun = head.sequence
        self._found = self._summary(folders, head.sequence)
        self.received: dict[str, int] = {}

    def _summary(self, folders: Folders, newest: int) -> dict[str, Any] | None:
        known = totals.read(folders.summary.read_bytes()) if folders.summary.is_file() else None
        if known and (known["sequence"] > newest or self._ledger.record(known["sequence"]).hash != known["hash"]):
            return None
        return known

    def follow(self) -> dict[str, Any]:
        """The totals up to the newest record."""
        for record in self._ledger.iterate(self._found["sequence"] if self._found else 0):
            fields = row(record)
            if record.sequence > self._begun and (size := sent(fields)):
                self.received[fields["site"]] = self.received.get(fields["site"], 0) + size
            self._found = totals.fold([fields], self._found)
        assert self._found is not None, "there is a first record"
        return self._found


def _waiting(folders: Folders, sites: list[str]) -> dict[str, tuple[int, float]]:
    """By site, how many bundles wait or are at hand, and when the first of them came, which its name says."""
    found = dict.fromkeys(sites, (0, 0.0))
    for one in (*intake.unfinished(folders), *intake.waiting(folders)):
        count, oldest = found.get(one.site, (0, 0.0))
        came = int(one.path.name[:20]) / 1e9
        found[one.site] = count + 1, min(came, oldest) if count else came
    return found


def _free(folder: Path) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize
