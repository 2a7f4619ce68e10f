"""What a release scores at a site: whether it may be said, and which figures can be. Pure.

    genesis "site_scores"   "on": whoever trains says what each release that they take scores on their own validation
                            images; without it, nobody does, and what comes all the same is invalid

A score is the site's word: nobody else has these images. It decides nothing. Whoever says another one later is taken at
the later one.
"""

from __future__ import annotations

from typing import Any

from fedssh.rules.events import Measured, Scored
from fedssh.rules.federation import Federation
from fedssh.rules.gate import is_number
from fedssh.rules.metrics import CLASSES, task_of
from fedssh.rules.typed import known

MAX_LOSS = 1e6  # no loss of a network that somebody would release


def agreed(genesis: Any) -> bool:
    """Whether sites say what releases score there, as only classes can be; of a genesis record or its fields."""
    if isinstance(genesis, dict):
        said, spec = genesis.get("site_scores"), genesis["spec"]
    else:
        said, spec = known(genesis.site_scores, None), genesis.spec
    return bool(said == "on") and task_of(spec) == CLASSES


def objection(state: Federation, said: Scored) -> str | None:
    """Why a site's scores are not taken; None where they are.

    That the record it names is a release is checked by whoever can look it up.
    """
    if not agreed(state.genesis):
        return "no scores of sites were agreed"
    member = state.member(said.site)
    if member is None or member.revoked:
        return "revoked"
    if member.role != "site":
        return f"{said.site} is enrolled as {member.role}, which scores nothing"
    return absurd(said.metrics, said.examples)


def absurd(metrics: Measured, examples: int) -> str | None:
    """The first figure that no model can have; None where all can be."""
    if examples < 1:
        return f"a release cannot be scored on {examples} images"
    if not is_number(metrics.loss) or not 0 <= metrics.loss <= MAX_LOSS:
        return f"no release can score the loss {metrics.loss:.4g}"
    for name in ("accuracy", "balanced_accuracy"):
        value = getattr(metrics, name)
        if not is_number(value) or not 0 <= value <= 1:
            return f"no release can score the {name} {value:.4g}"
    return None
