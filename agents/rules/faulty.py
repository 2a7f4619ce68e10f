"""Which sites an operator should look at, from what the history says of what each of them sent. Pure, standard library.

    harm       the log of a model's holdout loss over that of the model that was current: 0.1 raises it by a tenth
    claims     what the site says that its model scores, less what it scored on the holdout
    refused    models that were refused, against the other sites'
    invalid    bundles that could not be judged, against the other sites'
    against    in rounds, where `evidence` was agreed: how far an update points away from the others, 1 - cosine
    length     in rounds, likewise: the log of an update's length over the middle one of its round

Nobody is accused: data of another kind, a broken scanner and a hostile site look alike from here. What is compared are
the sites of one federation, each by the median over all that it sent. A site is worth a look by a measure where it is

    far        more than `FAR` robust standard deviations beyond the sites' median: 1.4826 times the median absolute
               deviation, and no less than the measure's `grain` (the modified z-score of Iglewicz and Hoaglin 1993)
    alone      from the next site by `ALONE` of the way to the farthest: sites that differ are spread, one that is
               faulty stands by itself (the ratio r10 of Dixon 1950)
    constant   the worst of all more often than one of n would be by chance: a binomial test

and for counts by Fisher's exact test against the others: all together, each with at most as many as the middle one of
all sites sent, at its own share, so that who sends more than others is no more of what they are held against; or the
middle one of their shares, where that is the larger one. p-values are Holm's over all sites and rules of a federation,
as in `differing`, held to `LEVEL`. The time they take grows with what was sent, and not with its square.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import NamedTuple

from fedssh.rules.differing import holm, log_choose

LEVEL, FAR, ALONE = 0.01, 3.5, 0.75
LEAST_SITES = 3
NOTHING = 1e-16  # of a sum of probabilities
NORMAL = 1.4826  # of a normal distribution, the standard deviation in median absolute deviations


class Measure(NamedTuple):
    """What is compared: differences below `grain` are nothing, and above `floor` a site can be worth a look."""

    grain: float
    floor: float


MEASURES = {
    "harm": Measure(0.02, 0.05), "claims": Measure(0.02, 0.1), "against": Measure(0.05, 0.8),
    "length": Measure(0.1, math.log(2)),
}  # fmt: skip


@dataclass
class Sent:
    """What one site sent.

    Attributes:
        values: By measure, of each thing that it sent in order; higher is worse.
        models, refused: Models that were judged by themselves, and how many of them were refused.
        bundles, invalid: All bundles, and how many could not be judged.
    """

    values: dict[str, list[float]] = field(default_factory=dict)
    models: int = 0
    refused: int = 0
    bundles: int = 0
    invalid: int = 0


@dataclass(frozen=True)
class Finding:
    """Why a site is worth a look.

    Attributes:
        rule: A name from above.
        p: After the correction.
        own, others: The site's median, and that of the other sites' medians; of counts the shares compared.
        of: How many things it sent.
    """

    rule: str
    p: float
    own: float
    others: float
    of: int


def findings(sent: Mapping[str, Sent]) -> dict[str, list[Finding]]:
    """By site what is worth a look; sites of which nothing is are left out.

    Below three sites that sent anything, there is no telling who differs from whom.
    """
    tried: list[tuple[str, Finding]] = []
    for rule, measure in MEASURES.items():
        tried += _apart(rule, measure, {site: one.values[rule] for site, one in sent.items() if one.values.get(rule)})
    tried += _counts("refused", {site: (one.refused, one.models) for site, one in sent.items() if one.models})
    tried += _counts("invalid", {site: (one.invalid, one.bundles) for site, one in sent.items() if one.bundles})
    found: dict[str, list[Finding]] = {}
    for (site, one), p in zip(tried, holm([one.p for _, one in tried]), strict=True):
        if p < LEVEL:
            found.setdefault(site, []).append(Finding(one.rule, p, one.own, one.others, one.of))
    return found


def _apart(rule: str, measure: Measure, values: Mapping[str, Sequence[float]]) -> list[tuple[str, Finding]]:
    """Each site by one measure; those that are not far and alone have p = 1."""
    if len(values) < LEAST_SITES:
        return []
    middles = {site: median(of) for site, of in values.items()}
    centre = median(middles.values())
    spread = max(NORMAL * median(abs(one - centre) for one in middles.values()), measure.grain)
    ordered, found = sorted(middles.values()), []
    for site, own in middles.items():
        least, most = ordered[own == ordered[0]], ordered[-1 - (own == ordered[-1])]  # of the others
        apart = max(most - least, measure.grain)
        far = own - centre > FAR * spread and own > measure.floor
        alone = own - most > ALONE * (own - most + apart)
        p = _constantly_worst(site, values) if far and alone else 1.0
        found.append((site, Finding(rule, p, own, _median_without(own, ordered), len(values[site]))))
    return found


def _median_without(own: float, ordered: Sequence[float]) -> float:
    """The median of sorted numbers but for one of them."""
    place, rest = bisect_left(ordered, own), len(ordered) - 1
    low, high = (ordered[of + (of >= place)] for of in ((rest - 1) // 2, rest // 2))
    return low if low == high else (low + high) / 2


def _constantly_worst(site: str, values: Mapping[str, Sequence[float]]) -> float:
    """How probable it is to be the worst so often by chance, among sites that are alike."""
    own = values[site]
    most, others = [-math.inf] * len(own), [0] * len(own)  # by turn
    for name, of in values.items():
        if name != site:
            for turn, (value, before) in enumerate(zip(of, most, strict=False)):
                others[turn] += 1
                most[turn] = max(value, before)
    worst = sum(one > other for one, other, count in zip(own, most, others, strict=True) if count)
    turns = [count for count in others if count]
    return at_least(worst, len(turns), 1 / (min(turns) + 1)) if turns else 1.0


def _counts(rule: str, counts: Mapping[str, tuple[int, int]]) -> list[tuple[str, Finding]]:
    """Each site's share of something bad against that of the others."""
    if len(counts) < LEAST_SITES:
        return []
    most = median(of for _, of in counts.values())
    capped = {site: (bad * min(1.0, most / of), min(of, most)) for site, (bad, of) in counts.items()}
    all_bad, every = (math.fsum(column) for column in zip(*capped.values(), strict=True))
    ordered = sorted(bad / of for bad, of in counts.values())
    found = []
    for site, (bad, of) in counts.items():
        own_bad, own_of = capped[site]
        other_of = round(every - own_of)
        share = max((all_bad - own_bad) / (every - own_of), _median_without(bad / of, ordered))
        p = more(bad, of, min(round(share * other_of), other_of), other_of)
        found.append((site, Finding(rule, p, bad / of, share, of)))
    return found


def at_least(successes: int, of: int, chance: float) -> float:
    """The probability of so many successes or more, in some hundred steps also where there are a million.

    Args:
        chance: Of each; above 0 and below 1.
    """
    odds = chance / (1 - chance)
    if successes > (of + 1) * chance:  # from here on each number is less probable than the one before
        return _sum(
            log_choose(of, successes) + successes * math.log(chance) + (of - successes) * math.log1p(-chance),
            ((of - k) / (k + 1) * odds for k in range(successes, of)),
        )
    if successes < 1:
        return 1.0
    last = successes - 1
    fewer = _sum(
        log_choose(of, last) + last * math.log(chance) + (of - last) * math.log1p(-chance),
        (k / (of - k + 1) / odds for k in range(last, 0, -1)),
    )
    return max(0.0, 1 - fewer)


def more(bad: int, of: int, other_bad: int, other_of: int) -> float:
    """The one-sided p-value of Fisher's exact test that the first share is no larger than the second."""
    together, every = bad + other_bad, of + other_of
    whole = log_choose(every, together)

    def log(k: int) -> float:
        return log_choose(of, k) + log_choose(other_of, together - k) - whole

    good = other_of - together  # of the others, but for k
    if bad * (every + 2) > (of + 1) * (together + 1):  # beyond the most probable number
        ratios = ((of - k) / (k + 1) * ((together - k) / (good + k + 1)) for k in range(bad, min(of, together)))
        return _sum(log(bad), ratios)
    low = max(0, -good)
    if bad <= low:
        return 1.0
    ratios = (k / (of - k + 1) * ((good + k) / (together - k + 1)) for k in range(bad - 1, low, -1))
    return max(0.0, 1 - _sum(log(bad - 1), ratios))


def _sum(log: float, ratios: Iterable[float]) -> float:
    """exp(log) times 1 + r1 + r1 r2 + ..., until what is left cannot be seen; ratios below 1 that become smaller."""
    total = term = 1.0
    for ratio in ratios:
        term *= ratio
        total += term
        if term * ratio < NOTHING * total * (1 - ratio):
            break
    return min(1.0, math.exp(min(0.0, log + math.log(total))))
