"""Where this site stands with its door: what Alice cannot ask, because she has no network.

    state/status.json, and the same in exchange/incoming/status.json
        {"newest": SEQUENCE|null, "confirmed": TIME|null, "refused_since": TIME|null, "reason": TEXT|null}

`newest` is the newest release that was brought in. `confirmed` is when the door last said that there is none newer.
`refused_since` is since when the door does not serve this site, with its words as the `reason` as soon as it said any;
both go when it serves it again. All of it is what Bob heard, nothing of it is signed, and a new Bob begins anew.
"""

from __future__ import annotations

import json
import threading
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from fedssh.bob.shared import SharedFolder
from fedssh.files import write_whole
from fedssh.forms import canonical
from fedssh.manifest import now

NAME = "status.json"


@dataclass(frozen=True)
class Status:
    """The contents of status.json."""

    newest: int | None = None
    confirmed: str | None = None
    refused_since: str | None = None
    reason: str | None = None


class Standing:
    """Keeps status.json, from any of Bob's threads; writes when something changed.

    Args:
        own: status.json of this site's folder.
        incoming: The folder that Alice reads.
    """

    def __init__(self, own: Path, incoming: Path) -> None:
        self._own = own
        self._incoming = incoming
        self._lock = threading.Lock()
        self._status = Status()
        self._in_words = False

    def begin(self, newest: int | None) -> None:
        """Bob starts: what a former one wrote is over."""
        with self._lock:
            self._write(Status(newest=newest))

    def brought(self, newest: int) -> None:
        """A release is there for Alice."""
        self._change(newest=newest, confirmed=None)

    def confirm(self, newest: int | None) -> None:
        """The door says that nothing is newer than this."""
        self._change(newest=newest, confirmed=now())

    def refuse(self, reason: str, in_words: bool) -> None:
        """The door does not serve this site; what it said once is worth more than that it says nothing any more."""
        if self._status.reason is None or in_words or not self._in_words:
            self._in_words = in_words
            self._change(refused_since=self._status.refused_since or now(), reason=reason)

    def let_in(self) -> None:
        """The door serves this site."""
        self._in_words = False
        self._change(refused_since=None, reason=None)

    def _change(self, **changes: Any) -> None:
        with self._lock:
            status = replace(self._status, **changes)
            if status != self._status:
                self._write(status)

    def _write(self, status: Status) -> None:
        text = canonical(asdict(status)) + b"\n"
        write_whole(self._own, text, mode=0o644)
        with SharedFolder(self._incoming) as folder:
            folder.write(NAME, text, 0o640)
        self._status = status


def read_status(path: Path) -> Status:
    """What this site's Bob heard last; nothing, where there was none that wrote it down."""
    try:
        return Status(**json.loads(path.read_bytes()))
    except (FileNotFoundError, ValueError, TypeError):
        return Status()
