"""How far the training of all sites is, and about how long it will take: one line at the foot of a terminal."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

EARLY = 0.02  # of the work: before that, nobody can tell how long the rest takes
WIDEST = 100
OVER = ("finished", "stopped", "shut-out")  # what an Alice says who trains no more


class Work:
    """How much of the sites' work is done, counted in epochs. Pure: it is told what happens, and when.

    A session that ends early counts as all its epochs: what it did not need will not be done.

    Args:
        sites: Who trains.
        agreed: How many sessions or rounds there are in all; None is without end, and then nothing is estimated.
        epochs: Of a session, at most.
        trained: How many sessions of each site are over already.
    """

    def __init__(self, sites: Sequence[str], agreed: int | None, epochs: int, trained: Mapping[str, int]) -> None:
        self._agreed, self._epochs = agreed, epochs
        self._before = {site: trained.get(site, 0) for site in sites}
        self._done = dict.fromkeys(sites, 0)
        self._over: set[str] = set()
        self._begun: float | None = None

    def heard(self, site: str, fields: Mapping[str, Any], now: float) -> None:
        """Take note of what a site's Alice said.

        Args:
            fields: Of her log line.
            now: In seconds, from any beginning.
        """
        event, session = fields.get("event"), fields.get("session")
        if event in OVER:
            self._over.add(site)
        if site not in self._done or not isinstance(session, int):
            return
        before = max(session - 1 - self._before[site], 0)  # sessions of this run
        if event == "session":
            self._begun = now if self._begun is None else self._begun
        elif event == "epoch":
            self._done[site] = max(self._done[site], before * self._epochs + min(int(fields["epoch"]), self._epochs))
        elif event == "session-over":
            self._done[site] = max(self._done[site], (before + 1) * self._epochs)

    @property
    def total(self) -> int:
        """All epochs of this run, at most."""
        if self._agreed is None:
            return 0
        return sum(self._of(site) for site in self._done)

    @property
    def done(self) -> int:
        """How many of them are done, or will not be done any more."""
        return sum(self._of(site) if site in self._over else done for site, done in self._done.items())

    @property
    def share(self) -> float:
        """What is done, in 0..1."""
        return min(self.done / self.total, 1.0) if self.total else 0.0

    def left(self, now: float) -> float | None:
        """How many seconds it will take if it goes on as it has so far; None while nobody can tell."""
        if self._begun is None or self.share < EARLY:
            return None
        return (now - self._begun) * (1 - self.share) / self.share

    def _of(self, site: str) -> int:
        assert self._agreed is not None
        return max((self._agreed - self._before[site]) * self._epochs, self._done[site])


def drawn(share: float, left: float | None, text: str, width: int) -> str:
    """The bar as a line of at most `width` ASCII letters: `[####------]  40 %  about 1:12 left  36 of 90 epochs`."""
    known = "" if left is None else f"  about {clock(left)} left"
    tail = f" {math.floor(share * 100):3d} %{known}  {text}"
    room = min(width, WIDEST) - len(tail) - 2
    if room < 10:
        return tail.strip()[:width]
    full = math.floor(share * room)
    return f"[{'#' * full}{'-' * (room - full)}]{tail}"


def clock(seconds: float) -> str:
    """`1:05`; of more than an hour, `2:01:05`."""
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class Bar:
    """Keeps a line at the foot of a terminal, below whatever else is printed; nothing at all elsewhere.

    Args:
        out: Where to.
    """

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._shown = ""
        self.wanted = out.isatty() and os.environ.get("TERM") != "dumb"

    def show(self, work: Work, now: float) -> None:
        """Draw the line, unless it stands there already."""
        line = self.line(work, now)
        if self.wanted and line != self._shown:
            self._write(line)

    def line(self, work: Work, now: float) -> str:
        """The line for a terminal of this width."""
        text = f"{work.done} of {work.total} epochs" if work.total else "training"
        left = work.left(now)
        if work.share == 1:
            left, text = None, "trained; the last verdicts are on their way"
        width = shutil.get_terminal_size().columns - 1  # a full line would wrap on some terminals
        return drawn(work.share, left, text, width)

    def clear(self) -> None:
        """Take the line away, so that something else can be printed."""
        if self._shown:
            self._write("")

    def _write(self, line: str) -> None:
        print(f"\r{line}\033[K", end="", file=self._out, flush=True)
        self._shown = line
