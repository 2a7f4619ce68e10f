"""Rounds as people read them: which one is open, who is missing in it, when it closes, how the last one ended. Pure."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

from fedssh.rules.policies import Policy, read_policy
from fedssh.rules.rounds import ends_waiting, least_sites, needed
from fedssh.rules.vocabulary import CLOSES_ROUND

Fields = Mapping[str, Any]
Row = dict[str, Any]


def follow(found: Row, record: Fields) -> None:
    """Add one record to what is known of the rounds: {"closed": how many, "last", "open"}."""
    event = record["event"]
    if event in CLOSES_ROUND:
        last = {name: record[name] for name in ("round", "event", "reason", "time")}
        found |= {"closed": found["closed"] + 1, "last": last}
    if event == "round-opened":
        found["open"] = _opened(record)
    elif event in CLOSES_ROUND or event == "finished":
        found["open"] = None
    elif found["open"] is not None:
        _follow(found["open"], record)


def rounds(found: Row, policy: str, sites: int) -> Row:
    """How many rounds have closed, the last of them, the one that is open, and how many sites another one takes.

    Args:
        found: What `follow` has added up.
        policy: As agreed.
        sites: How many are enrolled.
    """
    rules = read_policy(policy)
    least = least_sites(rules)
    now = found["open"] and _open(found["open"], rules)
    return {
        "closed": found["closed"],
        "last": found["last"],
        "open": now,
        "least": least,
        "lacks": max(0, least - sites),
    }


def _open(found: Row, policy: Policy) -> Row:
    missing = [site for site in found["sites"] if site not in found["sent"]]
    empty = [site for site in missing if site in found["empty"]]
    enough = needed(policy, len(found["selected"]))
    closes = _later(found["opened"], float(policy.values["deadline"]))
    shown = {name: value for name, value in found.items() if name not in ("record", "selected")}
    return shown | {"missing": missing, "empty": empty, "enough": enough, "closes": closes}


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
