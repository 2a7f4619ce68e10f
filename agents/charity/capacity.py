"""How many sites a federation has room for: what a release to all of them takes in a record, which has 64 kB. Pure.

Every reader of the history and of a release refuses more. So a site is enrolled only if the largest record about all
sites, and the manifest of a release to them, still have room afterwards.
"""

from __future__ import annotations

import dataclasses

from fedssh.bundle import pending
from fedssh.errors import SettingsError
from fedssh.forms import MAX_BYTES, canonical
from fedssh.manifest import Release, new_id, now
from fedssh.rules import records
from fedssh.rules.events import Blob, Event, Released
from fedssh.rules.federation import Federation, Member
from fedssh.rules.gate import PAIRED, Decision
from fedssh.rules.rounds import Round, Update

RESERVE_BYTES = 4096  # for longer reasons, later numbers and other scores
_HASH = "0" * 64


def check_room(state: Federation, name: str, key: str) -> None:
    """Check that one more site has room.

    Raises:
        SettingsError: It has not; the message says how many have.
    """
    others = tuple(member for member in state.members if member.name != name)
    more = dataclasses.replace(state, members=(*others, Member(name, "site", key)))
    what, size = max(sizes(more).items(), key=lambda item: item[1])
    # Scores are in a record up to three times, and may take other numbers of digits.
    reserve = RESERVE_BYTES + len(canonical(state.current.metrics))
    if size + reserve > MAX_BYTES:
        raise SettingsError(
            f"{name} cannot be enrolled: {what} with {len(more.sites)} sites takes {size:,} bytes and up to "
            f"{reserve:,} more, every reader takes at most {MAX_BYTES:,}",
            f"no more than the {len(state.sites)} sites that are enrolled have room; revoke one that does not train",
        )


def sizes(state: Federation) -> dict[str, int]:
    """Bytes of the largest messages about all sites of a federation."""
    names = tuple(site.name for site in state.sites)
    size = state.current.model.size
    updates = tuple(Update(name, 10**9, Blob(sha256=_HASH, size=size), 10**9) for name in names)
    opened = state
    if state.policy.rounds:
        opened = dataclasses.replace(state, round=Round(10**6, names, names, 0.0, 10**9))
    released = opened.wanted_release()
    assert released is not None, "there are sites"
    long = dataclasses.replace(released, of=10**9)
    found = {"the record of a release": _record(long), "the manifest of a release": len(_manifest(opened, long))}
    if opened.round is not None:
        full = dataclasses.replace(opened.round, updates=updates)
        decision = Decision(True, "", None, {**state.current.metrics, PAIRED: 1 / 3})
        closed = records.closed_empty(opened, full, decision, [1 / 3] * len(updates))
        found["the record of a round"] = _record(closed) + len(canonical({"sites": list(names)}))
    return found


def _record(event: Event) -> int:
    head = {"sequence": 10**9, "previous": _HASH, "event": Released.name, "time": now()}
    return len(canonical(event.fields() | head))


def _manifest(state: Federation, released: Released) -> bytes:
    return Release(
        id=new_id(),
        sender="charity",
        recipients=list(released.recipients),
        model=Blob(_HASH, state.current.model.size),
        sealed=pending(),
        architecture=_HASH,
        sequence=10**9,
        head=_HASH,
        metrics=dict(state.current.metrics),
        plan=dict(state.genesis.plan),
        federation=released.federation.fields(),
        created=now(),
    ).to_bytes()
