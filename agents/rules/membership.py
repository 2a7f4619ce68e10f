"""How well somebody who has a model can say which images it was trained on: membership inference. Pure.

An attack gives each image a score, higher where it takes it for a member of the training images. What is told of it is
how it does on images of which the truth is known:

    auc          how often a member scores above a non-member, half of the equal ones counted; guessing has 0.5
    advantage    true minus false positives at the attack's own threshold (Yeom et al. 2018, definition 4); 0
    tpr          of the members, those that score above all but a share `fpr` of the non-members (Carlini et al. 2022,
                 section III); guessing has `fpr`

Intervals are of 95 %, and closed formulas, so the same images give the same bits and a perfect attack has an interval,
too, where a bootstrap repeats it and DeLong's variance is 0: of the area by Newcombe (2006, part 2, method 5), of
shares by Wilson, of the advantage by Newcombe (1998, method 10). They take images for independent, and each threshold
as given.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fedssh.rules.precision import Z, wilson

RATES = (0.01, 0.001)  # of false positives
LEAST_SPREAD = 1e-6  # of confidences: below it, shadow models say the same
OWN_SPREADS = 64  # shadow models from which on each image has variances of its own (Carlini et al. 2022, section VI-C)


@dataclass(frozen=True)
class Known:
    """A figure with its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Rate:
    """How many members are found at a rate of false positives.

    Attributes:
        fpr: The most that is allowed.
        wrong: How many non-members that is.
        tpr: The share of members that are found then.
    """

    fpr: float
    wrong: int
    tpr: Known


@dataclass(frozen=True)
class Attacked:
    """How an attack did."""

    members: int
    non_members: int
    auc: Known
    advantage: Known
    rates: tuple[Rate, ...]

    def value(self) -> dict[str, Any]:
        """The same for programs."""
        return asdict(self)


def attacked(members: np.ndarray, non_members: np.ndarray, threshold: float) -> Attacked:
    """How an attack did.

    Args:
        members, non_members: float [n] and [m], its scores of images that the model was trained on, and of others.
        threshold: From where on it says member, fixed without looking at the non-members.

    Raises:
        ValueError: There are none of a kind, or a score is not a finite number.
    """
    inside, outside = (np.asarray(scores, np.float64).reshape(-1) for scores in (members, non_members))
    for what, scores in (("members", inside), ("non-members", outside)):
        if not len(scores):
            raise ValueError(f"there are no {what}")
        if not np.isfinite(scores).all():
            raise ValueError(f"{int((~np.isfinite(scores)).sum())} of {len(scores):,} {what} score no finite number")
    found = Known(*area_interval(area(inside, outside), len(inside), len(outside)))
    true, false = (int((scores >= threshold).sum()) for scores in (inside, outside))
    gained = _difference(true, len(inside), false, len(outside))
    rates = tuple(_rate(inside, outside, fpr) for fpr in RATES)
    return Attacked(len(inside), len(outside), found, gained, rates)


def by_loss(members: np.ndarray, non_members: np.ndarray) -> Attacked:
    """The attack by a threshold on the loss (Yeom et al. 2018, adversary 1).

    Its threshold is the mean loss of the members, which the paper's adversary knows.

    Args:
        members, non_members: float [n] and [m], the losses.

    Raises:
        ValueError: As `attacked`.
    """
    known = float(-np.mean(members)) if len(members) else 0.0
    return attacked(-np.asarray(members, np.float64), -np.asarray(non_members, np.float64), known)


def area(members: np.ndarray, non_members: np.ndarray) -> float:
    """How often a member scores above a non-member, equal ones counted half: the Mann-Whitney statistic over n*m."""
    ordered = np.sort(non_members)
    below, up_to = (np.searchsorted(ordered, members, side) for side in ("left", "right"))
    return float(below.sum() + up_to.sum()) / (2 * len(members) * len(non_members))


def area_interval(found: float, members: int, non_members: int) -> tuple[float, float, float]:
    """An area under the curve with the ends of its interval (Newcombe 2006, part 2, method 5)."""
    pairs, half = members * non_members, (members + non_members) / 2 - 1

    def beyond(true: float) -> float:
        variance = true * (1 - true) * (1 + half * (1 - true) / (2 - true) + half * true / (1 + true)) / pairs
        return abs(found - true) - Z * math.sqrt(max(variance, 0.0))

    low = _root(beyond, 0.0, found) if found > 0 else 0.0
    high = _root(beyond, 1.0, found) if found < 1 else 1.0
    return found, low, high


def confidence(losses: np.ndarray) -> np.ndarray:
    """Losses as log-odds of the likelihood exp(-loss), which shadow models' are about normal of: float64 [n].

    Of classes that is log(p / (1 - p)) of the right one (Carlini et al. 2022, section IV-C).
    """
    clipped = np.clip(np.asarray(losses, np.float64), 1e-300, None)  # a loss that is 0 has no finite odds
    found: np.ndarray = -clipped - np.log(-np.expm1(-clipped))
    return found


def halves(shadows: int, examples: int, seed: int) -> np.ndarray:
    """Which examples each shadow model is trained on: bool [shadows, examples], every example in half of the models.

    Raises:
        ValueError: The number of models is odd, or below 4; or there are so few examples that a model has none.
    """
    if shadows < 4 or shadows % 2:
        raise ValueError(f"the number of shadow models is {shadows}, expected 4 or more, and even")
    order = np.random.default_rng(seed).random((shadows, examples)).argsort(axis=0)
    inside: np.ndarray = order < shadows // 2
    if not inside.any(axis=1).all():
        raise ValueError(f"{examples} examples are too few to train {shadows} shadow models on halves of them")
    return inside


def lira(seen: np.ndarray, inside: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """The likelihood ratio attack, online (Carlini et al. 2022, algorithm 1): log of the ratio, above 0 for members.

    Each example's confidences are normal, with one mean in models that were trained on it and one in the others. Below
    OWN_SPREADS models the two variances are those of all examples together.

    Args:
        seen: float64 [models, examples], confidences in shadow models, see `confidence`.
        inside: bool [models, examples], which model was trained on which, as of `halves`.
        observed: float64 [examples], confidences in the model that is attacked.

    Returns:
        float64 [examples].
    """
    said = []
    for trained in (inside, ~inside):
        count = trained.sum(axis=0)
        mean = np.where(trained, seen, 0).sum(axis=0) / count
        squares = np.where(trained, (seen - mean) ** 2, 0).sum(axis=0)
        shared = len(seen) < OWN_SPREADS
        variance = squares.sum() / (count - 1).sum() if shared else squares / (count - 1)
        variance = np.maximum(variance, LEAST_SPREAD)
        said.append(-((observed - mean) ** 2) / (2 * variance) - np.log(variance) / 2)
    found: np.ndarray = said[0] - said[1]
    return found


def chance(members: int, non_members: int) -> float:
    """How far from 0.5 the area of a model that tells nothing comes by chance, in 95 of 100 cases."""
    return Z * math.sqrt((members + non_members + 1) / (12 * members * non_members))


def rests_on(members: int, non_members: int, unit: str = "images") -> str:
    """On how many images it rests, and what these can tell, in a sentence."""
    least = f"{100 / non_members:.2g} %"
    unseen = [f"{100 * rate:g} %" for rate in RATES if rate * non_members < 1]
    cannot = f"; at {' and '.join(unseen)} that is none at all, so read nothing into these" if unseen else ""
    return (
        f"it rests on {members:,} members and {non_members:,} non-members: a model that tells nothing has an AUC of "
        f"0.5 ± {chance(members, non_members):.3f}, and the smallest step of the false positives is one of these "
        f"{unit}, {least}{cannot}"
    )


def too_telling(found: Attacked, limit: float) -> str | None:
    """Why a model must not leave; None when it may.

    It is held to the area that was found, not to an end of its interval: the lower end would let a site with few
    validation images send anything, the upper one nothing, and the middle errs in both directions alike.
    """
    if found.auc.value <= limit:
        return None
    auc = found.auc
    return (
        f"by its loss an attacker tells training from validation images with an AUC of {auc.value:.4f} "
        f"({auc.low:.2f} to {auc.high:.2f}), more than {limit:g} (--max-audit-auc)"
    )


def too_few(members: int, non_members: int, limit: float) -> str | None:
    """What to say where a limit is within what chance does to a model that tells nothing; None where it is not."""
    by_chance = chance(members, non_members)
    if 0.5 + by_chance <= limit:
        return None
    return (
        f"on {members:,} training and {non_members:,} validation images a model that tells nothing has an AUC of 0.5 ± "
        f"{by_chance:.3f} by chance, so --max-audit-auc {limit:g} will keep back such models, too"
    )


def _rate(members: np.ndarray, non_members: np.ndarray, fpr: float) -> Rate:
    wrong = math.floor(fpr * len(non_members) + 1e-9)  # 0.01 of 300 is 3
    above = np.sort(non_members)[::-1][wrong] if wrong < len(non_members) else -math.inf
    found = int((members > above).sum())
    return Rate(fpr, wrong, Known(found / len(members), *wilson(found, len(members))))


def _difference(true: int, members: int, false: int, non_members: int) -> Known:
    """A difference of two shares (Newcombe 1998, method 10)."""
    first, second = true / members, false / non_members
    (low, high), (least, most) = wilson(true, members), wilson(false, non_members)
    difference = first - second
    return Known(
        difference,
        max(-1.0, difference - math.hypot(first - low, most - second)),
        min(1.0, difference + math.hypot(high - first, second - least)),
    )


def _root(function: Callable[[float], float], outside: float, inside: float) -> float:
    """Where a function that is at least 0 at `outside` and at most 0 at `inside` is 0."""
    for _ in range(60):
        middle = (outside + inside) / 2
        outside, inside = (middle, inside) if function(middle) >= 0 else (outside, middle)
    return inside
