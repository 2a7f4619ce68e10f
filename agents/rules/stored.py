"""A state as JSON and back, for whoever goes on from there another day: the vault, and a Bob who follows."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from fedssh.errors import LedgerError
from fedssh.rules.events import HEAD, Blob, Genesis, Record
from fedssh.rules.federation import Current, Federation, Member, Slot, Spending, Taken
from fedssh.rules.masking import Advert, Answer, Masking, Roster, Shares
from fedssh.rules.rounds import Round, Update
from fedssh.rules.standing import LastRound, Layers
from fedssh.rules.typed import Typed, plain


def to_value(state: Federation) -> dict[str, Any]:
    """A state as JSON, without its number and hash; `from_value` makes exactly this state of it again."""
    value = {field.name: plain(getattr(state, field.name)) for field in dataclasses.fields(state)}
    del (
        value["sequence"],
        value["head"],
        value["taken"],
        value["slots"],
        value["spent"],
        value["adverts"],
        value["ready"],
        value["names"],
    )
    release, current = state.release, state.round
    return value | {
        "current": {name: one for name, one in _members(state.current).items() if name != "layers" or one is not None},
        "members": [_members(member) for member in state.members],
        "round": None if current is None else _open_round(current),
        "release": None if release is None else {
            "sequence": release.sequence,
            "hash": release.hash,
            "text": release.text.decode(),
            "signature": release.signature,
        },
        **({"taken": {site: _members(one) for site, one in state.taken.items()}} if state.taken else {}),
        **({"slots": {site: _members(one) for site, one in state.slots.items()}} if state.slots else {}),
        **({"spent": {site: _members(one) for site, one in state.spent.items()}} if state.spent else {}),
        **({"adverts": _each(state.adverts)} if state.adverts else {}),
        **({"ready": state.ready} if state.ready is not None else {}),
        **({"names": dict(state.names)} if state.names else {}),
    }  # fmt: skip


def from_value(value: Mapping[str, Any], sequence: int, head: str) -> Federation:
    """The state that `to_value` was given.

    Raises:
        LedgerError: It has not that form.
    """
    try:
        return _from(value, sequence, head)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise LedgerError(f"this is no state of a federation: {error}") from None


def _from(value: Mapping[str, Any], sequence: int, head: str) -> Federation:
    current, release, now, last = (value[name] for name in ("current", "release", "round", "last"))
    genesis = {name: one for name, one in value["genesis"].items() if name not in HEAD}  # older ones have them here
    return Federation(**{
        **value,
        "sequence": sequence,
        "head": head,
        "genesis": Genesis.read(genesis, "the genesis of the state"),
        "current": Current(**current | {
            "model": _blob(current["model"]),
            "makers": tuple(current["makers"]),
            "server": tuple(map(_blob, current["server"])),
            "layers": None if current.get("layers") is None else Layers.read(current["layers"], "layers of the state"),
        }),
        "members": tuple(Member(**member) for member in value["members"]),
        "round": None if now is None else _round(now),
        "last": None if last is None else LastRound.read(last, "the last round of the state"),
        "release": None if release is None else Record(**release | {"text": release["text"].encode()}),
        "used": {site: tuple(times) for site, times in value["used"].items()},
        "taken": {
            site: Taken(**one | {"model": _blob(one["model"])}) for site, one in value.get("taken", {}).items()
        },
        "slots": {
            site: Slot(**one | {name: _blob(one[name]) for name in ("candidate", "base")})
            for site, one in value.get("slots", {}).items()
        },
        "spent": {
            site: Spending(**one | {"charges": tuple((rate, steps) for rate, steps in one["charges"])})
            for site, one in value.get("spent", {}).items()
        },
        "adverts": {site: Advert.read(one, "an advert") for site, one in value.get("adverts", {}).items()},
    })  # fmt: skip


def _round(value: Mapping[str, Any]) -> Round:
    updates = (Update(**update | {"model": _blob(update["model"])}) for update in value["updates"])
    names = {name: tuple(value[name]) for name in ("sites", "selected", "empty")}
    groups = tuple(map(_masking, value.get("groups", ())))
    return Round(**{**value, **names, "updates": tuple(updates), "groups": groups})


def _open_round(current: Round) -> dict[str, Any]:
    value = _members(current) | {"updates": list(map(_members, current.updates))}
    del value["groups"], value["since"]
    if not current.groups:
        return value
    return value | {"groups": list(map(_group, current.groups)), "since": current.since}


def _group(masking: Masking) -> dict[str, Any]:
    of = _members(masking) | {name: _each(getattr(masking, name)) for name in ("shares", "answers")}
    return of | {"roster": [advert.fields() for advert in masking.roster.adverts]}


def _masking(value: Mapping[str, Any]) -> Masking:
    some = {name: None if value[name] is None else tuple(value[name]) for name in ("partners", "arrived", "confirmed")}
    return Masking(**{
        **value,
        **some,
        "roster": Roster(tuple(Advert.read(one, "an advert of the roster") for one in value["roster"])),
        "shares": {site: Shares.read(one, "shares") for site, one in value["shares"].items()},
        "answers": {site: Answer.read(one, "an answer") for site, one in value["answers"].items()},
    })  # fmt: skip


def _each(of: Mapping[str, Typed]) -> dict[str, Any]:
    return {site: one.fields() for site, one in of.items()}


def _blob(value: object) -> Blob:
    return Blob.read(value, "a file of the state")


def _members(of: Any) -> dict[str, Any]:
    return {field.name: plain(getattr(of, field.name)) for field in dataclasses.fields(of)}
