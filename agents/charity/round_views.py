"""Rounds as people read them: which one is open, who is missing in it, when it closes, how the last one ended. Pure."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

from agents.charity.policy import read_policy
from agents.charity.rounds import ends_waiting, least_sites, needed

CLOSING = ("round-accepted", "round-refused")

Fields = Mapping[str, Any]
Row = dict[str, Any]


def rounds(records: Sequence[Fields], sites: int) -> Row:
    """How many rounds have closed, the last of them, the one that is open, and how many sites another one takes.

    Args:
        records: The whole history of a federation that trains in rounds.
        sites: How many are enrolled.
    """
    least = least_sites(read_policy(records[0]["policy"]))
    closed = [record for record in records if record["event"] in CLOSING]
    last = {name: closed[-1][name] for name in ("round", "event", "reason", "time")} if closed else None
    return {"closed": len(closed), "last": last, "open": _open(records), "least": least, "lacks": max(0, least - sites)}


def _open(records: Sequence[Fields]) -> Row | None:
    found: Row | None = None
    for record in records:
        event = record["event"]
        if event == "round-opened":
            found = _opened(record)
        elif event in CLOSING or event == "finished":
            found = None
        elif found is not None:
            _follow(found, record)
    if found is None:
        return None
    policy = read_policy(records[0]["policy"])
    enough = needed(policy, len(found.pop("selected")))
    missing = [site for site in found["sites"] if site not in found["sent"]]
    empty = [site for site in missing if site in found["empty"]]
    closes = _later(found["opened"], float(policy.values["deadline"]))
    del found["record"]
    return found | {"missing": missing, "empty": empty, "enough": enough, "closes": closes}


def _opened(record: Fields) -> Row:
    sites = list(record["sites"])
    return {
        "number": record["round"],
        "record": record["sequence"],
        "opened": record["time"],
        "selected": sites,
        "sites": sites,
        "extended": False,
        "sent": [],
        "empty": [],
    }


def _follow(found: Row, record: Fields) -> None:
    """What one record changes in the open round."""
    site = record.get("site")
    if record["event"] == "counted":
        found["sent"].append(site)
    elif record["event"] == "round-extended":
        found |= {"sites": list(record["sites"]), "extended": True}
    elif record["event"] == "site-revoked":
        found |= {name: [other for other in found[name] if other != site] for name in ("selected", "sites", "sent")}
    if ends_waiting(record, found["record"]):
        found["empty"].append(site)


def _later(time: str, seconds: float) -> str | None:
    """A time so many seconds after another; None when that is no time that can be written down."""
    try:
        then = datetime.datetime.fromisoformat(time) + datetime.timedelta(seconds=seconds)
    except OverflowError:
        return None
    return then.isoformat(timespec="milliseconds").replace("+00:00", "Z")
