"""Whether two sets of images say the same of a model, or differ by more than chance. Pure, standard library only.

Accuracy and the recall of each class are compared by Fisher's exact test of two shares (Fisher 1935; two-sided, by the
probability of the tables, as in Agresti 2013, section 3.5), which holds for few images as for many. With so many
comparisons the smallest p-values are held to more: Holm 1979. What remains below 0.05 is more than chance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from fedssh.rules.figures import shares

Row = dict[str, Any]
Table = Sequence[Sequence[int]]
LEVEL = 0.05
SHOWN = 4  # comparisons in a sentence
TEST = "Fisher's exact test with Holm's correction"


def compared(holdout: Table, other: Table, names: Sequence[str] | None, other_name: str = "test") -> Row:
    """What a model's tables on the holdout and on other images have to say to each other.

    Args:
        holdout, other: Counts, a row per true and a column per predicted class.
        names: What the classes are called, in label order; None are numbers.
        other_name: What the other images are called, in the sentence.

    Returns:
        `differs`, `sentence`, and `comparisons` with `of`, `holdout`, `other`, and `p` after the correction.
    """
    called = list(names) if names else [str(label) for label in range(len(holdout))]
    mine, theirs = ({one["of"]: one for one in shares(table, called) if one["right"] is not None}
                    for table in (holdout, other))  # fmt: skip
    both = [(mine[of], theirs[of]) for of in mine if of in theirs]
    plain = [fisher(a["right"], a["images"], b["right"], b["images"]) for a, b in both]
    found = [
        {"of": a["of"], "holdout": a["value"], "other": b["value"], "p": p}
        for (a, b), p in zip(both, holm(plain), strict=True)
    ]
    beyond = [one for one in found if one["p"] < LEVEL]
    return {
        "differs": bool(beyond),
        "sentence": _differ(beyond, other_name) if beyond else _agree(holdout, other, found, other_name),
        "comparisons": found,
        "by": TEST,
    }


def fisher(right: int, of: int, other_right: int, other_of: int) -> float:
    """The two-sided p-value of Fisher's exact test that two shares are the same."""
    together, every = right + other_right, of + other_of
    low, high = max(0, together - other_of), min(of, together)
    whole = log_choose(every, together)
    logs = [log_choose(of, k) + log_choose(other_of, together - k) - whole for k in range(low, high + 1)]
    observed = logs[right - low] + 1e-7
    return min(1.0, math.fsum(math.exp(log) for log in logs if log <= observed))


def holm(values: Sequence[float]) -> list[float]:
    """p-values corrected for their number, each at least as large as those that were smaller."""
    corrected, least = [0.0] * len(values), 0.0
    for rank, place in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        least = max(least, min(1.0, values[place] * (len(values) - rank)))
        corrected[place] = least
    return corrected


def log_choose(of: int, chosen: int) -> float:
    """The logarithm of the number of ways to choose so many of so many."""
    return math.lgamma(of + 1) - math.lgamma(chosen + 1) - math.lgamma(of - chosen + 1)


def _differ(beyond: Sequence[Row], other: str) -> str:
    parts = [f"{one['of']} {one['holdout']:.3f} against {one['other']:.3f} ({_p(one['p'])})" for one in beyond[:SHOWN]]
    more = f" and {len(beyond) - SHOWN} more" if len(beyond) > SHOWN else ""
    return f"the holdout does not speak for the {other} images: {', '.join(parts)}{more}; {TEST}"


def _agree(holdout: Table, other: Table, found: Sequence[Row], name: str) -> str:
    mine, theirs = (sum(map(sum, table)) for table in (holdout, other))
    least = min((one["p"] for one in found), default=1.0)
    return (
        f"holdout and {name} images do not differ by more than chance, as far as {mine:,} and {theirs:,} images can "
        f"tell (accuracy and recalls, least {_p(least)}; {TEST})"
    )


def _p(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"
