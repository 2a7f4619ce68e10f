"""What the records about candidates and rounds say, from the state and a decision. Pure.

`settle` and `conduct` write them into the signed history; an experiment in memory writes the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedssh.rules.federation import Federation
from fedssh.rules.gate import MIXING, Decision, passes, told
from fedssh.rules.rounds import Due, Round, Update, can_open, due, needed, select

Fields = dict[str, Any]


def verdict(state: Federation, sent: Mapping[str, Any], decision: Decision, staleness: int | None = None) -> Fields:
    """A candidate's verdict: the fields of `accepted`, `refused` and `counted`.

    Args:
        sent: What the submission says: site, submission, session, epoch, examples, builds_on, claim, model,
            architecture.
        staleness: How often others had changed the current model since; None where nothing was scored.
    """
    fields = {
        **sent,
        "metrics": _told(state, decision),
        "against": state.current.of,
        "current_metrics": state.current.metrics,
        "reason": decision.reason,
    }
    if staleness is not None and state.policy.name in MIXING:
        share = None if _hidden(state, decision) else decision.share
        fields |= {"candidate": sent["model"], "share": share, "staleness": staleness}
    return fields


def refused_report(state: Federation, sent: Mapping[str, Any], reason: str) -> Fields:
    """A report that does not count.

    Args:
        sent: What it says: site, submission, session, epoch, examples, builds_on, claim.
    """
    nothing = {"metrics": None, "model": None, "architecture": None}
    against = {"against": state.current.of, "current_metrics": state.current.metrics}
    return {**sent, **nothing, **against, "reason": reason}


def counted(state: Federation, sent: Mapping[str, Any]) -> Fields:
    """An update that is taken into the open round."""
    current = state.round
    assert current is not None
    reason = f"update {len(current.updates) + 1} of {len(current.sites)} in round {current.number}"
    return verdict(state, sent, Decision(True, reason)) | {"round": current.number}


def opening(state: Federation) -> Fields | None:
    """The next round, when it can open."""
    sites = [site.name for site in state.sites]
    policy = state.policy
    if state.round or state.finished or state.all_sessions_done() or not can_open(policy, sites):
        return None
    number = state.rounds + 1
    chosen = select(sites, float(policy.values["fraction"]), state.genesis["seed"], number)
    if policy.least > len(chosen):
        chosen = tuple(sites)  # fewer would not do for the rule
    reason = (
        f"{len(chosen)} of {len(sites)} sites; closes with all of them, or after "
        f"{policy.values['deadline']:g} s with {needed(policy, len(chosen))}"
    )
    return {"round": number, "sites": list(chosen), "reason": reason}


def extension(state: Federation, now: float) -> Fields | None:
    """The open round for all sites, when it is due for that."""
    sites = [site.name for site in state.sites]
    current = state.round
    if current is None or due(state.policy, current, sites, now) is not Due.EXTEND:
        return None
    wanted = needed(state.policy, len(current.selected))
    reason = f"{len(current.updates)} of {wanted} updates in time; now every site may send one"
    return {"round": current.number, "sites": sites, "reason": reason}


def too_few(state: Federation, current: Round) -> Decision | None:
    """The end of a round that has too few updates for its policy; None when it has enough."""
    wanted = needed(state.policy, len(current.selected))
    if len(current.updates) >= wanted:
        return None
    return Decision(False, f"{len(current.updates)} of {wanted} updates, and no site is left that could send one")


def gated(state: Federation, updates: int, metrics: Mapping[str, Any]) -> Decision:
    """Whether a round's result becomes the current model, from what it scored."""
    accept, reason = passes(state.gate, state.metric, metrics, state.current.metrics, state.current.bar)
    parts = f"{state.policy.name} of {updates} {'update' if updates == 1 else 'updates'}"
    return Decision(accept, f"{parts}: {reason}", None, metrics)


def closing(state: Federation, current: Round, decision: Decision, shares: Sequence[float] | None) -> Fields:
    """The end of a round; `round-accepted` further names the model and the server optimizer's state.

    Args:
        shares: How much of each of `in_order(current)` is in the result; None when there is none.
    """
    updates = in_order(current)
    known: Sequence[float | None] = shares or [None] * len(updates)
    parts = [
        {"site": update.site, "record": update.record, "examples": update.examples, "share": share}
        for update, share in zip(updates, known, strict=True)
    ]
    return {
        "round": current.number,
        "metrics": _told(state, decision),
        "current_metrics": state.current.metrics,
        "against": state.current.of,
        "updates": parts,
        "missing": list(current.missing),
        "reason": decision.reason,
    }


def why_finished(state: Federation) -> str:
    """What was agreed and is done, when all sessions or rounds are."""
    if state.policy.rounds:
        return f"{state.rounds} {'round' if state.rounds == 1 else 'rounds'} closed, as agreed"
    return f"every site has trained {state.sessions} {'session' if state.sessions == 1 else 'sessions'}"


def in_order(current: Round) -> list[Update]:
    """A round's updates by name of their sites: the sum must not depend on who was first."""
    return sorted(current.updates, key=lambda update: update.site)


def _told(state: Federation, decision: Decision) -> Fields | None:
    return None if _hidden(state, decision) else told(state.gate, decision.metrics)


def _hidden(state: Federation, decision: Decision) -> bool:
    """Whether nothing is told of what a model scored: under a ladder a refusal is all that the sites learn."""
    return state.gate.kind == "ladder" and not decision.accept
