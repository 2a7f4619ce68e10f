"""`channel`: bytes between a site and the judge, both ways, as they are. What they mean is sealed from both ends.

    Bob   <-- standard input and output -->   this   <-- outbox/channel.sock -->   the judge

Before all others one frame is the door's own: which site it is, by the key that logged in. It ends when either side
ends, when the site is revoked, and after 120 seconds without a byte.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from select import POLLERR, POLLHUP, POLLIN, POLLNVAL, POLLOUT, poll

from fedssh.door.channel import QUIET_SECONDS, Client, later, options, widen

NAME = "channel.sock"
BUFFER = 1 << 18
TICK_SECONDS = 0.1
_AT_AN_END = POLLERR | POLLHUP | POLLNVAL

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def relay(client: Client, words: list[str]) -> int:
    """Relay until something ends it."""
    options(words, {}, 0, "channel")
    with connect(client.path("outbox")) as judge:
        judge.send(preface(client.site))  # the first bytes on a socket that waits for none
        carry(client, judge)
    return 0


def preface(site: str) -> bytes:
    """The frame SITE, see `channel.frames`: who is on the connection. A site's name needs no escape in JSON."""
    body = f'{{"site":"{site}"}}'.encode()
    return b"fsch\1\4\0\0" + bytes(12) + len(body).to_bytes(4, "big") + body


def connect(outbox: str) -> socket.socket:
    """A connection to the judge, while a turn is on.

    Raises:
        Stop: Nobody listens, or lets nobody in.
    """
    judge = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    folder = os.open(outbox, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        judge.setblocking(False)
        handles = "/proc/self/fd"  # the path of a socket ends at 108 bytes
        judge.connect(f"{handles}/{folder}/{NAME}" if os.path.isdir(handles) else os.path.join(outbox, NAME))
    except BlockingIOError:  # a local socket answers at once: as many wait as may
        judge.close()
        raise later("the judge lets nobody in just now") from None
    except OSError:
        judge.close()
        raise later("no turn is on") from None
    finally:
        os.close(folder)
    return judge


class Stream:
    """One direction: what was read and is not written yet.

    Attributes:
        left: Read and not written.
        ended: Whether nothing more is read.
    """

    def __init__(self, read: Callable[[memoryview], int], write: Callable[[memoryview], int]) -> None:
        self._read, self._write = read, write
        self._buffer = memoryview(bytearray(BUFFER))
        self.left = self._buffer[:0]
        self.ended = False

    def move(self) -> bool:
        """Read once and write once, as far as that needs no waiting; whether anything was moved."""
        moved = False
        with contextlib.suppress(BlockingIOError):
            if not (self.left or self.ended):
                self.left = self._buffer[: self._read(self._buffer)]
                self.ended = not self.left
                moved = True
            if self.left:
                self.left = self.left[self._write(self.left) :]
                moved = True
        return moved

    @property
    def done(self) -> bool:
        """Whether all has been written that will ever be."""
        return self.ended and not self.left


def carry(client: Client, judge: socket.socket) -> None:
    """Move bytes both ways until an end of one side has reached the other.

    Raises:
        Stop: Nothing moved for long.
        Revoked: The site lost its enrolment meanwhile.
        BrokenPipeError: The client has gone.
    """
    for pipe in (0, 1):
        os.set_blocking(pipe, False)
        widen(pipe)
    deaf = False  # the judge takes nothing more; what she said before is still passed on

    def to_judge(view: memoryview) -> int:
        nonlocal deaf
        try:
            return judge.send(view)
        except (BrokenPipeError, ConnectionResetError):
            deaf = True
            return len(view)

    def from_judge(view: memoryview) -> int:
        try:
            return judge.recv_into(view)
        except ConnectionResetError:  # she left while something was on its way to her
            return 0

    there = Stream(lambda view: os.readv(0, [view]), to_judge)
    back = Stream(from_judge, lambda view: os.write(1, view))
    heard = checked = time.monotonic()
    while True:
        moved = [not deaf and there.move(), back.move()]
        if back.done or (there.done and not deaf):
            return
        now = time.monotonic()
        if any(moved):
            heard = now
        elif now - heard > QUIET_SECONDS:
            raise later(f"nothing came for {QUIET_SECONDS} seconds")
        if now - checked >= TICK_SECONDS:
            checked = now
            client.check_enrolled()
        wait(judge, there, back, deaf)


def wait(judge: socket.socket, there: Stream, back: Stream, deaf: bool) -> None:
    """Return when something can be moved, or after a tick.

    Raises:
        BrokenPipeError: The client has gone.
    """
    watch = poll()
    if not (there.left or deaf):
        watch.register(0, POLLIN)
    side = (0 if back.left else POLLIN) | (POLLOUT if there.left else 0)
    if side:
        watch.register(judge, side)
    watch.register(1, POLLOUT if back.left else 0)
    for file, what in watch.poll(int(TICK_SECONDS * 1000)):
        if file == 1 and what & _AT_AN_END:
            raise BrokenPipeError
