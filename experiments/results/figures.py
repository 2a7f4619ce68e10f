"""Published figures beside ours, and whether ours reproduce them. Pure: results in, text out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from statistics import fmean, median

from experiments.definition.config import Point
from experiments.definition.read import Experiment
from experiments.definition.shown import Figure
from experiments.results.file import Result
from experiments.results.measure import Group, Mean, Measured, mean_of_seeds
from experiments.results.tables import NONE, interval, spread, table
from fedssh.errors import SettingsError
from fedssh.rules.metrics import gain


def published(experiment: Experiment, measured: Measured) -> str:
    """Published figures beside ours, and what may be said of each.

    Raises:
        SettingsError: Rounds are asked for of runs that have none, or behind a gate.
    """
    rows = [[one.what, one.published, *_beside(one, measured)] for one in experiment.figures]
    source = f"\nPublished: {experiment.source}\n" if experiment.source else ""
    return table(["figure", "published", "ours", "verdict"], rows) + source


def rounds_until(points: Sequence[Point], metric: str, target: float) -> float | None:
    """The round in which the test score first reaches a target; None if it never does.

    The curve is made of the best score so far, round by round, with straight lines between (McMahan et al. 2017,
    section 3); so the round may have a fraction.

    Args:
        points: A release for each round, version 0 is the start.
    """
    best: list[tuple[int, float]] = []
    for point in points:
        value = point.test[metric]
        if value is not None and (not best or gain(metric, value) > gain(metric, best[-1][1])):
            best.append((point.version, float(value)))
        elif best:
            best.append((point.version, best[-1][1]))
    if best and gain(metric, best[0][1]) >= gain(metric, target):
        return float(best[0][0])
    for (before, low), (after, high) in itertools.pairwise(best):
        if gain(metric, high) >= gain(metric, target):
            return before + (target - low) / (high - low) * (after - before)
    return None


def distances(values: Sequence[float], first_version: int, points: Sequence[Point], metric: str) -> list[float] | None:
    """How far each published value is from the release of its number; None where the releases end before.

    Args:
        values: Of consecutive releases, the first one is `first_version`.
    """
    ours = {point.version: point.test[metric] for point in points}
    found = [(value, ours.get(version)) for version, value in enumerate(values, first_version)]
    if any(score is None for _, score in found):
        return None
    return [abs(value - float(score)) for value, score in found if score is not None]


def verdict(figure: Figure, ours: Mean | None) -> str:
    """Whether ours reproduce a figure: within its tolerance, where it has one, else where it lies in our interval."""
    if figure.contradictory:
        return f"contradictory: {figure.why}"
    if figure.value is None and figure.of != "curve":
        return figure.why or NONE
    if ours is None:
        return f"not reproduced: {figure.why or 'no reason is given yet'}"
    if figure.tolerance is None and ours.interval is None:
        return "cannot be told: one seed, and no tolerance is given"
    if figure.tolerance is not None:
        away = ours.value if figure.value is None else abs(ours.value - figure.value)
        reproduced = away <= figure.tolerance
    else:
        assert ours.interval is not None and figure.value is not None
        reproduced = ours.interval[0] <= figure.value <= ours.interval[1]
    return "reproduced" if reproduced else f"not reproduced: {figure.why or 'no reason is given yet'}"


@dataclass(frozen=True)
class Ours:
    """Where ours stands.

    Attributes:
        mean: What is judged; None where there is nothing to be judged, so that the figure is not reproduced.
        done: Whether the runs could have reproduced it at all.
    """

    text: str
    mean: Mean | None
    done: bool = True


def _beside(figure: Figure, measured: Measured) -> list[str]:
    """Ours, and the verdict, in two cells."""
    groups = [group for group in measured.groups if fnmatchcase(group.label, figure.ours)]
    every = [_OF[figure.of](figure, group, measured) for group in groups]
    verdicts = [verdict(figure, one.mean) if one.done or figure.contradictory else "not done" for one in every]
    if not groups:
        return [NONE, verdict(figure, None) if figure.contradictory else "not done"]
    shown = "; ".join(one.text + _named(group, groups) for group, one in zip(groups, every, strict=True))
    if len(set(verdicts)) == 1:
        return [shown, verdicts[0]]
    return [shown, "; ".join(one + _named(group, groups) for group, one in zip(groups, verdicts, strict=True))]


def _model(figure: Figure, group: Group, measured: Measured) -> Ours:
    ours = mean_of_seeds((one.run.seed, _score(one, figure)) for one in group.results)
    return Ours(spread(ours), ours)


def _sites(figure: Figure, group: Group, measured: Measured) -> Ours:
    """The sites' own models; what is judged is the mean of all of them."""
    scores = [
        (result.run.seed, float(one[figure.metric]))
        for result in group.results
        for one in result.outcome.site_scores.values()
    ]
    if not scores:
        return Ours(NONE, None, done=False)
    every = [score for _, score in scores]
    return Ours(f"{min(every):.4f} to {max(every):.4f}, median {median(every):.4f}", mean_of_seeds(scores))


def _speedup(figure: Figure, group: Group, measured: Measured) -> Ours:
    """Speed-ups; those of the runs that converged are not judged as if they were of all."""
    ours, of = measured.speedups(group), len(group.results)
    if ours is None:
        return Ours(NONE, None)
    if ours.count < of:
        return Ours(f"{ours.value:.2f} times as fast in {ours.count} of {of} runs", None)
    return Ours(f"{ours.value:.2f} times as fast", ours)


def _rounds(figure: Figure, group: Group, measured: Measured) -> Ours:
    """The first round that reaches the score; where some seeds never do, the others are not judged as if all did."""
    assert figure.reaches is not None
    run = group.run
    if run.schedule != "rounds" or run.gate != "off":
        has = f"the gate is {run.gate}" if run.schedule == "rounds" else f"it trains {run.schedule}"
        hint = "give runs in rounds with the gate off, so that each round is a release"
        raise SettingsError(f"{run.experiment}: the rounds of {group.label} cannot be counted, for {has}", hint)
    if refused := sum(one.outcome.verdicts.get("round-refused", 0) for one in group.results):
        return Ours(f"{NONE} ({refused} rounds were refused)", None, done=False)
    found = [(one, rounds_until(one.outcome.points, figure.metric, figure.reaches)) for one in group.results]
    never = [_best(one.outcome.points, figure.metric) for one, reached in found if reached is None]
    ours = mean_of_seeds((one.run.seed, reached) for one, reached in found)
    if ours is None:
        return Ours(f"{NONE} (best {fmean(never):.4f})", None)
    if never:
        return Ours(f"{ours.value:,.1f} ({ours.count} of {len(found)}; best of the others {fmean(never):.4f})", None)
    return Ours(interval(ours, 1), ours)


def _curve(figure: Figure, group: Group, measured: Measured) -> Ours:
    """Mean distance, and the largest of any seed."""
    found = []
    for result in group.results:
        away = distances(figure.values, figure.first_version, result.outcome.points, figure.metric)
        if away is None:
            return Ours(f"{NONE} (ends with release {result.outcome.final.version})", None, done=False)
        found.append((result.run.seed, away))
    ours = mean_of_seeds((seed, fmean(away)) for seed, away in found)
    largest = max(max(away) for _, away in found)
    text = f"{interval(ours, 4)} away on average, {largest:.4f} at most, of {len(figure.values)} points"
    return Ours(text, ours)


_OF: dict[str, Callable[[Figure, Group, Measured], Ours]] = {
    "model": _model,
    "sites": _sites,
    "speedup": _speedup,
    "rounds": _rounds,
    "curve": _curve,
}


def _best(points: Sequence[Point], metric: str) -> float:
    values = [float(point.test[metric]) for point in points if point.test[metric] is not None]
    return max(values, key=lambda value: gain(metric, value), default=math.nan)


def _score(result: Result, figure: Figure) -> float | None:
    for point in reversed(result.outcome.points):
        if figure.version is None or point.version <= figure.version:
            value = point.test[figure.metric]
            return None if value is None else float(value)
    return None


def _named(group: Group, groups: Sequence[Group]) -> str:
    return f" ({group.label})" if len(groups) > 1 else ""
