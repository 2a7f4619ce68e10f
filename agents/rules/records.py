"""What is written down about candidates and rounds, from the state and a decision. Pure.

`coordinator` writes these records, and `replay` holds what somebody else wrote against them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fedssh.rules.events import (
    Accepted,
    Blob,
    Counted,
    Finished,
    GroupSum,
    Local,
    Masks,
    Metrics,
    Part,
    Refused,
    Report,
    RoundAccepted,
    RoundAgreed,
    RoundClosing,
    RoundExtended,
    RoundOpened,
    RoundPartners,
    RoundRefused,
    Spent,
    Verdict,
    Work,
)
from fedssh.rules.federation import Federation, Slot
from fedssh.rules.gate import Decision, passes, told
from fedssh.rules.masking import Advert, Answer, Masking, Roster, Shares, bad_advert, bad_answer, bad_shares, dealt
from fedssh.rules.rounds import (
    Due,
    Round,
    Update,
    arrived_of,
    can_open,
    confirmed_of,
    due,
    is_open,
    least_sites,
    needed,
    partners_of,
    select,
    why_not,
)  # fmt: skip
from fedssh.rules.standing import Started
from fedssh.rules.typed import ABSENT, Absent, known

Bearing = Sequence[
    tuple[float, float | None]
]  # of each update in a round its length and cosine, see `averaging.bearing`


@dataclass(frozen=True)
class Sent:
    """A model that a site sent.

    Attributes:
        submission: Its id.
        session, epoch: What it came out of.
        examples: How many images the site trains on.
        builds_on: The record of the release that the session started from.
        started: What that release says of it.
        claim: What the site measured; None where privacy is agreed.
        model: Its file.
        architecture: SHA-256 of its spec.
        released: The model of the release that the session started from; None where nobody asks for it.
        privacy: What the site has spent by its word, where privacy is agreed.
    """

    site: str
    submission: str
    session: int
    epoch: int
    examples: int
    builds_on: int
    started: Started
    claim: Local | None
    model: Blob
    architecture: str
    released: Blob | None = None
    privacy: Spent | Absent = ABSENT

    @property
    def turns(self) -> int:
        """The round that it was trained for."""
        return self.started.turns or 0


@dataclass(frozen=True)
class Over:
    """A site's word that a session is over.

    Attributes:
        submission: The report's id.
        builds_on, started: As in `Sent`.
        metrics: What the best checkpoint scored at the site; None without one.
        passed: True where there was nothing new to train on.
    """

    site: str
    submission: str
    session: int
    epochs: int
    checkpoints: int
    examples: int
    builds_on: int
    started: Started
    metrics: Local | None
    passed: bool | Absent = ABSENT


def base_of(state: Federation, sent: Sent) -> Blob | None:
    """What a candidate's step starts from, under a policy that steps; None where that is the current model.

    Within a session it is what was last taken of it: the part that is in the current model is not added again.
    """
    if not state.policy.steps:
        return None
    last = state.taken.get(sent.site)
    same = last is not None and (last.session, last.builds_on) == (sent.session, sent.builds_on)
    base = last.model if last is not None and same else sent.released
    return None if base == state.current.model else base


def waiting(state: Federation, sent: Sent) -> tuple[Slot, ...]:
    """What waits of other sites and is tried together with a candidate: the newest, in the order of its records."""
    others = sorted((slot for site, slot in state.slots.items() if site != sent.site), key=lambda slot: slot.record)
    return tuple(others[-int(state.policy.values["slots"]) :]) if others else ()


def as_sent(state: Federation, sent: Sent, decided: Decision) -> bool:
    """Whether what becomes current is the candidate as it was sent."""
    return decided.share == 1 and not decided.gathered and base_of(state, sent) is None


def verdict(
    state: Federation, sent: Sent, decided: Decision, staleness: int | None = None, model: Blob | None = None
) -> Accepted | Refused:
    """A candidate that becomes current, or does not.

    Args:
        staleness: How often others had changed the current model since; None where nothing was scored.
        model: The file that becomes current: what was sent, or a mix. Not for one that is refused.
    """
    hide = state.gate.hides(decided)
    said: dict[str, Any] = {
        "site": sent.site,
        "submission": sent.submission,
        "session": sent.session,
        "epoch": sent.epoch,
        "examples": sent.examples,
        "builds_on": sent.builds_on,
        "claim": sent.claim,
        "privacy": sent.privacy,
        "model": model or sent.model,
        "architecture": sent.architecture,
        "metrics": None if hide else told(state.gate, decided.metrics),
        "against": state.current.of,
        "current_metrics": state.current.metrics,
        "reason": decided.reason,
    } | _found(state, decided)
    if staleness is not None and state.policy.mixes:
        said |= {"candidate": sent.model, "share": None if hide else decided.share, "staleness": staleness}
        if (base := base_of(state, sent)) is not None:
            said["base"] = base
        if decided.gathered and not hide:
            said["slots"] = tuple(slot.record for slot in waiting(state, sent))
    return Accepted(**said) if decided.accept else Refused(**said)


def joined(
    state: Federation,
    sent: Sent,
    decided: Decision,
    work: Work | None,
    model: Blob | None = None,
    sets: Sequence[Blob] = (),
) -> Accepted | Refused:
    """The end of a turn under `split`, whose network becomes current or does not.

    Args:
        sent: With the site's layers as its model.
        work: What went through the channel; None where nothing was joined.
        model: The file of the whole that becomes current. Not for one that is refused.
        sets: Files of the optimizer's state.
    """
    said = verdict(state, sent, decided, model=model)
    more: dict[str, Any] = {"candidate": sent.model} | ({} if work is None else {"work": work})
    return dataclasses.replace(said, **more | ({"state": tuple(sets)} if isinstance(said, Accepted) else {}))


def counted(state: Federation, sent: Sent) -> Verdict:
    """An update that is taken into the open round, or why it is not."""
    if reason := why_not(state.round, sent.site, sent.turns):
        return verdict(state, sent, Decision(False, reason))
    current = state.round
    assert current is not None
    reason = f"update {len(current.updates) + 1} of {len(current.sites)} in round {current.number}"
    taken = verdict(state, sent, Decision(True, reason))
    return Counted(**vars(taken), round=current.number)


NOBODY = "nobody judged it: the site's layers are sealed for sites alone"


def counted_joined(state: Federation, sent: Sent, work: Work, model: Blob) -> Verdict:
    """A site's part in the open round under `splitfed`, joined with the coordinator's; or why it is not taken.

    Args:
        sent: With the site's layers as its model.
        model: The file of the whole.
    """
    event = counted(state, sent)
    if not isinstance(event, Counted):
        return event
    return dataclasses.replace(event, model=model, candidate=sent.model, work=work)


def reported(state: Federation, over: Over) -> Report | Refused:
    """A session that is over, or why its report does not count."""
    same = {name: getattr(over, name) for name in ("site", "submission", "session", "examples", "builds_on")}
    if reason := state.objection(over.site, over.started):
        return Refused(
            **same,
            epoch=over.epochs,
            claim=over.metrics,
            metrics=None,
            model=None,
            architecture=None,
            against=state.current.of,
            current_metrics=state.current.metrics,
            reason=reason,
        )
    return Report(**same, epochs=over.epochs, checkpoints=over.checkpoints, metrics=over.metrics, passed=over.passed)


def opening(state: Federation, now: float = math.inf) -> RoundOpened | None:
    """The next round, when it can open.

    Args:
        now: In seconds since 1970. Under masks a round waits for the keys of all sites as long as for their updates.
    """
    sites = list(state.able)
    policy = state.policy
    if state.round or state.finished or state.all_sessions_done() or not can_open(policy, sites):
        return None
    if policy.masked:
        keyed = list(state.keyed)
        patient = state.ready is None or now < state.ready + float(policy.values["deadline"])
        if len(keyed) < least_sites(policy) or (keyed != sites and patient):
            return None
        sites = keyed
    number = state.rounds + 1
    chosen = select(sites, float(policy.values["fraction"]), state.genesis.seed, number)
    if policy.least > len(chosen):
        chosen = tuple(sites)  # fewer would not do for the rule
    groups = dealt(chosen, policy.groups, state.genesis.seed, number) if policy.masked else (chosen,)
    enough = f"{needed(policy, min(map(len, groups)))}{' of a group' if len(groups) > 1 else ''}"
    reason = (
        f"{len(chosen)} of {len(sites)} sites{f', in {len(groups)} groups' if len(groups) > 1 else ''}; "
        f"closes with all of them, or after {policy.values['deadline']:g} s with {enough}"
    )
    if spent := len(state.sites) - len(state.able):
        reason += f"; {spent} with no privacy budget left"
    if keyless := len(state.able) - len(sites):
        reason += f"; {keyless} without keys for masks"
    if not policy.masked:
        return RoundOpened(round=number, sites=chosen, reason=reason)
    roster = Roster.of([state.adverts[site] for site in chosen]).sha256
    several = groups if len(groups) > 1 else ABSENT
    return RoundOpened(round=number, sites=chosen, reason=reason, roster=roster, groups=several)


def partners(state: Federation, now: float) -> RoundPartners | None:
    """Who masks with whom in the open round, when that is settled."""
    current = state.round
    if current is None or due_now(state, now) is not Due.PARTNERS:
        return None
    found = tuple(sorted(site for one in current.groups for site in partners_of(current, one)))
    of = sum(len(one.roster.sites) for one in current.groups)
    opens = f"{current.groups[0].roster.threshold} of which open the sum"
    if len(current.groups) > 1:
        opens = f"in {sum(bool(partners_of(current, one)) for one in current.groups)} of {len(current.groups)} groups"
    reason = f"{len(found)} of {of} sites gave shares, {opens}"
    return RoundPartners(round=current.number, sites=found, reason=reason)


def closing(state: Federation, now: float) -> RoundClosing | None:
    """Whose updates are in the sum of the open round, when that is settled."""
    current = state.round
    if current is None or due_now(state, now) is not Due.CLOSING:
        return None
    found = tuple(sorted(site for one in current.groups for site in arrived_of(state.policy, current, one)))
    reason = f"{len(found)} of {len(current.partners)} masked updates are in the sum"
    return RoundClosing(round=current.number, sites=found, reason=reason)


def agreed(state: Federation, now: float) -> RoundAgreed | None:
    """Who has signed whose updates are in the sum of the open round, when that is settled."""
    current = state.round
    if current is None or due_now(state, now) is not Due.AGREED:
        return None
    found = tuple(sorted(site for one in current.groups for site in confirmed_of(one)))
    of = sum(len(one.arrived or ()) for one in current.groups)
    return RoundAgreed(round=current.number, sites=found, reason=f"{len(found)} of {of} have signed who is in the sum")


def masks_objection(state: Federation, said: Masks) -> str:
    """Why what a site says about masks cannot be; empty where it can, also where it comes too late."""
    member = state.member(said.site)
    if member is None or member.revoked or member.role != "site":
        return f"{said.site} is no site of the federation"
    if not state.policy.masked:
        return "no masks were agreed"
    parts = [name for name in _PARTS if getattr(said, name) is not ABSENT or name in known(said.late, ())]
    if len(parts) != 1 and parts != ["advert", "answer"]:
        return f"it says {len(parts)} of {', '.join(_PARTS)}"
    if isinstance(said.advert, Advert) and (why := bad_advert(said.advert, said.site)):
        return why
    if isinstance(said.advert, Advert) and said.advert.round > state.next_round:
        return f"its keys are for round {said.advert.round}, the next one is {state.next_round}"
    late, masking = _late(state, said), state.round.group(said.site) if state.round else None
    if isinstance(said.shares, Shares) and "shares" not in late:
        assert masking is not None, "else they are late"
        if why := bad_shares(masking.roster, said.shares, said.site):
            return why
    if isinstance(said.answer, Answer) and "answer" not in late:
        assert masking is not None, "else it is late"
        if said.site not in (masking.partners or ()):
            return f"{said.site} has no masks in this round"
        if why := bad_answer(masking, said.answer, said.site):
            return why
    return ""


def masks(state: Federation, said: Masks) -> Masks:
    """What a site says about masks, as it is recorded: of what came too late its name alone."""
    late = _late(state, said)
    gone: dict[str, Any] = dict.fromkeys(late, ABSENT)
    return dataclasses.replace(said, **gone, late=late or ABSENT)


_PARTS = ("advert", "shares", "agreed", "answer")


def _late(state: Federation, said: Masks) -> tuple[str, ...]:
    """What of it nobody waits for: of a round that is over or has gone on, or said already."""
    current = state.round
    masking, found = current.group(said.site) if current else None, []
    if isinstance(said.advert, Advert):
        before = state.adverts.get(said.site)
        if said.advert.round < state.next_round or (before is not None and before.round >= said.advert.round):
            found.append("advert")
    if isinstance(said.shares, Shares):
        open_ = masking is not None and masking.partners is None and said.shares.roster == masking.roster.sha256
        if not open_ or masking is None or said.site in masking.shares:
            found.append("shares")
    if isinstance(said.agreed, str):
        open_ = masking is not None and said.site in (masking.arrived or ()) and masking.confirmed is None
        if not open_ or masking is None or said.site in masking.agreed:
            found.append("agreed")
    if isinstance(said.answer, Answer):
        open_ = masking is not None and bool(masking.confirmed) and said.answer.roster == masking.roster.sha256
        if not open_ or masking is None or said.site in masking.answers:
            found.append("answer")
    return tuple(found)


def due_now(state: Federation, now: float) -> Due:
    """What the open round is due for, if there is one.

    Args:
        now: In seconds since 1970.
    """
    if state.round is None:
        return Due.NOTHING
    return due(state.policy, state.round, state.able, now)


def extension(state: Federation, now: float) -> RoundExtended | None:
    """The open round for all sites, when it is due for that."""
    current = state.round
    if current is None or due_now(state, now) is not Due.EXTEND:
        return None
    wanted = needed(state.policy, len(current.selected))
    reason = f"{len(current.updates)} of {wanted} updates in time; now every site may send one"
    return RoundExtended(round=current.number, sites=state.able, reason=reason)


def too_few(state: Federation, current: Round) -> Decision | None:
    """The end of a round that has too few updates for its policy; None when it has enough."""
    if current.groups:
        why = _unopened(state, current)
        return Decision(False, f"{why}; no sum came out") if why else None
    wanted = needed(state.policy, len(current.selected))
    if len(current.updates) >= wanted:
        return None
    return Decision(False, f"{len(current.updates)} of {wanted} updates, and no site is left that could send one")


def opened(current: Round) -> tuple[Masking, ...]:
    """The groups whose masks can be taken off, and who of them are all still there."""
    came = {update.site for update in current.updates}
    return tuple(one for one in current.groups if is_open(one) and came.issuperset(one.arrived or ()))


def _unopened(state: Federation, current: Round) -> str:
    """Why the masks of a round are not taken off; empty where those of a group can be."""
    if opened(current):
        return ""
    first = current.groups[0]
    every = "" if len(current.groups) == 1 else f" in no group of {len(current.groups)}"
    if not current.settled:
        gave = sum(site in current.sites for site in first.shares)
        return (
            f"{gave} of {first.roster.threshold} sites gave shares in time"
            if not every
            else f"enough shares came{every}"
        )
    if not current.closing:
        wanted = needed(state.policy, len(first.roster.sites))
        came = f"{len(current.updates)} of {wanted} masked updates came in time"
        return f"enough masked updates came{every}" if every else came
    there = {update.site for update in current.updates}
    if gone := [site for one in current.groups for site in one.arrived or () if site not in there]:
        return f"{', '.join(gone)} was revoked, whose update is in the sum"
    if not current.confirmed:
        signed = f"{len(first.agreed)} of {first.roster.threshold} sites signed in time who is in the sum"
        return f"enough signatures came{every}" if every else signed
    answered = f"{len(first.answers)} of {first.roster.threshold} sites answered in time"
    return f"enough answers came{every}" if every else answered


def holding(state: Federation, groups: Sequence[tuple[int, Metrics | None]]) -> list[float]:
    """How much of each group's mean is in a round's result: by images, of those that hold on the holdout by themselves.

    Where none holds, all are in it, and the gate says what becomes of that.

    Args:
        groups: Of each on how many images it was trained, and what its mean scored; None where it has none.
    """
    scores = [metrics for _, metrics in groups if metrics is not None]
    held = [_holds(state, metrics) for metrics in scores]
    taken = iter(held if any(held) else [True] * len(held))
    counts = [examples if metrics is not None and next(taken) else 0 for examples, metrics in groups]
    return [count / max(1, sum(counts)) for count in counts]


def _holds(state: Federation, metrics: Metrics) -> bool:
    return passes(state.gate, state.metric, metrics, state.current.metrics, state.current.bar)[0]


def gated(state: Federation, updates: int, metrics: Metrics) -> Decision:
    """Whether a round's result becomes the current model, from what it scored."""
    accept, reason = passes(state.gate, state.metric, metrics, state.current.metrics, state.current.bar)
    parts = f"{state.policy.name} of {updates} {'update' if updates == 1 else 'updates'}"
    return Decision(accept, f"{parts}: {reason}", None, metrics)


def closed(
    state: Federation,
    current: Round,
    decided: Decision,
    shares: Sequence[float],
    model: Blob,
    sets: Sequence[Blob],
    bearing: Bearing | None = None,
    examples: int | None = None,
    groups: Sequence[GroupSum] = (),
) -> RoundAccepted:
    """The end of a round whose result becomes current.

    Args:
        shares: How much of each of `in_order(current)` is in the result; none under masks.
        model: The result's file.
        sets: Files of the server optimizer's state.
        bearing: How they lie to each other, where evidence was agreed.
        examples: Under masks: how many images all of them were trained on.
        groups: Under masks with several groups: what came of each.
    """
    said = _closing(state, current, decided, shares, bearing, examples, groups)
    return RoundAccepted(**said, model=model, state=tuple(sets))


def closed_empty(
    state: Federation,
    current: Round,
    decided: Decision,
    shares: Sequence[float] | None = None,
    bearing: Bearing | None = None,
    examples: int | None = None,
    groups: Sequence[GroupSum] = (),
) -> RoundRefused:
    """The end of a round that changes nothing.

    Args:
        shares, bearing, examples, groups: As in `closed`; None when there is no result.
    """
    return RoundRefused(**_closing(state, current, decided, shares, bearing, examples, groups))


def finished(state: Federation) -> Finished | None:
    """The end of the federation, when all sessions or rounds that were agreed are done."""
    if state.finished:
        return None
    if not state.all_sessions_done():
        return _spent(state)
    if state.policy.rounds:
        return Finished(reason=f"{state.rounds} {'round' if state.rounds == 1 else 'rounds'} closed, as agreed")
    sessions = f"{state.sessions} {'session' if state.sessions == 1 else 'sessions'}"
    return Finished(reason=f"every site has trained {sessions}")


def _spent(state: Federation) -> Finished | None:
    """The end of the federation, when too few sites have privacy budget left for a round that they could train."""
    enough = can_open(state.policy, [site.name for site in state.sites]) if state.policy.rounds else False
    if state.round is not None or not enough or can_open(state.policy, state.able):
        return None
    left = len(state.able)
    return Finished(reason=f"{left} of {len(state.sites)} sites have privacy budget left, too few for a round")


def evidence_agreed(state: Federation) -> bool:
    """Whether the ends of rounds tell how their updates lie to each other."""
    return known(state.genesis.evidence, "off") == "on"


def in_order(current: Round) -> list[Update]:
    """A round's updates by name of their sites: the sum must not depend on who was first."""
    return sorted(current.updates, key=lambda update: update.site)


def _found(state: Federation, decided: Decision) -> dict[str, Any]:
    """The margin that what was accepted had to have, where the gate finds one."""
    margin = state.gate.found_margin(decided)
    return {} if margin is None else {"margin": margin}


def _closing(
    state: Federation,
    current: Round,
    decided: Decision,
    shares: Sequence[float] | None,
    bearing: Bearing | None,
    examples: int | None,
    groups: Sequence[GroupSum],
) -> dict[str, Any]:
    updates = in_order(current)
    each: Sequence[float | None] = shares or [None] * len(updates)
    evidence: list[dict[str, Any]] = [{"length": length, "cosine": cosine} for length, cosine in bearing or ()] or [
        {} for _ in updates
    ]
    total: dict[str, Any] = {} if examples is None else {"examples": examples}
    total |= {"groups": tuple(groups)} if groups else {}
    return (
        _found(state, decided)
        | total
        | {
            "round": current.number,
            "metrics": None if state.gate.hides(decided) else told(state.gate, decided.metrics),
            "current_metrics": state.current.metrics,
            "against": state.current.of,
            "updates": tuple(
                Part(site=update.site, record=update.record, examples=update.examples, share=share, **more)
                for update, share, more in zip(updates, each, evidence, strict=True)
            ),
            "missing": current.missing,
            "reason": decided.reason,
        }
    )
