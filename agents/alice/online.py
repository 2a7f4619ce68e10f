"""Training when new images come (Gupta and Raskar 2018, section 3.4): which are new, and how that is remembered.

    state/trained-GENESIS-SESSION.digests    16 bytes for each image that a session of this federation was trained on

An image is known by what the network is given of it and by its label, so it does not matter how files are called or
where in an array it stands, and a row of a table is known likewise. A file of a session is written before the session
is over and used once it is counted. Which images are held out to score on is told by the images, too: it stays so when
others come.
"""

from __future__ import annotations

import hashlib
import math
import re
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fedssh.alice import session
from fedssh.alice.incoming import Received
from fedssh.alice.memory import Memory
from fedssh.alice.trainee import Trainee
from fedssh.errors import SettingsError
from fedssh.files import write_whole
from fedssh.models.data.images import Images
from fedssh.models.data.pixel_file import PixelFile
from fedssh.rules.plan import Plan

WIDTH = 16
AT_ONCE = 256
LOOK_SECONDS = 2.0
_NAME = re.compile(r"trained-([0-9a-f]{16})-([0-9]{6})\.digests")
Stamp = tuple[tuple[str, int, int], ...]
Known = frozenset[bytes]


def stamp(data: Path) -> Stamp:
    """What tells that something has changed in a file or below a folder: names, sizes and times; none is opened."""
    found = []
    for path in data.rglob("*") if data.is_dir() else [data]:
        try:
            about = path.stat()
        except FileNotFoundError:  # moved away since it was listed
            continue
        found.append((str(path), about.st_size, about.st_mtime_ns))
    return tuple(sorted(found))


def digests(images: Images) -> list[bytes]:
    """What each image is known by."""
    pixels, found = images.images, []
    for start in range(0, len(images), AT_ONCE):
        at = np.arange(start, min(start + AT_ONCE, len(images)))
        some = pixels.read(at) if isinstance(pixels, PixelFile) else np.asarray(pixels[at], np.float32)
        for image, label in zip(some, images.labels[at], strict=True):
            digest = hashlib.blake2b(np.ascontiguousarray(image).tobytes(), digest_size=WIDTH)
            digest.update(np.ascontiguousarray(label).tobytes())
            found.append(digest.digest())
    return found


def held_out(images: Images, known_by: list[bytes], share: float, seed: int) -> np.ndarray:
    """Which images are scored on, and not trained on: bool [n]. Of one patient all or none; of all at least one.

    Args:
        known_by: What `digests` gave.
        share: How many, in 0..1; 0 is none at all.
        seed: Another one takes others.
    """
    if not share or not len(images):
        return np.zeros(len(images), bool)
    owners = known_by if images.patients is None else [repr(one).encode() for one in images.patients.tolist()]
    salt = seed.to_bytes(8, "little")
    places = np.array([_place(salt + owner) for owner in owners])
    return places <= max(share, float(places.min()))


def _place(owner: bytes) -> float:
    """A number in 0..1 that looks drawn."""
    return int.from_bytes(hashlib.blake2b(owner, digest_size=8).digest(), "little") / 2**64


def enough(images: int, batch_size: int, epochs: int, min_steps: int) -> bool:
    """Whether a session on so many images may leave this site, by its own smallest number of steps."""
    return images > 0 and epochs * math.ceil(images / batch_size) >= min_steps


def recall(state: Path, genesis: str, sessions: int) -> Known:
    """What the sessions that are counted were trained on; files of sessions that were not are forgotten.

    Args:
        sessions: How many are counted.
    """
    found: list[bytes] = []
    for path in sorted(state.glob("trained-*.digests")):
        match = _NAME.fullmatch(path.name)
        if match and match[1] == genesis[:16]:
            if int(match[2]) <= sessions:
                data = path.read_bytes()
                found += [data[at : at + WIDTH] for at in range(0, len(data), WIDTH)]
            else:
                path.unlink(missing_ok=True)
    return frozenset(found)


def remember(state: Path, genesis: str, session: int, known_by: list[bytes]) -> None:
    """Write down what a session is trained on.

    Raises:
        OSError: The disk is full or read-only.
    """
    write_whole(state / f"trained-{genesis[:16]}-{session:06}.digests", b"".join(known_by))


class New:
    """What is new at a site, and how long it lets others wait for it.

    Args:
        state: Alice's own folder.
        clock: Seconds.
    """

    def __init__(self, state: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._state = state
        self._clock = clock
        self._known: tuple[str, int, Known] = ("", -1, frozenset())
        self._next, self._lacks = 0.0, ""  # when to look again, and what was found last
        self._read = False  # whether the images could be read once
        self._turn: tuple[int | None, float] = (None, 0.0)  # which one is held, and since when
        self._passed: session.Passed | None = None

    def lacks(
        self, received: Received, memory: Memory, network: Trainee, plan: Plan, epochs: int | None, min_steps: int
    ) -> str | None:
        """Why no session begins now, in words; None where one does. Looks at files every few seconds.

        Args:
            plan: As this site trains it; `epochs` is instead of its own.
            min_steps: That a session has before its model may leave.

        Raises:
            SettingsError: The images cannot be read, and never could; or the federation has rounds.
        """
        if received.standing.schedule == "rounds":
            hint = "leave it out; it is for the schedules free and relay"
            raise SettingsError("--online: a round trains the sites it has selected, and waits for them", hint)
        if self._clock() < self._next:
            return self._lacks
        try:
            count = network.fresh(received.header.spec, self._recall(memory))
        except SettingsError as error:
            if not self._read:
                raise
            self._lacks = f"the images cannot be read as they are now: {error}"
        else:
            self._read = True
            if enough(count, plan.batch_size, epochs or plan.epochs, min_steps):
                return None
            few = f"{count} new images are too few for {min_steps} steps (--min-steps)"
            self._lacks = f"waiting for new images{f'; {few}' if count else ''}"
        self._next = self._clock() + LOOK_SECONDS
        return self._lacks

    def passes(self, received: Received, hold_seconds: float) -> bool:
        """Whether the turn at hand passes now, where it is this site's and there is nothing to train on."""
        standing, sequence = received.standing, received.release.sequence
        turns = standing.started.turns
        if standing.schedule != "relay" or turns is None or standing.sites == (received.site,):
            return False
        if self._turn[0] != turns:
            self._turn = turns, self._clock()
        held = self._clock() - self._turn[1]
        if session.quiet(standing, sequence, self._passed) and held < hold_seconds:
            return False
        self._passed = session.Passed(sequence, turns)
        return True

    def trained(self, memory: Memory, number: int, network: Trainee) -> None:
        """Write down what a session was trained on, before it is counted.

        Raises:
            OSError: The disk is full or read-only.
        """
        remember(self._state, str(memory.genesis), number, network.new)
        self._next = 0.0

    def _recall(self, memory: Memory) -> Known:
        genesis, sessions = str(memory.genesis), memory.trained.sessions
        if self._known[:2] != (genesis, sessions):
            self._known = genesis, sessions, recall(self._state, genesis, sessions)
        return self._known[2]
