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

and for counts by Fisher's exact test against all others together. p-values are Holm's over all sites and rules of a
federation, as in `differing`, held to `LEVEL`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import NamedTuple

from fedssh.rules.differing import holm

LEVEL, FAR, ALONE = 0.01, 3.5, 0.75
LEAST_SITES = 3
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
        own, others: The site's median, and that of the other sites' medians; of counts the shares.
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
    found = []
    for site, own in middles.items():
        rest = [one for other, one in middles.items() if other != site]
        apart = max(max(rest) - min(rest), measure.grain)
        far = own - centre > FAR * spread and own > measure.floor
        alone = own - max(rest) > ALONE * (own - max(rest) + apart)
        p = _constantly_worst(site, values) if far and alone else 1.0
        found.append((site, Finding(rule, p, own, median(rest), len(values[site]))))
    return found


def _constantly_worst(site: str, values: Mapping[str, Sequence[float]]) -> float:
    """How probable it is to be the worst so often by chance, among sites that are alike."""
    worst, p = 0, 1.0
    chances: list[float] = []
    for turn, own in enumerate(values[site]):
        others = [of[turn] for name, of in values.items() if name != site and turn < len(of)]
        if others:
            worst += own > max(others)
            chances.append(1 / (len(others) + 1))
    if chances:
        p = at_least(worst, len(chances), max(chances))
    return p


def _counts(rule: str, counts: Mapping[str, tuple[int, int]]) -> list[tuple[str, Finding]]:
    """Each site's share of something bad against that of all others together."""
    if len(counts) < LEAST_SITES:
        return []
    bad, every = (sum(column) for column in zip(*counts.values(), strict=True))
    return [
        (site, Finding(rule, more(own, of, bad - own, every - of), own / of, (bad - own) / (every - of), of))
        for site, (own, of) in counts.items()
    ]


def at_least(successes: int, of: int, chance: float) -> float:
    """The probability of so many successes or more."""
    return min(
        1.0, math.fsum(math.comb(of, k) * chance**k * (1 - chance) ** (of - k) for k in range(successes, of + 1))
    )


def more(bad: int, of: int, other_bad: int, other_of: int) -> float:
    """The one-sided p-value of Fisher's exact test that the first share is no larger than the second."""
    together, every = bad + other_bad, of + other_of
    ways = math.comb(every, together)
    return math.fsum(
        math.comb(of, k) * math.comb(other_of, together - k) / ways for k in range(bad, min(of, together) + 1)
    )
