"""`verdict`, `release`, `layers`: what the vault has put into the outbox, as soon as it is there."""

from __future__ import annotations

import os
import time
from select import poll

from fedssh.door.channel import BLOCK, Client, Stop, answer, later, number, options, seconds, wait_writable, widen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    Found = TypeVar("Found")

_HEX = frozenset("0123456789abcdef")


def identifier(text: str) -> str:
    """A UUID in lower case, the only form in which it can name a verdict."""
    groups = text.split("-")
    if [len(group) for group in groups] != [8, 4, 4, 4, 12] or not _HEX.issuperset("".join(groups)):
        raise Stop(2, f"{text[:40]!r} is not the identifier of a submission")
    return text


def verdict(client: Client, words: list[str]) -> int:
    """Print the signed ledger line that judges one of this site's submissions."""
    found, rest = options(words, {"--wait": seconds}, 1, "verdict [--wait SECONDS] ID")
    path = client.path("outbox", "verdicts", client.site, identifier(rest[0]) + ".json")

    def look() -> bytes | None:
        try:
            with open(path, "rb") as file:
                return file.read()
        except FileNotFoundError:
            return None

    line = wait(client, look, found.get("--wait", 0), f"no verdict on {rest[0]} yet").rstrip(b"\n")
    if not (line.isascii() and line.decode().isprintable()):  # the same JSON, without what a terminal would act on
        import json

        line = json.dumps(json.loads(line), sort_keys=True, separators=(",", ":")).replace("\x7f", "\\u007f").encode()
    answer(line + b"\n")
    return 0


def release(client: Client, words: list[str]) -> int:
    """Stream the newest release."""
    form = "release [--after SEQ] [--wait SECONDS]"
    found, _ = options(words, {"--after": number, "--wait": seconds}, 0, form)
    after = found.get("--after", -1)
    folder = client.path("outbox", "releases")

    def look() -> int | None:
        try:
            names = [name[:-7] for name in os.listdir(folder) if name.endswith(".bundle")]
            newest = max((int(name) for name in names if name.isdigit()), default=-1)
            if newest <= after:
                return None
            return os.open(os.path.join(folder, f"{newest:08d}.bundle"), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:  # not there yet, or replaced between the two steps
            return None

    newer = f" newer than {after}" if "--after" in found else ""
    send(client, wait(client, look, found.get("--wait", 0), f"no release{newer} yet"))
    return 0


def layers(client: Client, words: list[str]) -> int:
    """Stream layers of a site that are sealed for sites alone."""
    _, rest = options(words, {}, 1, "layers ID")
    path = client.path("outbox", "layers", identifier(rest[0]) + ".bundle")
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise Stop(4, f"no layers {rest[0]} here") from None
    send(client, file)
    return 0


def wait(client: Client, look: Callable[[], Found | None], wait_seconds: float, otherwise: str) -> Found:
    """Look until there is something, often at first: a verdict takes a tenth of a second, a release minutes.

    Looking is one or two system calls: a hundred looks per second take about one per cent of a core.

    Raises:
        Stop: Nothing came in time.
        BrokenPipeError: The client has gone.
        Revoked: The site lost its enrolment while it waited.
    """
    start = time.monotonic()
    gone = poll()
    gone.register(1, 0)  # no events asked for: what is left is hang-up and error, which a closed channel causes
    while (found := look()) is None:
        waited = time.monotonic() - start
        if waited >= wait_seconds:
            raise Stop(4, otherwise)
        pause = 0.01 if waited < 2 else 0.05 if waited < 20 else 0.2
        if gone.poll(max(1, int(1000 * min(pause, wait_seconds - waited)))):
            raise BrokenPipeError
        client.check_enrolled()
    return found


def send(client: Client, file: int) -> None:
    """Copy a file to the client; where the system can, without touching its bytes."""
    widen(1)
    size, done = os.fstat(file).st_size, 0
    while done < size:
        client.check_enrolled()
        try:
            count = os.sendfile(1, file, done, min(BLOCK, size - done))
        except BlockingIOError:
            wait_writable()
            continue
        except (BrokenPipeError, ConnectionResetError):
            raise
        except OSError:  # standard output is not something this system can send to
            block = os.pread(file, BLOCK, done)
            answer(block)
            count = len(block)
        if count == 0:
            raise later("the release ended early")
        done += count
