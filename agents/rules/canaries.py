"""What canaries say of a training: how much privacy it cannot have. Pure.

A canary is an example of which a coin decided, by itself, whether it was trained on (Steinke, Nasr and Jagielski 2023,
NeurIPS, algorithm 1). Whoever has the model guesses how the coins fell, by a score, and keeps still about those of
which the score says least. Of a training that is (epsilon, delta) differentially private, of m canaries and r guesses,
at least v are right with a probability of at most (theorem 5.2; numbers as in their appendix D)

    P[B >= v] + 2 m delta max over i in 1..m of P[v > B >= v - i] / i

where B is how often r draws of probability 1 / (1 + exp(-epsilon)) succeed, so each epsilon for which that is below 5 %
is too small. The bound is one from below: no score that tells nothing is a proof that nothing can be told. It takes
coins for independent, and nothing else.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fedssh.rules.membership import Known, area, area_interval

CONFIDENCE = 0.95
SHARES = (1.0, 0.5, 0.25)  # of the canaries that are guessed; which one tells most is not known beforehand
STEP = 1e-4
MOST = 100.0  # of a bound; that of 10^43 guesses that are all right


@dataclass(frozen=True)
class Audited:
    """What canaries said.

    Attributes:
        canaries, inside: How many there are, and how many of them were trained on.
        auc: How often one that was scores above one that was not; guessing has 0.5.
        guesses, right: How many were guessed, and of how many rightly.
        epsilon: At delta, the training is private with no smaller one, at `confidence`.
    """

    canaries: int
    inside: int
    auc: Known
    guesses: int
    right: int
    epsilon: float
    delta: float
    confidence: float = CONFIDENCE

    def value(self) -> dict[str, Any]:
        """The same for programs."""
        return asdict(self)


def audited(scores: np.ndarray, inside: np.ndarray, delta: float) -> Audited:
    """What canaries say.

    The half of the guesses with the highest scores is guessed to be in, that with the lowest out. Tried are all
    `SHARES`, each at a third of what may go wrong (Bonferroni), and the one that says most is told.

    Args:
        scores: float [m], higher for those that look trained on; equal ones are guessed in their order.
        inside: bool [m], how the coins fell.
        delta: In 0..1.

    Raises:
        ValueError: There are none of a kind, or a score is not a finite number.
    """
    scores, inside = np.asarray(scores, np.float64), np.asarray(inside, bool)
    if not inside.any() or inside.all():
        raise ValueError(f"of {len(inside)} canaries {int(inside.sum())} were trained on, so nothing can be told apart")
    if not np.isfinite(scores).all():
        raise ValueError(f"{int((~np.isfinite(scores)).sum())} of {len(scores)} canaries score no finite number")
    order, tried = np.argsort(scores, kind="stable"), []
    for share in SHARES:
        each = max(1, int(share * len(order) / 2))
        right = int((~inside[order[:each]]).sum() + inside[order[-each:]].sum())
        bound = epsilon_at_least(len(order), 2 * each, right, delta, 1 - (1 - CONFIDENCE) / len(SHARES))
        tried.append((bound, 2 * each, right))
    bound, guesses, right = max(tried)
    members, others = scores[inside], scores[~inside]
    auc = Known(*area_interval(area(members, others), len(members), len(others)))
    return Audited(len(order), int(inside.sum()), auc, guesses, right, bound, delta)


def epsilon_at_least(
    canaries: int, guesses: int, right: int, delta: float, confidence: float = CONFIDENCE
) -> float:  # fmt: skip
    """A bound of epsilon from below, rounded down to `STEP`: a smaller one is ruled out at this confidence.

    Args:
        canaries: How many there are, in or out by a coin each.
        guesses: Of how many the coin was guessed.
        right: How many guesses were right.
        delta: In 0..1.
        confidence: In 0.5..1.
    """
    low, high = 0, round(MOST / STEP)
    if chance(canaries, guesses, right, 0.0, delta) >= 1 - confidence:
        return 0.0
    while high - low > 1:
        middle = (low + high) // 2
        ruled_out = chance(canaries, guesses, right, middle * STEP, delta) < 1 - confidence
        low, high = (middle, high) if ruled_out else (low, middle)
    return round(low * STEP, 4)


def chance(canaries: int, guesses: int, right: int, epsilon: float, delta: float) -> float:
    """How likely so many right guesses are at most, where a training is (epsilon, delta) differentially private.

    Raises:
        ValueError: More are right than guessed, or more guessed than there are.
    """
    if not 0 <= right <= guesses <= canaries:
        raise ValueError(f"{right} right of {guesses} guesses about {canaries} canaries")
    each = [_binomial(guesses, number, epsilon) for number in range(guesses + 1)]
    most = below = 0.0
    for number in range(1, right + 1):  # what is beyond `right` adds nothing, and is divided by more
        below += each[right - number]
        most = max(most, below / number)
    return min(1.0, math.fsum(each[right:]) + 2 * canaries * delta * most)


def _binomial(draws: int, number: int, epsilon: float) -> float:
    """P[B = number] of so many draws of 1 / (1 + exp(-epsilon))."""
    ways = math.lgamma(draws + 1) - math.lgamma(number + 1) - math.lgamma(draws - number + 1)
    right = -math.log1p(math.exp(-epsilon))
    return math.exp(ways + number * right + (draws - number) * (right - epsilon))
