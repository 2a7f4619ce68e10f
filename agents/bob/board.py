"""What the history says beyond the newest release: the board on which a round under masks goes on.

Nothing of it is kept: after a restart it is asked for once more. It is checked like what leads to a release: signed,
linked, and by the rules that were agreed. The lines are handed on to who follows the next release, which checks them
anew; so they come over the network once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from fedssh import chain, files
from fedssh.bob.followed import Followed
from fedssh.bob.lines import earlier, judge, read_lines
from fedssh.bob.site import Folder, Site
from fedssh.rules.federation import Federation
from fedssh.rules.replay import Replay
from fedssh.transport import Connection

MAX_BYTES = 1 << 28  # of records between two releases


class Board:
    """The history after the newest release that was followed.

    Args:
        refuse: Whether a decision that the rules do not give is an error; else it is told.
        say: Called with an event, its text and its fields.
    """

    def __init__(self, folder: Folder, site: Site, refuse: bool, say: Callable[..., None]) -> None:
        self._folder = folder
        self._site = site
        self._refuse = refuse
        self._say = say
        self._replay = Replay()
        self._lines: dict[int, bytes] = {}
        self._looked_at: tuple[int, int] | None = None  # followed.json, as it was read last
        self._lock = threading.Lock()

    def lines(self, after: int) -> list[bytes]:
        """The lines of the records that follow one, as far as they are here."""
        with self._lock:
            found: list[bytes] = []
            while (line := self._lines.get(after + 1 + len(found))) is not None:
                found.append(line)
            return found

    def released(self) -> Federation | None:
        """Where the federation stood at the newest release, once it was followed; None when there is no newer one."""
        try:
            found = self._folder.followed.stat()
        except FileNotFoundError:
            return None
        if (found.st_mtime_ns, found.st_ino) == self._looked_at:
            return None
        followed, state = Followed(self._folder.followed).replay(), self._replay.state
        if followed.state is None:
            return None
        newest, self._looked_at = followed.state.sequence, (found.st_mtime_ns, found.st_ino)
        if state is None or state.sequence < newest:  # what leads to the release is not needed any more
            self._replay = followed
            with self._lock:
                self._lines = {number: line for number, line in self._lines.items() if number > newest}
        return self._replay.state

    def wait(self, door: Connection, wait_seconds: int, patience: float) -> Federation | None:
        """Wait until a round goes on, and follow the history to its end.

        Returns:
            Where the federation stands; None before `released` gave anything.

        Raises:
            UntrustedError: What came does not follow, or was decided otherwise than was agreed.
            UnreachableError: The network failed.
        """
        if self._replay.state is None:
            return None
        self._fetch(door, wait_seconds, patience)
        return self._replay.state

    def _fetch(self, door: Connection, wait_seconds: int, patience: float) -> None:
        replay = self._replay
        assert replay.state is not None
        replay.look_up = lambda number: earlier(door, number, self._site.coordinator)
        part = files.part_of(self._folder.path / "board.jsonl")
        words = ("history", "--export", "--after", replay.state.sequence, "--round", wait_seconds)
        try:
            answer = door.stream(*words, into=part, max_bytes=MAX_BYTES, timeout=wait_seconds + patience)
            if answer.busy:
                raise answer.error(door.address, "history")
            if answer.nothing_yet:
                return
            if answer.status:
                raise answer.error(door.address, "history")
            self._follow(replay, part, chain.Seen(replay.state.sequence, replay.state.head))
        finally:
            replay.look_up = None
            part.unlink(missing_ok=True)

    def _follow(self, replay: Replay, part: Path, at: chain.Seen) -> None:
        for line in read_lines(part):
            record = chain.next_record(at, line, self._site.coordinator)
            judge(replay, record, self._refuse, self._say)
            at = chain.Seen(record.sequence, record.hash)
            with self._lock:
                self._lines[record.sequence] = line
