"""The command `charity history`: what the door's verb of that name prints, from the ledger itself."""

from __future__ import annotations

import select
import sys
import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import click

from fedssh.charity.cli_read import (
    Recorded,
    StateSettings,
    example,
    folders_of,
    json_option,
    ledger_of,
    totals_of,
)
from fedssh.commands import settings_options, stop_event

if TYPE_CHECKING:
    from fedssh.rules.events import Record

LOOK_SECONDS = 0.3

Pieces = Iterable[bytes]


@click.command(
    epilog=example(
        "charity history --last 20 --follow",
        "charity history --since 2h --site alice-1,alice-2 --event refused --csv > refused.csv",
        "charity history --export | tail -n 1 | jq -r .record | jq .",
    )
)
@click.option("--last", type=click.IntRange(min=0), metavar="N", help="Only the newest N of them.")
@click.option("--since", metavar="WHEN", help="From then on: 2026-11-26, 2026-11-26T10:00 (UTC), or 30m, 2h, 3d ago.")
@click.option("--site", multiple=True, metavar="NAME", help="Only of this site; may be repeated, or NAME,NAME.")
@click.option("--event", multiple=True, metavar="NAME", help="Only such events; may be repeated, or NAME,NAME.")
@click.option("--after", type=click.IntRange(0, 10**15), metavar="SEQ", help="Only records above SEQ.")
@click.option("--follow", is_flag=True, help="Then each as it happens, until stopped; with --json an object a line.")
@click.option("--csv", "as_csv", is_flag=True, help="For a spreadsheet.")
@click.option("--export", is_flag=True, help="The signed records themselves, one JSON line each.")
@json_option
@settings_options(StateSettings, "charity")
def history(settings: StateSettings, follow: bool, **options: Any) -> None:
    """Show every event: who sent what, what it scored, the verdict and why."""
    from fedssh.history import picked

    said = {"--json": "as_json", "--csv": "as_csv", "--export": "export"} | {
        f"--{name}": name for name in ("last", "since", "site", "event", "after")
    }
    given = {
        flag: options[name]
        for flag, name in said.items()
        if options[name] is not None and options[name] is not False and options[name] != ()
    }
    given |= {"--follow": True} if follow else {}
    try:
        picked.check(given)
        recorded = Recorded(ledger_of(folders_of(settings.state)))
        shown = _shown(settings, recorded, given)
    except picked.Misasked as error:
        raise click.UsageError(str(error)) from None
    stop = stop_event() if follow else threading.Event()
    end = recorded.count
    _write(shown[0](end), stop)
    if follow:
        _follow(recorded, max(end, given.get("--after", 0)), shown[1], stop)


# What there is up to a record, and what becomes of one that comes.
Shown = tuple[Callable[[int], Pieces], Callable[["Record"], Pieces]]


def _shown(settings: StateSettings, recorded: Recorded, given: dict[str, Any]) -> Shown:
    from fedssh.charity.vault import row
    from fedssh.history import picked
    from fedssh.history.listing import Listing
    from fedssh.history.published import export

    one, after = picked.chosen(recorded, given, lambda: totals_of(settings.state)["nodes"], time.time())
    if "--export" in given:
        return lambda end: export(recorded.lines(after, end)), lambda record: export([record.line()])
    listing = Listing(recorded, given)

    def more(record: Record) -> Pieces:
        return [listing.more(found).encode() for found in [row(record)] if one(found)]

    return lambda end: (text.encode() for text in listing.begin(lambda: filter(one, recorded.rows(after, end)))), more


def _follow(recorded: Recorded, after: int, shown: Callable[[Record], Pieces], stop: threading.Event) -> None:
    """Print records as they come until told to stop.

    Raises:
        BrokenPipeError: The reader has gone.
    """
    gone = select.poll()
    gone.register(1, 0)  # hang-up and error alone
    while not stop.is_set():
        for record in recorded.records(after):
            _write(shown(record), stop)
            after = record.sequence
            if stop.is_set():
                return
        if gone.poll(0):
            raise BrokenPipeError
        stop.wait(LOOK_SECONDS)


def _write(pieces: Pieces, stop: threading.Event) -> None:
    for piece in pieces:
        sys.stdout.buffer.write(piece)
        if stop.is_set():
            break
    sys.stdout.buffer.flush()
