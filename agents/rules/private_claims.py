"""Whether what a site says it has spent can be so: by the plan, by its history, and by what its steps cost. Pure.

`objection` needs nothing but the history, so everybody recomputes it who follows one. What steps cost is `owed`; that
takes dp-accounting, so the coordinator's judge counts it, and whoever has that library.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedssh.rules.events import Local, Spent
from fedssh.rules.federation import Federation
from fedssh.rules.privacy import NEAR, POISSON, Charge, Privacy, charge_of, read_privacy
from fedssh.rules.typed import Absent


def agreed(plan: Mapping[str, Any]) -> Privacy | None:
    """What a plan, as it stands in genesis, says of privacy."""
    return read_privacy(plan["privacy"]) if plan.get("privacy") is not None else None


def objection(
    state: Federation, site: str, examples: int, epoch: int, claim: Local | None, said: Spent | Absent
) -> str:
    """What is wrong with a claim about privacy, or the lack of one; empty when nothing is.

    Args:
        examples, epoch, claim, said: As the submission says; `claim` is what was measured.
    """
    wanted = agreed(state.genesis.plan)
    if state.policy.masked and (examples or claim is not None):
        return "under masks nobody tells what a single update scores, or on how many images it was trained"
    if wanted is None and state.policy.masked:
        return "it tells of privacy, and none was agreed" if isinstance(said, Spent) else ""
    if wanted is None:
        if isinstance(said, Spent):
            return "it tells of privacy, and none was agreed"
        return "" if claim is not None else "it does not say what it scored at the site"
    if not isinstance(said, Spent):
        return "privacy was agreed, and it does not say what was spent"
    if claim is not None:
        return "privacy was agreed, and it tells what it scored on the site's images"
    return _terms(wanted, said) or _steps(state, wanted, examples, epoch, said) or _amounts(state, site, wanted, said)


def owed(state: Federation, site: str, said: Spent) -> tuple[list[Charge], list[Charge]]:
    """What a site has taken, with what it sends now, and the same with one more session like it."""
    before = state.spent.get(site)
    charges = [Charge(said.noise, rate, steps) for rate, steps in (before.charges if before else ())]
    own = Charge(said.noise, said.rate, said.steps)
    return [*charges, own], [*charges, own, own]


def understated(site: str, said: Spent, spent: float, after: float) -> str:
    """What is wrong with the amounts that a site says, by what they are; empty when nothing is.

    Args:
        spent, after: Epsilon of what is `owed`.
    """
    for word, found, least in (("spent", said.spent, spent), ("spent after one more session", said.next, after)):
        if found < least * (1 - NEAR):
            return f"{site} says epsilon {found:.4f} is {word}, and its sessions here come to {least:.4f}"
    return ""


def _terms(wanted: Privacy, said: Spent) -> str:
    for name in ("unit", "clip", "noise", "delta"):
        if (found := getattr(said, name)) != (right := getattr(wanted, name)):
            return f"its privacy has the {name} {found}, agreed is {right}"
    if said.sampling != POISSON:
        return f"its sampling is {said.sampling[:40]!r}, expected {POISSON}"
    return ""


def _steps(state: Federation, wanted: Privacy, examples: int, epoch: int, said: Spent) -> str:
    if (examples < 1 and wanted.rate is None) or epoch < 1:
        return f"a session of {epoch} epochs on {examples} images is none"
    right = charge_of(wanted, examples, int(state.genesis.plan["batch_size"]), epoch)
    if (said.rate, said.steps) != (right.rate, right.steps):
        found = f"{said.steps} steps at a rate of {said.rate:.6g}"
        if wanted.rate is not None:
            return f"it tells of {found}, agreed are {right.steps} at {right.rate:.6g}"
        return f"it tells of {found}, {examples} images make {right.steps} at {right.rate:.6g}"
    return ""


def _amounts(state: Federation, site: str, wanted: Privacy, said: Spent) -> str:
    if said.budget > wanted.budget:
        return f"{site} has a budget of {said.budget:g}, agreed is at most {wanted.budget:g}"
    if said.spent > said.budget:
        return f"{site} has spent epsilon {said.spent:.4f}, its budget is {said.budget:g}"
    before = state.spent.get(site)
    if before is not None and said.spent < before.spent:
        return f"{site} says epsilon {said.spent:.4f} is spent, and said {before.spent:.4f} before"
    if said.next < said.spent:
        return f"{site} says one more session takes what is spent from {said.spent:.4f} to {said.next:.4f}"
    return ""
