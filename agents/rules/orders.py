"""What an operator may order. Pure: Charity asks before she writes it down, `replay` asks of what was written."""

from __future__ import annotations

import re

from fedssh.forms import fingerprint, shown
from fedssh.rules.events import (
    Accepted,
    Blob,
    Event,
    Finished,
    Genesis,
    Metrics,
    Reopened,
    RolledBack,
    RoundAccepted,
    SiteAdded,
    SiteRevoked,
    Tagged,
    TurnPassed,
    Untagged,
)
from fedssh.rules.federation import Federation
from fedssh.rules.typed import known
from fedssh.rules.vocabulary import ROLES

Order = SiteAdded | SiteRevoked | TurnPassed | RolledBack | Finished | Reopened | Tagged | Untagged

TAG = re.compile(r"[a-z][a-z0-9._-]{0,63}")
TAG_FORM = "1 to 64 lower-case letters, digits, dots, dashes and underscores, a letter first, and not best"
FINISHED = "the federation was finished"  # how an order ends the open round, which comes first
ROLLED_BACK = "rolled back to record "


def objection(state: Federation, order: Order) -> str:
    """Why something cannot be ordered now; empty when it can. A round that is open is ended before.

    Args:
        order: For a rollback or a name, `made_current` says which of the earlier records there is a model of.
    """
    match order:
        case SiteAdded():
            return _taken(state, order)
        case SiteRevoked():
            member = state.member(order.site)
            return f"{order.site} is not enrolled" if member is None or member.revoked else ""
        case TurnPassed():
            return "" if order.site == state.turn else f"it is not {order.site}'s turn"
        case RolledBack():
            return f"the model of record {order.to} is the current one" if order.model == state.current.model else ""
        case Finished():
            return "the federation is finished already" if state.finished else ""
        case Reopened():
            return _nothing_left(state, order)
        case Tagged():
            return _misnamed(state, order)
        case Untagged():
            return "" if order.tag in state.names else f"no model is called {shown(order.tag)}"


def made_current(said: Event) -> tuple[Blob, Metrics] | None:
    """The model that a record made current, with what it had scored; None of a record that made none."""
    if not isinstance(said, Genesis | Accepted | RoundAccepted | RolledBack) or said.metrics is None:
        return None
    return said.model, said.metrics


def _taken(state: Federation, order: SiteAdded) -> str:
    member = state.member(order.site)
    if member is not None and not member.revoked:
        return f"{order.site} is enrolled already with {fingerprint(member.key)}"
    if order.role not in ROLES:
        return f"the roles are {' and '.join(ROLES)}"
    if order.key == known(state.genesis.coordinator, None):
        return "this key is the coordinator's already"
    holder = next((one.name for one in state.enrolled if one.key == order.key), None)
    return f"this key is {holder}'s already" if holder else ""


def is_tag(text: str) -> bool:
    """Whether a model may be called so."""
    return text != "best" and TAG.fullmatch(text) is not None


def _misnamed(state: Federation, order: Tagged) -> str:
    if not is_tag(order.tag):
        return f"no model can be called {shown(order.tag)}"
    return (
        f"the model of record {order.of} is called {order.tag} already"
        if state.names.get(order.tag) == order.of
        else ""
    )


def _nothing_left(state: Federation, order: Reopened) -> str:
    if not state.finished:
        return "the federation is open"
    if order.sessions is None or order.sessions > state.done:
        return ""
    if state.policy.rounds:
        return f"{state.done} rounds have closed already"
    return f"every site has trained {state.done} sessions already"
