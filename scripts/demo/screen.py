"""What the agents do, as lines that a person can follow: time, who, what; on a terminal perhaps below a live screen."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

from scripts.demo.bar import Bar, Work

if TYPE_CHECKING:
    from scripts.demo.live import Live
    from scripts.demo.processes import Event

# What is in the logs but says nothing new on the screen: every checkpoint is told once per step, by whoever does it.
HIDDEN = {
    "alice": {"start", "device", "published", "release", "last-round"},
    "bob": {"started", "sealed", "verdict", "release", "round", "stopped"},
    "charity": {"start", "started", "received", "report", "stop", "stopped"},
    "door": {"start", "host-key", "sites", "login", "stopped"},
}
# One colour per site, in order; red is kept for what went wrong, green for what was accepted.
COLOURS = ("36", "33", "35", "34", "96", "93", "95", "94")
COORDINATOR = "coordinator"
RED, GREEN, FAINT, BOLD = "31", "32", "2", "1"


class Screen:
    """Prints events as they come, coloured where a person looks at a terminal; there, a bar stands below them.

    As a context manager it takes the bar away at its end, however that comes.

    Args:
        sites: All their names, for the width and the colour of each.
        out: Where to.
        live: Takes the terminal while the sites train; None leaves it to lines.
        interrupt: Is called when somebody asks the live screen to stop it all.
    """

    def __init__(
        self,
        sites: Sequence[str],
        out: TextIO = sys.stdout,
        live: Live | None = None,
        interrupt: Callable[[], None] = lambda: None,
    ) -> None:
        self._out = out
        self._live, self._interrupt = live, interrupt
        self._start = time.monotonic()
        self._colours = {site: COLOURS[index % len(COLOURS)] for index, site in enumerate(sites)}
        self._width = max(map(len, (COORDINATOR, *sites)))
        self._coloured = out.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
        self._bar = Bar(out)
        self._work: Work | None = None

    def __enter__(self) -> Screen:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.end()

    def begin(self, work: Work) -> None:
        """Keep a bar of this work at the foot of the terminal from now on."""
        self._work = work
        if self._live:
            self._live.begin()
        self.tick()

    def tick(self) -> None:
        """Let the bar say how long it will still take."""
        if self._live and self._live.left(self._interrupt):
            self.say("what follows are lines; Ctrl-C stops it")
        if self._work and self._live and self._live.there:
            self._live.bar(self._bar.line(self._work, time.monotonic()))
        elif self._work:
            self._bar.show(self._work, time.monotonic())

    def end(self) -> None:
        """Take the bar away, and a live screen."""
        self._work = None
        if self._live:
            self._live.end()
        self._bar.clear()

    def say(self, text: str) -> None:
        """A line of our own."""
        self._line("", "", text, BOLD)

    def show(self, event: Event) -> None:
        """A line of an agent's."""
        agent, text = event.agent, str(event.fields["text"])
        if self._work and agent.name == "alice":
            self._work.heard(agent.site or "", event.fields, time.monotonic())
        if text.strip() and event.fields.get("event") not in HIDDEN.get(agent.name, ()):
            who = f"{agent.site or COORDINATOR:<{self._width}}  {agent.name:<7}"
            self._line(who, self._colours.get(agent.site or "", ""), text, mood(event.fields))

    def _line(self, who: str, colour: str, text: str, text_colour: str) -> None:
        seconds = int(time.monotonic() - self._start)
        clock = f"{seconds // 60:2d}:{seconds % 60:02d}"
        if self._live and self._live.there:
            self._live.say(f"{clock}  {who}  {text}")
            return
        self._bar.clear()
        print(
            self._paint(clock, FAINT),
            self._paint(f"{who:<{self._width + 9}}", colour),
            self._paint(text, text_colour),
            sep="  ",
            file=self._out,
            flush=True,
        )
        self.tick()

    def _paint(self, text: str, code: str) -> str:
        return f"\033[{code}m{text}\033[0m" if code and self._coloured else text


def mood(fields: dict[str, object]) -> str:
    """The colour of good and bad news, faint for small print, none for the rest."""
    event = str(fields.get("event"))
    if event in ("accepted", "genesis", "finished", "round-accepted"):
        return GREEN
    if event in ("error", "invalid", "trouble"):
        return RED
    return FAINT if event in ("refused", "shipped", "counted", "round-refused") else ""
