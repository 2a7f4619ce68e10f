"""`--follow`: the lines of the history as they are written, until the reader leaves.

The published history only ever grows, so what was read stays, and looking is one `stat`. A line without its newline is
still being written: it is read again, from its beginning, once the file has grown. Whoever looks after the vault may
cut off such a line and write it anew; a whole line that is gone again means another history.
"""

from __future__ import annotations

import os
import time
from select import poll

from fedssh.door.channel import BLOCK, Client, Stop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

SOON_SECONDS = 2.0  # after something happened, more is likely to
SOON, LATER = 0.1, 0.3  # seconds between two looks


def appended(client: Client, file: int, place: int) -> Iterator[list[bytes]]:
    """The lines behind a place of the history, some at a time, for as long as the client listens.

    Args:
        file: ledger.jsonl, open for reading; its number.
        place: Where a line begins, or will.

    Raises:
        BrokenPipeError: The client has gone.
        Revoked: The site lost its enrolment.
        Stop: What was printed is not in the history any more.
    """
    gone, path = poll(), client.path("outbox", "ledger.jsonl")
    gone.register(1, 0)  # no events asked for: what is left is hang-up and error, which a closed channel causes
    begun, last, heard = os.fstat(file), (0, 0), time.monotonic()
    while True:
        seen = _stat(path)
        if seen is None or (seen.st_dev, seen.st_ino) != (begun.st_dev, begun.st_ino) or seen.st_size < place:
            raise Stop(3, "the history is not the one that this began with any more; ask for it anew")
        if (seen.st_size, seen.st_mtime_ns) != last:
            # Not through a buffer: what stood behind the last whole line may stand there no more.
            block = os.pread(file, BLOCK, place)
            end = block.rfind(b"\n") + 1
            if end:
                place, heard = place + end, time.monotonic()
                yield [line + b"\n" for line in block[: end - 1].split(b"\n")]
                client.check_enrolled()
                continue
            last = seen.st_size, seen.st_mtime_ns
        pause = SOON if time.monotonic() - heard < SOON_SECONDS else LATER
        if gone.poll(int(1000 * pause)):
            raise BrokenPipeError
        client.check_enrolled()


def _stat(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except FileNotFoundError:
        return None
