"""What left this site: an append-only file with one JSON line per submission or report.

    {"time","id","kind","session","epoch","size","sha256","recipient","address","attempts",
     "verdict","reason","metrics","sequence","record"}

`sha256` and `size` are the bundle's, `recipient` is the fingerprint of the key it was sealed for, `record` the
hash of the ledger record that is the verdict. A checkpoint that a newer one made pointless has the verdict
`superseded`; with 0 attempts nothing of it has left.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fedssh.errors import AgentError
from fedssh.files import fsync_folder
from fedssh.forms import canonical


class Receipts:
    """The receipts file of a site; one process appends, from any of its threads; any may read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()

    def append(self, receipt: dict[str, Any]) -> None:
        """Add one line, durably. A line that a power cut left unfinished is removed first.

        Raises:
            OSError: The disk is full or read-only; nothing but a part of a line was written.
        """
        fresh = not self.path.exists()
        with self._lock, open(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+b") as file:
            file.seek(_end_of_last_line(file.fileno()))
            file.truncate()
            file.write(canonical(receipt) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        if fresh:
            fsync_folder(self.path.parent)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        if not self.path.exists():
            return
        with open(self.path, "rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    return
                try:
                    yield json.loads(line)
                except ValueError:
                    raise AgentError(f"line {number} of {self.path} is not JSON") from None

    def ids(self, wanted: set[str]) -> set[str]:
        """Which of these have a receipt. Streams the file, so memory does not grow with it."""
        return {receipt["id"] for receipt in self if receipt["id"] in wanted} if wanted else set()


def _end_of_last_line(handle: int) -> int:
    """Where the last whole line ends. Looks at the file's last bytes only."""
    end = os.fstat(handle).st_size
    while end:
        start = max(0, end - 4096)
        found = os.pread(handle, end - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0
