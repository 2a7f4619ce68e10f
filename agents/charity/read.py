"""The verbs that read the ledger: `history`, `show`, `diff`, `best`, `nodes`, `status`, `verify`, `help`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, BinaryIO

from agents.charity import texts, verbs, views
from agents.charity.command import Room, Stop, answer, later, number, options
from agents.charity.upload import waiting


def read(room: Room, verb: str, words: list[str]) -> int:
    """Print one view of the ledger, for people or, with `--json`, for programs."""
    allowed, places, form = verbs.FORMS[verb]
    found, rest = options(words, {name: number if valued else None for name, valued in allowed.items()}, places, form)
    numbers = [number(word, "the record") for word in rest]
    if verb == "help":
        value: Any = verbs.help_value()
    else:
        try:
            with open(room.path("outbox", "ledger.jsonl"), "rb") as ledger:
                if "--export" in found:
                    for line in views.export(ledger, found.get("--after", 0)):
                        answer(line)
                    return 0
                if verb == "verify":
                    value = check(room, ledger)
                else:
                    value = look_at(room, verb, views.read(ledger), numbers, found)
        except FileNotFoundError:
            raise later("there is no history yet") from None
        except views.NoRecord as error:
            raise Stop(2, str(error)) from None
    answer((texts.to_json(value) if "--json" in found else texts.TEXTS[verb](value)).encode())
    return 0


def look_at(room: Room, verb: str, records: Sequence[Any], numbers: list[int], found: dict[str, Any]) -> Any:
    """The value of one view."""
    if verb == "history":
        return views.history(records, found.get("--last"))
    if verb == "status":
        inbox = room.path("inbox")
        sites = os.listdir(inbox) if os.path.isdir(inbox) else []
        return views.status(records, {site: waiting(os.path.join(inbox, site))[0] for site in sites})
    if verb in ("show", "diff"):
        return views.show(records, *numbers) if verb == "show" else views.diff(records, *numbers)
    return views.best(records) if verb == "best" else views.nodes(records)


def check(room: Room, ledger: BinaryIO) -> dict[str, Any]:
    """Check every hash, link and signature of the history.

    Raises:
        Stop: It is not the unbroken, signed chain it must be.
    """
    import site

    site.main()  # only here is `cryptography` needed, which stands where -S does not look
    from pathlib import Path

    from agents.errors import AgentError
    from agents.keys import load_public
    from agents.ledger import read_export, verify

    try:
        coordinator = load_public(Path(room.path("outbox", "coordinator_key.pub")))
        records = read_export(ledger)
        count = verify(records, coordinator)
    except AgentError as error:
        raise Stop(error.exit_code, str(error)) from None
    return {"records": count, "head": records[-1].hash if records else None, "coordinator": coordinator.fingerprint}
