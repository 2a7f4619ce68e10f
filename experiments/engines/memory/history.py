"""The history of a run without processes: the ledger's records in their hash chain, without signatures.

The same fold as the coordinator's, `fedssh.rules.federation.advance`, says after every record where the federation
stands. Times are simulated: an image that a site trains on takes a millisecond, and the run begins in 1970. So a run
that is done again writes the same bytes.
"""

from __future__ import annotations

import datetime
import hashlib
import json
from pathlib import Path
from types import TracebackType
from typing import Any

from fedssh.errors import LedgerError
from fedssh.forms import canonical
from fedssh.rules.events import START, Record
from fedssh.rules.federation import Federation, advance

SECONDS_PER_IMAGE = 0.001
_BEGIN = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


def seconds(clock: float) -> float:
    """Simulated seconds since 1970 of a clock that counts images."""
    return clock * SECONDS_PER_IMAGE


def shown_time(clock: float) -> str:
    """A clock that counts images, as a record tells the time."""
    moment = _BEGIN + datetime.timedelta(seconds=seconds(clock))
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class History:
    """A history that is written to a file of the ledger's export format; in memory is only where it leads.

    Args:
        path: The file to write; `read_history` reads it.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._previous = START
        self._state: Federation | None = None
        self.records = 0

    def __enter__(self) -> History:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()

    @property
    def state(self) -> Federation:
        """Where the federation stands after the newest record.

        Raises:
            LedgerError: There is no record yet.
        """
        if self._state is None:
            raise LedgerError("the history is empty")
        return self._state

    def append(self, event: str, clock: float, **fields: Any) -> Record:
        """Add a record to the end.

        Args:
            clock: When it happens, in images since the run began.
        """
        sequence = self.records + 1
        head = {"sequence": sequence, "previous": self._previous, "event": event, "time": shown_time(clock)}
        text = canonical({**fields, **head})
        record = Record(sequence, hashlib.sha256(text).hexdigest(), text, signature="")
        self._state = advance(self._state, record)
        self._previous, self.records = record.hash, sequence
        self._file.write(record.line())
        return record


def read_history(path: Path) -> list[Record]:
    """The records of a run, of either engine."""
    with open(path, "rb") as lines:  # what is in memory only is not signed, so its lines have not the form of an export
        known = [json.loads(line) for line in lines]
    return [Record(line["sequence"], line["hash"], line["record"].encode(), line["signature"]) for line in known]
