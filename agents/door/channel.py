"""One channel of a client: who it is, what it may say, and how the answer gets back through sshd's pipes."""

from __future__ import annotations

import contextlib
import os
import time
from select import POLLOUT, poll

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

LONGEST_WAIT_SECONDS = 300
QUIET_SECONDS = 120  # an upload that stands still this long is ended
BLOCK = 1 << 20
F_SETPIPE_SZ = 1031  # <linux/fcntl.h>

_PLAIN = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._=:, ")


class Stop(Exception):
    """Ends the command with one line for the client and an exit code."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class Revoked(Exception):
    """The enrolment that let this client in no longer stands."""


def refused(text: str) -> Stop:
    """Not to be tried again."""
    return Stop(3, f"refused: {text}")


def later(text: str) -> Stop:
    """To be tried again."""
    return Stop(4, f"later: {text}")


class Client:
    """The folders of the door, and the enrolment this channel was opened with.

    Args:
        state: The coordinator's state folder, of which the door sees `inbox`, `outbox` and `door`.
        site, role: From authorized_keys.
        key_ends: The last characters of the key that logged in, so that a name enrolled anew with another
            key does not revive the connections of the old one.
        max_bytes: The largest bundle.
        quota_bytes, quota_bundles: How much may wait in this site's inbox.
        max_channels: How many channels of this site are served at once.
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        flags = dict(zip(arguments[::2], arguments[1::2], strict=True))
        self.state = flags["--state"]
        self.site = flags["--site"]
        self.role = flags["--role"]
        self.key_ends = flags["--key-ends"]
        self.max_bytes = int(flags["--max-bytes"])
        self.quota_bytes = int(flags["--quota-bytes"])
        self.quota_bundles = int(flags["--quota-bundles"])
        self.max_channels = int(flags["--max-channels"])
        self.receiving = False  # the client sends a bundle's bytes and does not listen
        self._checked: tuple[int, int, int] | None = None

    def path(self, *parts: str) -> str:
        """A path in the state folder."""
        return os.path.join(self.state, *parts)

    def check_enrolled(self) -> None:
        """Check that this site still stands in sites.json with this role and key; one stat while the file is the same.

        Raises:
            Revoked: It does not.
        """
        path = self.path("outbox", "sites.json")
        try:
            found = os.stat(path)
            version = (found.st_mtime_ns, found.st_ino, found.st_size)
            if version == self._checked:
                return
            with open(path, "rb") as file:
                sites = file.read()
        except FileNotFoundError:
            raise later("the coordinator is not ready yet") from None
        # In the canonical JSON that the vault writes, these bytes can only be the end of an entry of the list.
        if f'{self.key_ends}","role":"{self.role}","site":"{self.site}"}}'.encode() not in sites:
            self._look_up(sites)
        self._checked = version

    def _look_up(self, sites: bytes) -> None:
        import json

        for entry in json.loads(sites)["sites"]:
            same = (entry["site"], entry["role"]) == (self.site, self.role)
            if same and entry["key"].split()[1].endswith(self.key_ends):
                return
        raise Revoked


def say(text: str) -> None:
    """One line on standard error."""
    with contextlib.suppress(OSError):
        os.write(2, f"charity: {printable(text)}\n".encode(errors="replace"))


def printable(text: str) -> str:
    """A text with everything escaped that a terminal would act on."""
    return "".join(letter if letter.isprintable() else f"\\u{ord(letter):04x}" for letter in text)


# What a client may say: verbs, options, numbers and identifiers


def split(line: str) -> list[str]:
    """The words of a command line, as a shell would split them."""
    if len(line) > 1000:
        raise Stop(2, "the command is too long")
    if _PLAIN.issuperset(line):
        return line.split()
    import shlex

    try:
        return shlex.split(line)
    except ValueError:
        raise Stop(2, "the command has an open quote") from None


def options(
    words: list[str],
    allowed: dict[str, Callable[[str, str], Any] | None],
    places: int,
    form: str,
    more: int = 0,
    repeated: frozenset[str] = frozenset(),
) -> tuple[dict[str, Any], list[str]]:
    """Split words into options and the rest.

    Args:
        words: What follows the verb.
        allowed: Option to the function that reads its value, or to None for an option without a value.
        places: How many other words there must be.
        form: The form of the verb, for the message.
        more: How many others there may be beyond these.
        repeated: Options that may come more than once; what was found is a list.
    """
    found: dict[str, Any] = {}
    rest = []
    coming = iter(words)
    for word in coming:
        if not word.startswith("-"):
            rest.append(word)
            continue
        name, given, value = word.partition("=")
        if name not in allowed or (name in found and name not in repeated):
            raise Stop(2, f"{word[:40]!r} does not fit, the form is: {form}")
        convert = allowed[name]
        if convert is None and not given:
            found[name] = True
        elif convert is None or not (value := value if given else next(coming, "")):
            raise Stop(2, f"{word[:40]!r} does not fit, the form is: {form}")
        elif name in repeated:
            found.setdefault(name, []).append(convert(value, name))
        else:
            found[name] = convert(value, name)
    if not places <= len(rest) <= places + more:
        raise Stop(2, f"the form is: {form}")
    return found, rest


def number(text: str, what: str) -> int:
    """A whole number from 0."""
    if not (text.isascii() and text.isdigit() and len(text) <= 15):
        raise Stop(2, f"{what} is {text[:40]!r}, expected a whole number")
    return int(text)


def seconds(text: str, what: str) -> float:
    """Seconds, with decimals if need be, cut to the longest wait."""
    whole, dot, part = text.partition(".")
    digits = whole + (part if dot else "")
    if not (text.isascii() and digits.isdigit() and whole and (part or not dot) and len(text) <= 15):
        raise Stop(2, f"{what} is {text[:40]!r}, expected seconds")
    return min(float(text), LONGEST_WAIT_SECONDS)


# Talking to the client through sshd's pipes


def answer(message: bytes) -> None:
    """Send all of a message to the client."""
    left = memoryview(message)
    while left:
        try:
            left = left[os.write(1, left) :]
        except BlockingIOError:
            wait_writable()


def wait_writable() -> None:
    """Return when the client can take more, where standard output does not block by itself."""
    watch = poll()
    watch.register(1, POLLOUT)
    watch.poll(QUIET_SECONDS * 1000)


def widen(pipe: int) -> None:
    """Let a pipe hold a megabyte, for fewer turns between sshd and this process."""
    import fcntl

    with contextlib.suppress(OSError):  # a socket, or more than this user may have
        fcntl.fcntl(pipe, F_SETPIPE_SZ, BLOCK)


# The connection and the channels of a site


def take_slot(client: Client) -> None:
    """Hold one of this site's channels until the process ends, so that no site can use up the door."""
    import fcntl

    folder = client.path("door", "channels", client.site)
    os.makedirs(folder, mode=0o700, exist_ok=True)
    for slot in range(client.max_channels):
        file = os.open(os.path.join(folder, str(slot)), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError:
            os.close(file)
    raise later(f"{client.max_channels} channels of {client.site} are open already")


def connection() -> tuple[int, int] | None:
    """The process that serves this client's connection and its start time, when it is an sshd."""
    parent = os.getppid()
    with contextlib.suppress(OSError), open(f"/proc/{parent}/stat", "rb") as file:
        name, _, fields = file.read().partition(b"(")[2].rpartition(b")")
        if name.startswith(b"sshd"):
            return parent, int(fields.split()[19])
    return None


def remember_connection(client: Client) -> None:
    """Note whose a connection is, so that the door can end it when the site is revoked while it is idle."""
    if (found := connection()) is None:
        return
    folder = client.path("door", "connections")
    with contextlib.suppress(FileExistsError):
        os.makedirs(folder, mode=0o700, exist_ok=True)
        with open(os.path.join(folder, f"{found[0]}-{found[1]}"), "x") as file:
            file.write(f"{client.site} {client.role} {client.key_ends}")


def end_connection() -> None:
    """Close this client's connection, a moment after it could hear why."""
    found = connection()
    if found is None or os.fork():
        return
    try:
        os.setsid()
        for file in (0, 1, 2):
            os.close(file)
        time.sleep(0.3)
        with open(f"/proc/{found[0]}/stat", "rb") as stat:
            if int(stat.read().rpartition(b")")[2].split()[19]) == found[1]:
                os.kill(found[0], 15)
    finally:
        os._exit(0)
