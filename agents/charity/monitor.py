"""`charity serve --metrics FILE`: keeps a file up to date that node_exporter's textfile collector reads.

A thread of its own writes it, so that it is as fresh while a judgement takes minutes: about a second after something
has changed, and every 15 seconds anyway. It only reads, through a connection of its own. The file is written whole
under another name and renamed, readable for all (0644). What cannot be written is said once, tried again, and never in
the way of the work, whatever it is that fails.

    FILE            what is told
    .FILE.lock      held by the one process that writes it
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from fedssh.charity import inbox
from fedssh.charity.exposition import Seen, text
from fedssh.charity.folders import Folders
from fedssh.charity.vault import row
from fedssh.commands import tell
from fedssh.errors import AgentError, LedgerError
from fedssh.files import locked, whole_file
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
        self._started = time.time()
        self._looked: float | None = None
        self._restarts = self._troubles = 0
        self._history: Totals | None = None
        self._damaged = False  # whether the history's summary is not to be believed
        self._lock: contextlib.ExitStack | None = None
        self._written = ("", -EVERY_SECONDS)  # without what always changes, and when
        self._failed = False
        self._wake, self._stop = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)

    def __enter__(self) -> Monitor:
        if self._path is not None:
            try:
                self._thread.start()
            except RuntimeError as error:  # there are too many
                self._say(error)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._path is not None:
            self._stop.set()
            self._wake.set()
            if self._thread.ident is not None:
                self._thread.join(LAST_SECONDS)
            if not self._thread.is_alive():  # a disk that hangs must not keep her from ending
                self._update(serving=False)
                if self._lock is not None:
                    self._lock.close()

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
        while not self._stop.is_set():
            self._wake.clear()
            self._update(serving=self._looked is not None)
            self._stop.wait(LEAST_SECONDS)
            self._wake.wait(EVERY_SECONDS - LEAST_SECONDS)

    def _update(self, *, serving: bool) -> None:
        assert self._path is not None
        try:
            self._hold(self._path)
            seen = self._see(serving)
            timeless = text(dataclasses.replace(seen, now=0, looked=None, free={}))
            if timeless == self._written[0] and time.monotonic() - self._written[1] < EVERY_SECONDS - LEAST_SECONDS:
                return
            with whole_file(self._path, MODE) as file:
                os.fchmod(file.fileno(), MODE)  # whatever the umask
                file.write(text(seen).encode())
            self._written = timeless, time.monotonic()
        except Exception as error:  # noqa: BLE001 - what is told of her must never be in the way of her work
            if not isinstance(error, OSError | AgentError):  # a summary with a wrong member may fail in any way
                self._history, self._damaged = None, True
            self._say(error)
        else:
            if self._failed:
                tell(logger, "metrics", f"metrics are written to {self._path} again", path=str(self._path))
            self._failed = False

    def _say(self, error: Exception) -> None:
        if not self._failed:
            reason = str(error) if isinstance(error, OSError | AgentError) else f"{type(error).__name__}: {error}"
            said = f"cannot write metrics to {self._path}: {reason}; it is tried again"
            tell(logger, "metrics", said, logging.WARNING, path=str(self._path), reason=reason)
        self._failed = True

    def _hold(self, path: Path) -> None:
        """Be the one who writes the file, and remove what one that was killed has left."""
        if self._lock is not None:
            return
        lock = path.with_name(f".{path.name}.lock")
        with contextlib.ExitStack() as stack:
            busy = f"another `charity serve` writes it and holds {lock}; every coordinator needs a file of her own"
            stack.enter_context(locked(lock, busy))
            part = re.compile(re.escape(f".{path.name}.") + r"[0-9a-f]{8}\.part")
            for name in os.listdir(path.parent):
                if part.fullmatch(name):
                    path.with_name(name).unlink(missing_ok=True)
            self._lock = stack.pop_all()

    def _see(self, serving: bool) -> Seen:
        if self._history is None:
            self._history = Totals(self._folders, believe=not self._damaged)
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
    """The totals of the history, and what was received since this was made.

    Args:
        folders: The coordinator's.
        believe: Whether to begin with the summary; else with the first record.
    """

    def __init__(self, folders: Folders, *, believe: bool = True) -> None:
        self._ledger = Ledger(folders.ledger)
        head = self._ledger.head()
        if head is None:
            raise LedgerError("the history is empty")
        self._begun = head.sequence
        self._found = self._summary(folders, head.sequence) if believe else None
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
    """By site, how many bundles wait or are at hand, and when the first of them came, which its name says.

    Whoever broke into the door chooses folders and names: so only those of `sites` are looked into, as the vault does
    it, and a time that cannot be is none, 0.
    """
    found = {}
    for site in sites:
        names: list[str] = []
        for folder in (folders.claimed / site, folders.inbox / site):
            with contextlib.suppress(OSError):  # which the vault says
                names += inbox.listed(folder)
        now = time.time()
        came = [at for name in names if 0 < (at := int(name[:20]) / 1e9) <= now]
        found[site] = len(names), min(came, default=0.0)
    return found


def _free(folder: Path) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize
