r"""`scp -t`: one bundle from a client into its site's inbox, in the protocol of rcp that `scp -O` speaks.

    client                       door
                                 \0             ready
    T1700000000 0 1700000000 0\n                (scp -p only; answered by \0)
    C0644 SIZE NAME\n
                                 \0             SIZE fits the limit, the quota and the disk
    SIZE bytes, \0
                                 \0             the bundle is in the inbox, whole and durable

Instead of \0 the door may answer \1, one line and a newline; the line starts with `refused:` (do not send it
again) or `later:`. NAME is never used. While the client sends the bytes it does not listen, so the line then
goes to standard error.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from select import POLLIN, poll

from fedssh.door.channel import BLOCK, QUIET_SECONDS, Client, Stop, answer, later, refused, widen


def receive(client: Client, words: list[str]) -> int:
    """Take one bundle. It is in the inbox, whole and durable, before the client hears so."""
    check_target(words)
    inbox = client.path("inbox", client.site)
    os.makedirs(inbox, mode=0o700, exist_ok=True)
    sweep(inbox)
    answer(b"\0")
    size = announced(client)
    part = reserve(client, inbox, size)
    try:
        answer(b"\0")
        client.receiving = True
        fill(client, part, size)
        client.receiving = False
        if take(1) != b"\0":
            raise later("the client gave up at the end of the bundle")
        publish(inbox, part)
    finally:
        part.drop()
    answer(b"\0")
    if take(1):
        raise refused("one bundle per scp, the first is taken")
    return 0


def check_target(words: list[str]) -> None:
    """Accept what `scp -O FILE host:` asks for, `scp [-v] [-p] -t .`, and no other target."""
    flags, rest = "", list(words)
    while rest and rest[0].startswith("-"):
        word = rest.pop(0)
        if word == "--":
            break
        flags += word[1:]
    if "t" not in flags or not set(flags) <= set("tvpq"):
        raise refused("scp takes one file (scp -O FILE HOST:), no folders, and hands out none")
    if rest not in ([], [""], ["."], ["./"]):
        raise refused(f"scp takes no target, not even {' '.join(rest)[:40]!r}: scp -O FILE HOST:")


def announced(client: Client) -> int:
    """The size in the client's `C0644 SIZE NAME` line, checked before any byte of the file is read."""
    line = control_line()
    if line.startswith(b"T"):  # times, of `scp -p`
        answer(b"\0")
        line = control_line()
    if not line or line[0] in b"\1\2":
        raise later("the client sent nothing")
    if not line.startswith(b"C"):
        raise refused("only one plain file can be sent")
    mode, _, rest = line[1:].partition(b" ")
    size, _, name = rest.partition(b" ")
    if not (mode.isdigit() and size.isdigit() and name):
        raise refused("the announcement of the file is malformed")
    if len(size) > 15 or int(size) > client.max_bytes:
        raise refused(f"the bundle has {size[:20].decode()} bytes, at most {client.max_bytes} are taken")
    if int(size) == 0:
        raise refused("the bundle is empty")
    return int(size)


def control_line() -> bytes:
    """One line of the protocol without its newline; empty when the client has gone."""
    line = b""
    while len(line) < 1000:
        byte = take(1)
        if byte in (b"", b"\n"):
            return line if byte else b""
        line += byte
    raise refused("the announcement of the file is malformed")


class Part:
    """A bundle on its way: hidden, and locked for as long as its writer lives; that tells it from a leftover."""

    def __init__(self, inbox: str) -> None:
        self.name = f"{time.time_ns():020d}-{os.urandom(4).hex()}.bundle"
        self.path = os.path.join(inbox, f".{self.name}.{os.urandom(4).hex()}.part")
        self.file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(self.file, fcntl.LOCK_EX)

    def drop(self) -> None:
        """Remove it, unless it was published."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)


def sweep(inbox: str) -> None:
    """Remove what killed uploads left: parts that nobody holds a lock on."""
    for name in os.listdir(inbox):
        if not name.endswith(".part"):
            continue
        path = os.path.join(inbox, name)
        with contextlib.suppress(OSError), open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if abs(time.time() - os.fstat(file.fileno()).st_mtime) > 5:  # a part is locked just after it is made
                os.unlink(path)


def reserve(client: Client, inbox: str, size: int) -> Part:
    """A part of the full size, if the site's quota and the disk have client for it."""
    try:
        part = Part(inbox)
    except OSError as error:
        raise cannot_store(error) from None
    try:
        # From here on it counts in full, so that uploads at the same time cannot pass the quota together.
        os.ftruncate(part.file, size)
        count, total = waiting(inbox)
        if count > client.quota_bundles or total > client.quota_bytes:
            raise later(f"{count - 1} bundles of {client.site} wait here already, {total - size} bytes")
        disk = os.statvfs(inbox)
        if disk.f_bavail * disk.f_frsize < size + BLOCK:
            raise later("the coordinator's disk is full")
    except OSError as error:
        part.drop()
        raise cannot_store(error) from None
    except Stop:
        part.drop()
        raise
    return part


def waiting(inbox: str) -> tuple[int, int]:
    """How many bundles, whole and on their way, are in an inbox, and their bytes."""
    sizes = []
    for name in os.listdir(inbox):
        with contextlib.suppress(FileNotFoundError):  # the vault has just taken it
            sizes.append(os.stat(os.path.join(inbox, name)).st_size)
    return len(sizes), sum(sizes)


def fill(client: Client, part: Part, size: int) -> None:
    """Copy exactly `size` bytes from the client into a part."""
    widen(0)
    block = memoryview(bytearray(min(size, BLOCK)))
    done = 0
    while done < size:
        wait_for_client()
        client.check_enrolled()
        count = os.readv(0, [block[: size - done]])
        if count == 0:
            raise later(f"the connection was cut after {done} of {size} bytes")
        try:
            written = 0
            while written < count:
                written += os.write(part.file, block[written:count])
        except OSError as error:
            raise cannot_store(error) from None
        done += count


def publish(inbox: str, part: Part) -> None:
    """Give a whole part its name, durably."""
    try:
        os.fsync(part.file)
        os.rename(part.path, os.path.join(inbox, part.name))
        folder = os.open(inbox, os.O_RDONLY | os.O_DIRECTORY)
        os.fsync(folder)
        os.close(folder)
    except OSError as error:
        raise cannot_store(error) from None


def cannot_store(error: OSError) -> Stop:
    """The disk is full, read-only or failing: the site keeps its bundle and tries again."""
    return later(f"the coordinator cannot store it: {error.strerror}")


def take(size: int) -> bytes:
    """Up to `size` bytes from the client; empty when it has gone."""
    wait_for_client()
    return os.read(0, size)


def wait_for_client() -> None:
    """Return as soon as the client has sent something or gone."""
    watch = poll()
    watch.register(0, POLLIN)
    if not watch.poll(QUIET_SECONDS * 1000):
        raise later(f"nothing came for {QUIET_SECONDS} seconds")
