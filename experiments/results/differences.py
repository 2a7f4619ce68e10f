"""How far each way is from centralised training, with an interval: paired by seed and fold. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable
from statistics import fmean, stdev

from experiments.results.measure import Group, Measured

SURE = 0.95


def table_of_differences(measured: Measured) -> str:
    """The differences of a metric on the test split; a seed counts once, with the mean of its folds.

    Nothing where no run has two seeds and a centralised training beside it.
    """
    rows = []
    for group in measured.groups:
        metric = group.run.metric
        found = list(_by_seed(measured, group, metric))
        if len(found) > 1:
            ours, theirs = (fmean(pair) for pair in zip(*found, strict=True))
            differences = [one - other for one, other in found]
            share = f"{100 * fmean(differences) / theirs:+.1f} %" if theirs else "–"
            name = metric.replace("_", " ")
            interval = f"{fmean(differences):+.4f} ± {half_width(differences):.4f}"
            rows.append(
                f"| {group.label} | {name} | {ours:.4f} | {theirs:.4f} | {interval} | {share} | {len(found)} |\n"
            )
    if not rows:
        return ""
    return (
        "How far from centralised training on the test split, paired by seed and fold; a seed counts once, with the "
        "mean of its folds, and the interval is Student's t at 95 %:\n\n"
        "| run | metric | here | centralised | difference | of it | seeds |\n"
        "| --- | --- | --- | --- | --- | --- | --- |\n" + "".join(rows)
    )


def half_width(values: list[float]) -> float:
    """Half of the interval in which the mean of such values lies; two values or more."""
    from scipy.stats import t

    return float(t.ppf((1 + SURE) / 2, len(values) - 1)) * stdev(values) / math.sqrt(len(values))


def _by_seed(measured: Measured, group: Group, metric: str) -> Iterable[tuple[float, float]]:
    """What a group and centralised training score with each seed, as means of its folds."""
    scores: dict[int, list[tuple[float, float]]] = {}
    for result in group.results:
        reference = measured.reference(result)
        if reference is None or reference is result:
            continue
        ours, theirs = (one.outcome.final.test.get(metric) for one in (result, reference))
        if ours is not None and theirs is not None:
            scores.setdefault(result.run.seed, []).append((float(ours), float(theirs)))
    for pairs in scores.values():
        yield fmean(pair[0] for pair in pairs), fmean(pair[1] for pair in pairs)
