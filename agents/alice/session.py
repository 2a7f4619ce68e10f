"""The rules of a training session. Pure: no file, network or clock."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fedssh.rules.events import Local
from fedssh.rules.standing import Standing


class Patience:
    """When to stop early, by Keras' rule for the validation loss (EarlyStopping without a smallest difference).

    Args:
        epochs: After so many epochs in a row without a lower loss than the lowest so far, it is over.
    """

    def __init__(self, epochs: int) -> None:
        self._patience = epochs
        self._lowest: float | None = None
        self._waited = 0

    def over(self, loss: float) -> bool:
        """Take in an epoch's loss. NaN is not lower than anything; as the first one it leaves nothing to be lower."""
        if self._lowest is None or loss < self._lowest:
            self._lowest, self._waited = loss, 0
            return False
        self._waited += 1
        return self._waited >= self._patience


def improved(candidate: Local, best: Local) -> bool:
    """Whether both loss and accuracy (or mean absolute error) of a checkpoint are better than those of the best so far.

    An accuracy of 1 or an error of 0 cannot be beaten, so there it is enough to hold it. What is not a finite number is
    never better, and anything finite is better than that.
    """
    if not finite(candidate):
        return False
    if not finite(best):
        return True
    perfect = {"accuracy": 1.0, "mae": 0.0}[candidate.measure]
    more_accurate = candidate.gain > best.gain or candidate.value == best.value == perfect
    return more_accurate and candidate.loss < best.loss


@dataclass(frozen=True)
class Trained:
    """What this site has trained so far, as far as the rules need it.

    Attributes:
        sessions: How many sessions are over, in all.
        turns: `turns` of the release whose turn was used last; None before the first turn.
        passed: Whether the turn has been seen elsewhere since our last session.
    """

    sessions: int = 0
    turns: int | None = None
    passed: bool = True


@dataclass(frozen=True)
class Passed:
    """Where a site let its turn pass: the newest release then, and its count of turns."""

    sequence: int
    turns: int


def may_start(standing: Standing, site: str, trained: Trained) -> bool:
    """Whether this site may train now, from a release with this state of the federation.

    With the schedule `free` always. With `rounds` when the open round selected it, once a round, which `turns` counts.
    With `relay` in its turn, once: a release that was made before the coordinator had our last report still says that
    it is our turn. Its count of `turns` tells; without one, the turn must have been seen elsewhere in between.
    """
    turns = standing.started.turns
    if standing.schedule == "rounds":
        return in_round(standing, site) and turns != trained.turns
    if standing.schedule != "relay":
        return True
    if standing.turn != site:
        return False
    if turns is not None:
        return turns != trained.turns
    return trained.passed or standing.sites == (site,)


def in_round(standing: Standing, site: str) -> bool:
    """Whether there is an open round, and this site is selected for it."""
    return standing.open_round is not None and site in standing.open_round.sites


def is_over(standing: Standing, trained: Trained) -> bool:
    """Whether this site has nothing more to train: the federation is finished, or its sessions are trained."""
    return standing.finished or (standing.sessions is not None and trained.sessions >= standing.sessions)


def quiet(standing: Standing, sequence: int, before: Passed | None) -> bool:
    """Whether nobody seems to have trained since this site let its turn pass, so that there is no hurry to do so again.

    A turn that passes is two records, that it did and the release that says so; whoever trains makes more.

    Args:
        standing, sequence: Of the newest release.
        before: Where this site let its turn pass last, if it did.
    """
    now = standing.started.turns
    return before is not None and now is not None and sequence - before.sequence <= 2 * (now - before.turns)


def session_seed(seed: int, session: int) -> int:
    """The seed of one session: the same after a restart, another in every session."""
    return (seed * 1_000_003 + session) % 2**31


def finite(metrics: Local) -> bool:
    """Whether both are finite numbers."""
    return math.isfinite(metrics.loss) and math.isfinite(metrics.value)
