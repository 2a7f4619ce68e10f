"""The verbs that read the ledger: `history`, `show`, `diff`, `best`, `tags`, `status`, `verify`, `help` and others."""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Callable, Iterable
from typing import Any, BinaryIO

from fedssh.door.channel import BLOCK, LONGEST_WAIT_SECONDS, Client, Stop, answer, later, number, options
from fedssh.door.fetch import wait
from fedssh.door.upload import waiting
from fedssh.history import picked, verbs
from fedssh.history.picked import Misasked
from fedssh.history.published import NoRecord, Published, export, number_of, row_of

_GOES_ON = (b'\\"event\\":\\"round-', b'\\"event\\":\\"release\\"')  # in a line; a site's words are escaped once more


def read(client: Client, verb: str, words: list[str]) -> int:
    """Print one view of the ledger, for people or, with `--json`, for programs."""
    allowed, places, form, _ = verbs.VERBS[verb]
    takes = {False: None, True: number, verbs.WORD: word, verbs.WORDS: word}
    kinds: dict[str, Callable[[str, str], Any] | None] = {name: takes[valued] for name, valued in allowed.items()}
    several = frozenset(name for name, valued in allowed.items() if valued == verbs.WORDS)
    found, rest = options(words, kinds, places, form, verbs.OPTIONAL.get(verb, 0), several)
    if verb == "help":
        show(verb, verbs.help_value(), found)
        return 0
    try:
        with open(client.path("outbox", "ledger.jsonl"), "rb") as file:
            if verb == "verify":
                show(verb, check(client, file), found)
            elif verb == "history":
                history(client, file, found)
            elif verb == "report":
                from fedssh.history.report import page

                send(page(Published(file).lines()))
            else:
                from fedssh.history import views  # what `history --export` need not wait for

                ledger = Published(file)
                totals = functools.cache(lambda: total(client, ledger))
                numbers = [record(totals, word) for word in rest]
                asked = views.Asked(ledger, numbers, totals, lambda: arrived(client), time.time(), frozenset(found))
                show(verb, views.VIEWS[verb](asked), found)
    except FileNotFoundError:
        raise later("there is no history yet") from None
    except (NoRecord, Misasked) as error:
        raise Stop(2, str(error)) from None
    except ValueError:
        raise Stop(3, "the published history is damaged; its operator can repair it") from None
    return 0


def record(totals: Callable[[], dict[str, Any]], word: str) -> int:
    """The number of a record that is asked for: by number, or by what its model is called.

    Raises:
        NoRecord: No model is called so.
        Stop: It is neither.
    """
    if not "a" <= word[:1] <= "z":
        return number(word, "the record")
    from fedssh.history.names import stands_for

    return stands_for(totals(), word)


def wait_for_round(client: Client, after: int, seconds: float) -> None:
    """Wait until a round has opened, gone on or ended since a record.

    Raises:
        Stop: None has in time.
    """
    path, place = client.path("outbox", "ledger.jsonl"), -1

    def look() -> bool | None:
        nonlocal place
        try:
            if 0 <= os.stat(path).st_size <= place:
                return None
            with open(path, "rb") as file:
                if place < 0:
                    place = Published(file).start_of(after + 1)
                file.seek(place)
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    place += len(line)
                    if any(mark in line for mark in _GOES_ON):
                        return True
        except FileNotFoundError:
            pass
        return None

    wait(client, look, min(seconds, LONGEST_WAIT_SECONDS), "no round has gone on yet")


def show(verb: str, value: Any, found: dict[str, Any]) -> None:
    """Print one value."""
    from fedssh.history import text as texts

    answer((texts.to_json(value) if "--json" in found else texts.TEXTS[verb](value)).encode())


def history(client: Client, file: BinaryIO, found: dict[str, Any]) -> None:
    """The history, piece by piece: it may be larger than this process is allowed to be.

    Raises:
        Misasked: The options contradict each other, or name what there cannot be.
    """
    picked.check(found)
    if "--round" in found:
        wait_for_round(client, found.get("--after", 0), found["--round"])
    ledger = Published(file)
    begin, more = shown(client, ledger, found)
    send(begin)
    if "--follow" in found:
        from fedssh.door.follow import appended

        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the reader has seen enough
            for lines in appended(client, file.fileno(), ledger.end):
                send(more(line) for line in lines if number_of(line) > found.get("--after", 0))


Shown = tuple[Iterable[bytes], Callable[[bytes], bytes]]  # what there is, and what becomes of a line that comes


def shown(client: Client, ledger: Published, found: dict[str, Any]) -> Shown:
    """The records that were asked for: their signed lines, or their rows."""
    one, after = picked.chosen(ledger, found, lambda: total(client, ledger)["nodes"], time.time())
    if "--export" in found:
        return export(ledger.lines(after)), lambda line: b"".join(export([line]))
    from fedssh.history.listing import Listing  # which `history --export` need not wait for

    listing = Listing(ledger, found)

    def more(line: bytes) -> bytes:
        record = row_of(line)
        return listing.more(record).encode() if one(record) else b""

    return (text.encode() for text in listing.begin(lambda: filter(one, ledger.rows(after)))), more


def word(text: str, what: str) -> str:
    """What an option says, as it stands; what it may be is looked at where it counts."""
    return text


def send(pieces: Iterable[bytes]) -> None:
    """Answer with many pieces in blocks."""
    block = bytearray()
    for piece in pieces:
        block += piece
        if len(block) > BLOCK:
            answer(bytes(block))
            block.clear()
    answer(bytes(block))


def arrived(client: Client) -> dict[str, int]:
    """How many bundles of each site wait to be judged."""
    inbox = client.path("inbox")
    sites = os.listdir(inbox) if os.path.isdir(inbox) else []
    return {site: waiting(os.path.join(inbox, site))[0] for site in sites}


def total(client: Client, ledger: Published) -> dict[str, Any]:
    """The totals of the whole history, from those that the vault has added up, where it has."""
    from fedssh.history import views

    try:
        with open(client.path("outbox", "summary.json"), "rb") as file:
            summary = file.read()
    except FileNotFoundError:
        summary = b""
    return views.total(ledger, summary)


def check(client: Client, ledger: BinaryIO) -> dict[str, Any]:
    """Check every hash, link and signature of the history.

    Raises:
        Stop: It is not the unbroken, signed chain it must be.
    """
    import site

    site.main()  # only here is `cryptography` needed, which stands where -S does not look
    from pathlib import Path

    from fedssh.errors import AgentError
    from fedssh.keys import load_public
    from fedssh.ledger import checked, read_export

    try:
        coordinator = load_public(Path(client.path("outbox", "coordinator_key.pub")))
        count, head = 0, None
        for record in checked(read_export(ledger), coordinator):
            count, head = record.sequence, record.hash
    except AgentError as error:
        raise Stop(error.exit_code, str(error)) from None
    return {"records": count, "head": head, "coordinator": coordinator.fingerprint}
