"""The sites of a federation in memory whose updates are summed under masks: what they say on the board.

It is said by the same code as in the rooms. Only the vectors are summed as they are: masks cancel, so the same comes
out to the bit, and in one process there is nobody to hide them from.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence

import numpy as np

from experiments.engines.memory.models import Weights
from fedssh.masks.numbers import Fixed
from fedssh.masks.site import MaskedRound
from fedssh.rules.events import Masks
from fedssh.rules.federation import Federation
from fedssh.rules.policies import Policy

GENESIS = hashlib.sha256(b"a federation in memory").hexdigest()


class Sites:
    """All of them. Their secrets follow from their names, and nothing is signed: there is nobody to be deceived."""

    def __init__(self) -> None:
        self._rounds: dict[tuple[str, int], MaskedRound] = {}

    def say(self, state: Federation, submission: str) -> Masks | None:
        """What one of them says next; None where nothing is due."""
        if not state.policy.masked or state.finished or state.all_sessions_done():
            return None
        for site in (one.name for one in state.sites):
            if (found := self._said(state, site, submission)) is not None:
                return found
        return None

    def _said(self, state: Federation, site: str, submission: str) -> Masks | None:
        release = state.release.sequence if state.release else 0
        masking = state.round.group(site) if state.round else None
        if masking is not None:
            place = site, masking.roster.adverts[0].round
            mine = self._rounds[place] = dataclasses.replace(self._rounds[place], roster=masking.roster)
            if masking.partners is None and site not in masking.shares:
                return Masks(site=site, submission=submission, builds_on=release, shares=mine.shares())
            if site in (masking.arrived or ()) and masking.confirmed is None and site not in masking.agreed:
                return Masks(site=site, submission=submission, builds_on=release, agreed="not signed in memory")
            if masking.confirmed and site in (masking.partners or ()) and site not in masking.answers:
                given = {name: masking.shares[name] for name in masking.partners or ()}
                self._rounds[place], answer = mine.answer(masking.arrived or (), given, masking.confirmed)
                return Masks(site=site, submission=submission, builds_on=release, answer=answer)
            if masking.answers.keys() != set(masking.partners or ()):
                return None
        number, before = state.next_round, state.adverts.get(site)
        if (before is not None and before.round >= number) or (state.sessions is not None and number > state.sessions):
            return None
        secret = hashlib.sha256(f"{site}/{number}".encode()).digest()
        mine = self._rounds[site, number] = MaskedRound(GENESIS, number, site, secret)
        return Masks(site=site, submission=submission, builds_on=release, advert=mine.unsigned())


def summed(
    policy: Policy, sites: int, start: Weights, updates: Sequence[Weights], examples: Sequence[int]
) -> tuple[Weights, int]:
    """The mean of updates as it comes out under masks, and of how many images it is.

    Args:
        sites: Of the roster.
        start: What they were trained from.
        examples: Of each update.
    """
    fixed = Fixed.agreed(policy, sites)
    total = np.zeros(sum(array.size for array in start.values()) + 1, np.uint32)
    for update, count in zip(updates, examples, strict=True):
        steps = np.concatenate([(update[name].astype(np.float64) - array).ravel() for name, array in start.items()])
        total += np.frombuffer(fixed.write(steps, min(count, policy.cap)), "<u4")
    steps, of = fixed.read(total.tobytes(), len(updates))
    ends = np.cumsum([array.size for array in start.values()])
    pairs = zip(start.items(), ends, strict=True)
    return {
        name: (array.astype(np.float64) + steps[end - array.size : end].reshape(array.shape)).astype(np.float32)
        for (name, array), end in pairs
    }, of
