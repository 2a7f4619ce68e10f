"""What is on a machine now, as on_host/look.sh says it. Nothing that it says is believed to be well-formed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from fedssh.errors import UntrustedError
from fedssh.forms import printable

_NUMBERS = ("time", "memory", "disk", "layers", "release")
_FLAGS = ("systemd", "gpu", "begun", "joined")
_TEXTS = ("arch", "engine", "compose", "prepared", "rendered", "data", "key", "invitation", "upgrade", "busy")


@dataclass(frozen=True)
class Room:
    """A container of a release."""

    status: str
    exit_code: int
    restarts: int
    oom: bool
    started: str
    image: str


@dataclass(frozen=True)
class Facts:
    """A machine. Sizes in bytes; a text is empty where there is nothing.

    Attributes:
        disk: Free where the state lies.
        layers: Free where the engine keeps images; 0 without an engine.
        prepared: The mark of the preparation that was done.
        release: The number of the current one; 0 without.
        rendered: SHA-256 of its compose.yaml.
        begun: Coordinator: there is a federation.
        data: The mark of the data that was copied there.
        key: Site: the public key.
        invitation: SHA-256 of the invitation that was joined by.
        upgrade: How far an upgrade is that was interrupted.
        busy: Who holds the lock.
    """

    arch: str = ""
    time: int = 0
    memory: int = 0
    disk: int = 0
    layers: int = 0
    systemd: bool = False
    engine: str = ""
    compose: str = ""
    gpu: bool = False
    prepared: str = ""
    release: int = 0
    releases: tuple[int, ...] = ()
    rendered: str = ""
    begun: bool = False
    data: str = ""
    key: str = ""
    joined: bool = False
    invitation: str = ""
    upgrade: str = ""
    busy: str = ""
    images: frozenset[str] = frozenset()
    rooms: Mapping[str, Room] = field(default_factory=dict)

    @property
    def usable(self) -> bool:
        """An engine with compose v2 answers."""
        return self.engine not in ("", "down") and self.compose not in ("", "none")

    def well(self, name: str) -> bool:
        """Whether a room runs, or Alice has finished her sessions."""
        room = self.rooms.get(name)
        if room is None:
            return False
        return room.status == "running" or (name == "alice" and room.status == "exited" and room.exit_code == 0)


def read(text: str) -> Facts:
    """Read what look.sh printed.

    Raises:
        UntrustedError: It is not what look.sh prints.
    """
    found: dict[str, str] = {}
    images, rooms = set(), {}
    try:
        for line in text.splitlines():
            name, _, value = printable(line).partition(" ")
            if name == "image":
                images.add(value)
            elif name == "container":
                service, status, code, restarts, oom, started, image = value.split()
                rooms[service] = Room(status, _number(code), _number(restarts), oom == "true", started, image)
            else:
                found[name] = value
        values: dict[str, Any] = {name: _number(found.get(name) or "0") for name in _NUMBERS}
        values |= {name: name in found for name in _FLAGS}
        values |= {name: found.get(name, "").strip() for name in _TEXTS}
        releases = tuple(_number(one) for one in found.get("releases", "").split())
        return Facts(**values, releases=releases, images=frozenset(images), rooms=rooms)
    except ValueError as error:
        raise UntrustedError(f"the machine describes itself in words that are none: {error}") from None


@contextmanager
def answer_of(name: str) -> Iterator[None]:
    """Around what reads the JSON that a room of a machine printed.

    Raises:
        UntrustedError: It was not what that room prints.
    """
    try:
        yield
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise UntrustedError(printable(f"{name}: its rooms answer no JSON of theirs: {error}")) from None


def _number(text: str) -> int:
    if not re.fullmatch("[0-9]{1,18}", text):
        raise ValueError(f"{text[:60]!r} is no number")
    return int(text)
