"""What outcomes mean side by side: time, bytes and scores until convergence, over all seeds and folds. Pure.

A run has *converged* with the first release that scores within `SLACK` of what centralised training reaches in the
end, on the holdout, with the same seed, data and network.

Time is simulated: every site has a machine of its own, and an image takes each of them as long as it took on average
in all runs with that network here. The coordinator's own work and the network's are not counted; the bytes are.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from experiments.definition.config import Point, Run
from experiments.definition.read import group_name
from experiments.definition.settings import SCORES, SETTINGS
from experiments.results.file import Result
from experiments.results.intervals import half_width
from fedssh.rules.metrics import LOWER, gain
from fedssh.rules.policies import Policy, read_policy
from fedssh.rules.terms import LATER

SLACK = 0.01
# Settings of the data that centralised training does not have, or that tell how sites divide it.
_DIVIDING = ("partition",)


@dataclass(frozen=True)
class Group:
    """The same settings with several seeds or folds.

    Attributes:
        label: The runs' name without seed and fold.
        results: One per seed and fold.
    """

    label: str
    results: tuple[Result, ...]

    @property
    def run(self) -> Run:
        """One of them."""
        return self.results[0].run


@dataclass(frozen=True)
class Mean:
    """Mean of some runs; a seed counts once, with the mean of its folds.

    Attributes:
        low, high: Of the runs.
        count: Of how many runs it is.
        interval: Where the mean lies by Student's t at 95 %; None with one seed.
    """

    value: float
    low: float
    high: float
    count: int
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Row:
    """What a group came to.

    Attributes:
        label: The group's.
        runs: How many there are, of so many seeds.
        test, holdout: Scores of the last release by metric.
        converged: How many runs did; None when there is no centralised training to compare with.
        seconds, megabytes, examples: Until convergence, of those runs that converged: survivors, unless all did.
        speedup: Centralised's seconds until convergence divided by ours, of those runs where both did: the geometric
            mean of ratios that are paired by seed and fold, and its interval is that of their logarithms.
        all_seconds, all_megabytes: Until the end.
        steps, synchronisations: Of a site, until the end, see `Outcome`.
        all_examples: Of all sites together, until the end.
        wall_seconds, peak_mb: What the run took here.
    """

    label: str
    runs: int
    seeds: int
    test: Mapping[str, Mean | None]
    holdout: Mapping[str, Mean | None]
    converged: int | None
    seconds: Mean | None
    megabytes: Mean | None
    examples: Mean | None
    speedup: Mean | None
    all_seconds: Mean | None
    all_megabytes: Mean | None
    steps: Mean | None
    synchronisations: Mean | None
    all_examples: Mean | None
    wall_seconds: Mean | None
    peak_mb: Mean | None


class Measured:
    """Results, compared with each other.

    Args:
        results: Of one experiment.
    """

    def __init__(self, results: Sequence[Result]) -> None:
        self.results = results
        self.groups = grouped(results)
        self._rates = _rates(results)
        self._centralised = {_compared_by(one.run): one for one in results if _centralised(one.run)}

    def seconds(self, result: Result, clock: float) -> float:
        """Simulated seconds of a clock that counts images."""
        return clock * self._rates[_network_key(result.run)]

    def reference(self, result: Result) -> Result | None:
        """The centralised training that a run is compared with; None when there is none."""
        return self._centralised.get(_compared_by(result.run))

    def with_centralised(self, groups: Sequence[Group]) -> list[Group]:
        """These groups, and before them the centralised training on their data where they lack it.

        One that was decided by their metric comes first; where there is none, any other will do.
        """
        metrics = {group.run.metric for group in groups}
        known = [group for group in self.groups if _centralised(group.run)]
        there = {key for group in groups if _centralised(group.run) for key in _data_keys(group)}
        lacking = {key for group in groups for key in _data_keys(group)} - there
        added = []
        for group in sorted(known, key=lambda one: one.run.metric not in metrics):
            if lacking & (keys := _data_keys(group)):
                added.append(group)
                lacking -= keys
        return [*added, *groups]

    def target(self, result: Result) -> float | None:
        """What the holdout must say for convergence; None when nothing centralised was done to compare with."""
        reference = self.reference(result)
        if reference is None:
            return None
        value = reference.outcome.final.holdout[reference.run.metric]
        if value is None:
            return None
        return float(value) * (1 + SLACK) if reference.run.metric in LOWER else float(value) - SLACK

    def reached(self, result: Result) -> Point | None:
        """The release with which a run had converged."""
        target = self.target(result)
        if target is None:
            return None
        metric = result.run.metric
        wanted = gain(metric, target)
        return next((one for one in result.outcome.points if gain(metric, one.holdout[metric] or 0) >= wanted), None)

    def speedup(self, result: Result) -> float | None:
        """How many times as long centralised training takes until convergence; None when either never does."""
        reference = self.reference(result)
        ours, theirs = self.reached(result), self.reached(reference) if reference else None
        if reference is None or ours is None or theirs is None or not ours.clock:
            return None
        return self.seconds(reference, theirs.clock) / self.seconds(result, ours.clock)

    def row(self, group: Group) -> Row:
        """What a group came to."""
        results = group.results
        reached = {one.digest: point for one in results if (point := self.reached(one))}
        comparable = any(self.target(one) is not None for one in results)

        def of(value: Callable[[Result], float | None]) -> Mean | None:
            return mean_of_seeds((one.run.seed, value(one)) for one in results)

        def scored(split: str, name: str) -> Mean | None:
            return of(lambda one: getattr(one.outcome.final, split).get(name))

        def until(value: Callable[[Result, Point], float]) -> Mean | None:
            survived = [(one, reached[one.digest]) for one in results if one.digest in reached]
            return mean_of_seeds((one.run.seed, value(one, point)) for one, point in survived)

        return Row(
            label=group.label,
            runs=len(results),
            seeds=len({one.run.seed for one in results}),
            test={name: scored("test", name) for name in SCORES},
            holdout={name: scored("holdout", name) for name in SCORES},
            converged=len(reached) if comparable else None,
            seconds=until(lambda one, point: self.seconds(one, point.clock)),
            megabytes=until(lambda one, point: point.bytes / 1e6),
            examples=until(lambda one, point: point.examples),
            speedup=self.speedups(group),
            all_seconds=of(lambda one: self.seconds(one, one.outcome.clock)),
            all_megabytes=of(lambda one: one.outcome.bytes / 1e6),
            steps=of(lambda one: one.outcome.steps),
            synchronisations=of(lambda one: one.outcome.synchronisations),
            all_examples=of(lambda one: one.outcome.examples),
            wall_seconds=of(lambda one: one.outcome.wall_seconds),
            peak_mb=of(lambda one: one.outcome.peak_mb),
        )

    def speedups(self, group: Group) -> Mean | None:
        """The geometric mean of a group's speed-ups, of those runs that have one."""
        found = [(one.run.seed, ratio) for one in group.results if (ratio := self.speedup(one))]
        logs = mean_of_seeds((seed, math.log(ratio)) for seed, ratio in found)
        if logs is None:
            return None
        interval = logs.interval and (math.exp(logs.interval[0]), math.exp(logs.interval[1]))
        return Mean(math.exp(logs.value), math.exp(logs.low), math.exp(logs.high), logs.count, interval)


def grouped(results: Iterable[Result]) -> list[Group]:
    """Results with the same settings but for seed and fold together, in order of their first."""
    found: dict[str, list[Result]] = {}
    for result in results:
        found.setdefault(group_name(result.run.slug), []).append(result)
    return [Group(label, tuple(ones)) for label, ones in found.items()]


def way(run: Run) -> str:
    """How the sites' models become one, in words."""
    if _centralised(run):
        return run.schedule
    words = [short(read_policy(run.policy))]
    if run.schedule in ("free", "relay"):
        words[0] += f" {run.schedule}"
    if run.gate != "on":
        words.append("no gate" if run.gate == "off" else run.gate)
    return ", ".join(words)


def row_names(columns: Sequence[Sequence[Group]]) -> dict[str, str]:
    """What groups are called, by label, in a table that has these of them in each column.

    A name is the group's way; where a column has two of the same way, also by what settings of training and judging
    they differ, unless they are as by default. Groups that differ in nothing of that kind get the same name.
    """
    differing: dict[str, set[str]] = {}
    for one, other in itertools.chain.from_iterable(itertools.combinations(column, 2) for column in columns):
        if way(one.run) == way(other.run):
            ours, theirs = _method(one.run), _method(other.run)
            differing.setdefault(way(one.run), set()).update(key for key in ours if ours[key] != theirs[key])
    return {group.label: _named(group.run, differing.get(way(group.run), ())) for group in itertools.chain(*columns)}


def _named(run: Run, keys: Collection[str]) -> str:
    told = {key: value for key, value in _method(run).items() if key in keys and value != SETTINGS[key][1]}
    return ", ".join([way(run), *_options(told)])


def _method(run: Run) -> dict[str, Any]:
    """Settings of how a run trains and judges; the others tell what it is done with."""
    own = {name: SETTINGS[name][1] for name in LATER}  # a run's plan has them where they are not so
    own |= {name: getattr(run, name) for name in ("gate", "margin", "sessions", "validation", "control")}
    return {key: value for key, value in {**own, **run.plan}.items() if key not in ("loss", "metric")}


def short(policy: Policy) -> str:
    """A policy without the options that are as they are by default."""
    usual = read_policy(policy.name).values
    different = {key: value for key, value in policy.values.items() if usual.get(key) != value}
    return f"{policy.name}:{','.join(_options(different))}" if different else policy.name


def _options(values: Mapping[str, Any]) -> list[str]:
    return [f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}" for key, value in values.items()]


def is_lower(metric: str) -> bool:
    """Whether the lower value is the better one, of a metric or of the loss."""
    return metric in LOWER or metric == "loss"


def mean(values: Iterable[float | None]) -> Mean | None:
    """Of those that are there; None when none is."""
    found = [float(value) for value in values if value is not None]
    return Mean(fmean(found), min(found), max(found), len(found)) if found else None


def mean_of_seeds(values: Iterable[tuple[int, float | None]]) -> Mean | None:
    """Of the values that are there, each with its run's seed; None when none is."""
    found = [(seed, float(value)) for seed, value in values if value is not None]
    if not found:
        return None
    by_seed = list(means_by_seed(found).values())
    value, half = fmean(by_seed), half_width(by_seed) if len(by_seed) > 1 else None
    every = [one for _, one in found]
    interval = None if half is None else (value - half, value + half)
    return Mean(value, min(every), max(every), len(every), interval)


def means_by_seed(values: Iterable[tuple[int, float]]) -> dict[int, float]:
    """What each seed counts as: the mean of its folds."""
    found: dict[int, list[float]] = {}
    for seed, value in values:
        found.setdefault(seed, []).append(value)
    return {seed: fmean(ones) for seed, ones in found.items()}


def _rates(results: Sequence[Result]) -> dict[str, float]:
    """Seconds per image by network: of all its runs together, so that they can be compared."""
    rates = {}
    for key in {_network_key(one.run) for one in results}:
        outcomes = [one.outcome for one in results if _network_key(one.run) == key]
        images = sum(outcome.trained_examples for outcome in outcomes)
        rates[key] = sum(outcome.train_seconds for outcome in outcomes) / images if images else 0.0
    return rates


def _network_key(run: Run) -> str:
    return json.dumps([run.architecture, run.data["dataset"], run.plan["batch_size"]], sort_keys=True)


def _centralised(run: Run) -> bool:
    return run.schedule == "centralised"


def _compared_by(run: Run) -> tuple[str, str]:
    """What a run must share with the centralised one that it is compared with."""
    return _data_key(run), run.metric


def _data_keys(group: Group) -> set[str]:
    return {_data_key(result.run) for result in group.results}


def _data_key(run: Run) -> str:
    """The same seed, network and data, however sites divide them."""
    data = {key: value for key, value in run.data.items() if key not in _DIVIDING}
    return json.dumps([run.seed, run.architecture, data], sort_keys=True)
