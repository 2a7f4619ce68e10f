"""How sure a mean is, and whether two ways differ: Student's t and exact sign flips. Pure, standard library only.

A seed is one observation. Means have the interval of Student's t at 95 %; differences are paired by seed, and their
p-value is that of the paired t-test. Beside it stands that of the exact permutation test by sign flips (Fisher 1935,
"The design of experiments", section 21), which assumes no normal distribution: with n seeds it is never below 2 / 2^n.

Not SciPy, because `scripts/compare` prints them in whatever Python a person has, which need have no package.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from statistics import fmean, stdev

SURE = 0.95
MOST_FLIPPED = 10  # seeds, 1,024 choices of signs


def half_width(values: Sequence[float]) -> float:
    """Half of the interval in which the mean of such values lies; two values or more."""
    return t_quantile((1 + SURE) / 2, len(values) - 1) * stdev(values) / math.sqrt(len(values))


def p_of_mean(values: Sequence[float]) -> float:
    """The two-sided p-value of the t-test that the mean of such values is 0; two values or more."""
    mean, error = fmean(values), stdev(values) / math.sqrt(len(values))
    if error == 0:
        return 1.0 if mean == 0 else 0.0
    return 2 * (1 - t_probability(abs(mean) / error, len(values) - 1))


def p_of_signs(values: Sequence[float]) -> float | None:
    """The two-sided p-value of the exact test by sign flips that the values lie around 0; None for too many."""
    if len(values) > MOST_FLIPPED:
        return None
    magnitudes = [abs(value) for value in values]
    observed = abs(math.fsum(values)) - 1e-12 * math.fsum(magnitudes)  # the same sum in another order counts, too
    signs = itertools.product((1, -1), repeat=len(values))
    sums = [abs(math.fsum(sign * one for sign, one in zip(flips, magnitudes, strict=True))) for flips in signs]
    return sum(one >= observed for one in sums) / len(sums)


def t_probability(t: float, freedom: int) -> float:
    """P(T <= t) for Student's t with so many degrees of freedom (Abramowitz and Stegun 1964, 26.7.3 and 26.7.4)."""
    angle = math.atan(abs(t) / math.sqrt(freedom))
    square, term, total = math.cos(angle) ** 2, 1.0, 0.0
    for power in range(1 if freedom % 2 == 0 else 2, freedom, 2):
        total += term
        term *= square * power / (power + 1)
    if freedom % 2 == 0:
        inside = math.sin(angle) * total
    else:
        inside = 2 / math.pi * (angle + math.sin(angle) * math.cos(angle) * total)
    return (1 + math.copysign(inside, t)) / 2


def t_quantile(probability: float, freedom: int) -> float:
    """The t with P(T <= t) = probability, above 1/2, to the last digits that a float has."""
    low, high = 0.0, 1.0
    while t_probability(high, freedom) < probability:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if t_probability(middle, freedom) < probability else (low, middle)
    return (low + high) / 2
