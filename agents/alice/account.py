"""What this site has spent of its privacy: written down, durably, before it is spent.

    state/privacy.json   {"charges":[{"genesis","session","unit","noise","rate","steps","delta","time"}, …]}

Every charge of every federation stands here, in order. They are about the same images, so what one federation got is
spent for all; joining another, going back to an older model or starting a session again gives nothing back. Whoever
removes the file begins a new account, and only the history of the coordinator knows better.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedssh.errors import SettingsError, UntrustedError
from fedssh.files import write_whole
from fedssh.forms import canonical
from fedssh.rules.events import Spent
from fedssh.rules.plan import Plan
from fedssh.rules.privacy import POISSON, Charge, Privacy, charge_of, epsilon

FILE = "privacy.json"


@dataclass(frozen=True)
class Charged:
    """A charge that is written down.

    Attributes:
        genesis, session: What it was for.
        unit: Of what one more or less is hidden.
        noise, rate, steps: As of `rules.privacy.Charge`.
        delta: At which it was counted then.
        time: When.
    """

    genesis: str
    session: int
    unit: str
    noise: float
    rate: float
    steps: int
    delta: float
    time: str

    @property
    def charge(self) -> Charge:
        """What was taken."""
        return Charge(self.noise, self.rate, self.steps)


def load(state: Path) -> list[Charged]:
    """Read what is charged, in order; nothing at the first start.

    Raises:
        SettingsError: The file is not one that Alice wrote. What is spent is not guessed.
    """
    path = state / FILE
    try:
        found = [Charged(**one) for one in json.loads(path.read_bytes())["charges"]]
        if not all(one.noise > 0 and 0 < one.rate <= 1 and one.steps > 0 for one in found):
            raise ValueError("a charge is out of range")
        return found
    except FileNotFoundError:
        return []
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        hint = "put it back from a copy; without it nobody knows what is spent"
        raise SettingsError(f"{path} cannot be read: {error}", hint) from None


def budget_of(privacy: Privacy, own: float | None) -> float:
    """What may be spent: the smaller of what is agreed and what this site allows."""
    return privacy.budget if own is None else min(own, privacy.budget)


def price(privacy: Privacy, charged: Sequence[Charged], charge: Charge, own: float | None = None) -> Spent:
    """What would be spent after a session, and after one more like it.

    Raises:
        SettingsError: The account is in other units, so nothing can be added to it; or dp-accounting is not installed.
    """
    if other := next((one.unit for one in charged if one.unit != privacy.unit), None):
        raise SettingsError(
            f"the account of this site counts in units of one {other}, the federation hides one {privacy.unit}",
            "what was spent on one is not known in the other; give this federation a --state and images of its own",
        )
    before = [one.charge for one in charged]
    return Spent(
        unit=privacy.unit,
        sampling=POISSON,
        clip=privacy.clip,
        noise=privacy.noise,
        rate=charge.rate,
        steps=charge.steps,
        delta=privacy.delta,
        spent=epsilon([*before, charge], privacy.delta),
        next=epsilon([*before, charge, charge], privacy.delta),
        budget=budget_of(privacy, own),
    )


def spend(
    state: Path, privacy: Privacy, charge: Charge, genesis: str, session: int, time: str, own: float | None = None
) -> tuple[float, Spent]:
    """Charge a session before it is trained; what was spent before it, and after.

    When this returns, the charge is on the disk, whatever becomes of the session.

    Raises:
        UntrustedError: It would be more than may be spent. Nothing is charged.
        SettingsError: As of `load` and `price`.
        OSError: The disk is full or read-only. Nothing is charged, and nothing may be trained.
    """
    charged = load(state)
    before = epsilon([one.charge for one in charged], privacy.delta)
    found = price(privacy, charged, charge, own)
    if found.spent > found.budget:
        whose = "this site's (--privacy-budget)" if own is not None and own < privacy.budget else "the plan's"
        left = max(0.0, found.budget - before)
        raise UntrustedError(
            f"session {session} is not trained: epsilon {before:.4f} is spent of a budget of {found.budget:g}, "
            f"{whose}, {left:.4f} is left, and the session would take it to {found.spent:.4f}",
            "`alice privacy` shows the account; what was trained so far stays in the federation's model",
        )
    one = Charged(
        genesis, session, privacy.unit, charge.noise, charge.rate, charge.steps, privacy.delta, time
    )  # fmt: skip
    lines = [dataclasses.asdict(each) for each in (*charged, one)]
    write_whole(state / FILE, canonical({"charges": lines}) + b"\n")
    return before, found


def shown(charged: Sequence[Charged], plan: Plan | None, examples: int | None, own: float | None) -> dict[str, Any]:
    """What is spent and left, and what the next session costs, by name; None where nobody can know it yet.

    Args:
        plan: Of the federation that is agreed to; None where there is none yet.
        examples: Images to train on; None is as many as were charged for last. An agreed rate needs none.
        own: This site's budget.

    Raises:
        SettingsError: As of `price`.
    """
    privacy = plan.privacy if plan else None
    delta = privacy.delta if privacy else charged[-1].delta if charged else None
    spent = epsilon([one.charge for one in charged], delta) if delta else 0.0
    budget = budget_of(privacy, own) if privacy else own
    after, charge = None, None
    if plan and privacy and (examples or privacy.rate is not None):
        charge = charge_of(privacy, examples or 1, plan.batch_size, plan.epochs)
    elif privacy and charged:
        charge = dataclasses.replace(charged[-1].charge, noise=privacy.noise)
    if privacy and charge:
        after = price(privacy, charged, charge, own).spent
    return {
        "unit": privacy.unit if privacy else charged[-1].unit if charged else None,
        "delta": delta,
        "sessions": len(charged),
        "spent": spent,
        "budget": budget,
        "left": None if budget is None else round(max(0.0, budget - spent), 4),
        "price": None if after is None else round(after - spent, 4),
        "after": after,
        "refused": after is not None and budget is not None and after > budget,
    }
