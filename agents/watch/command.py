"""What `fedssh watch` does: whom to believe, where from, on a screen or as text."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import click

from fedssh.commands import print_json, printable
from fedssh.errors import SettingsError
from fedssh.watch import remembered, text, trust
from fedssh.watch.follow import Follower
from fedssh.watch.ssh import Place, Ssh, read_place
from fedssh.watch.terminal import drawable
from fedssh.watch.trust import Trust

PROGRESS_EVERY = 250  # records
_INSTALL = "pip install 'fedssh[look]'"


@dataclass(frozen=True)
class Watched:
    """What was asked for, see `fedssh watch --help`."""

    place: str
    port: int | None = None
    identities: Sequence[Path] = ()
    options: Sequence[str] = ()
    known_hosts: Path | None = None
    signers: Path | None = None
    invitation: Path | None = None
    once: bool = False
    as_json: bool = False


def watch(asked: Watched) -> int:
    """Show it; returns the exit code.

    Raises:
        AgentError: What ended it.
    """
    place = read_place(asked.place, asked.port)
    if asked.as_json and not asked.once:
        raise SettingsError("--json is for --once", "`ssh HOST history --follow --json` prints what comes")
    if not asked.once:
        check_terminal(place)
    source = Ssh(place, asked.identities, asked.options, asked.known_hosts)
    follower = Follower(source, _believed(asked), remembered.file_of(source.reached().known_as))
    with stopped_by_signals(follower):
        return print_once(follower, as_json=asked.as_json) if asked.once else show(follower, str(place))


def check_terminal(place: Place) -> None:
    """See that there is a terminal, and what draws on one.

    Raises:
        SettingsError: There is not.
    """
    if not drawable():
        raise SettingsError(
            "this is no terminal that could be drawn on",
            f"`{place.typed} history --follow` prints a line for each event; --once prints all of it, once",
        )
    if importlib.util.find_spec("textual") is None:
        raise SettingsError("textual is missing, which draws the screen", f"{_INSTALL}; or --once, which prints text")


def show(follower: Follower, name: str) -> int:
    """Show it on the terminal until somebody leaves, or something is wrong; returns the exit code.

    Raises:
        AgentError: What was wrong.
    """
    from fedssh.watch.screen import WatchScreen

    code = 0
    thread = threading.Thread(target=follower.run, daemon=True)
    try:
        app = WatchScreen(follower, name)
        thread.start()
        code = app.run() or 0
    finally:
        follower.stop()
        thread.join(5)
        follower.close()
    if follower.error:
        raise follower.error
    return code


def print_once(follower: Follower, *, as_json: bool) -> int:
    """Read what there is and print it.

    Raises:
        AgentError: What was wrong; an `UnreachableError` is not tried again.
    """
    try:
        with _progress() as progress:
            follower.catch_up(progress)
        value, standing = follower.value(), follower.standing
    finally:
        follower.stop()
        follower.close()
    if follower.error:
        raise follower.error
    assert value is not None, "an empty history is an error"
    if as_json:
        print_json({**value, "checked": standing.checked})
    else:
        width = os.get_terminal_size().columns if sys.stdout.isatty() else 80
        click.echo(text.whole(value, f"{standing.records:,} records {standing.checked}", time.time(), width), nl=False)
    return 0


def _believed(asked: Watched) -> Trust:
    if asked.signers and asked.invitation:
        raise SettingsError("--signers and --invitation both say whom to believe", "give one of them")
    if asked.signers:
        return trust.of_signers(asked.signers)
    return trust.of_invitation(asked.invitation) if asked.invitation else Trust()


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[int], None]]:
    """Says on a terminal how many records were checked."""
    shown = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"

    def told(records: int) -> None:
        if shown and records % PROGRESS_EVERY == 0:
            print(f"\r{printable(f'{records:,} records checked')}\033[K", end="", file=sys.stderr, flush=True)

    try:
        yield told
    finally:
        if shown:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


@contextlib.contextmanager
def stopped_by_signals(follower: Follower) -> Iterator[None]:
    """Let no signal leave ssh behind: SIGTERM and SIGHUP end the command as Ctrl-C does."""

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
