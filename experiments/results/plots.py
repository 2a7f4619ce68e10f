"""Curves of the releases: the untouched test split as a line, the holdout that was judged by as dashes."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from experiments.definition.config import Point
from experiments.definition.read import Experiment
from experiments.definition.shown import Plot
from experiments.results.file import Result
from experiments.results.measure import Group, Measured
from experiments.results.sited import spent

MOST_CURVES = 12
STEPS = 400
WIDEST_RANGE = 0.3  # of accuracies: what scores worse than the best by more is cut off, unless a run ends there
AXIS = {
    "seconds": "simulated seconds",
    "clock": "simulated time, in images per site or submissions without training",
    "examples": "images that all sites trained on",
    "version": "release",
    "megabytes": "megabytes of models shipped",
    "site_multiply_adds": "multiply-adds of a site in training",
    "site_megabytes": "megabytes to and from a site",
}
BY_SITE = ("site_multiply_adds", "site_megabytes")


@dataclass(frozen=True)
class Picture:
    """A plot, the groups that are in it, and its file's name."""

    plot: Plot
    groups: Sequence[Group]
    name: str


def pictures(experiment: Experiment, measured: Measured) -> list[Picture]:
    """An experiment's plots; those without any run that is done are left out."""
    usual = experiment.report[0] if experiment.report else "accuracy"
    found = []
    for asked in experiment.plots or (Plot(title=experiment.question),):
        plot = dataclasses.replace(asked, metric=asked.metric or usual)
        chosen = [group for group in measured.groups if fnmatchcase(group.label, plot.runs)]
        chosen = [one for one in chosen if all(plot.metric in got.outcome.final.test for got in one.results)]
        if plot.x in BY_SITE:
            chosen = [one for one in chosen if all(got.outcome.per_site for got in one.results)]
        if chosen:
            name = f"{experiment.name}-{re.sub('[^a-z0-9]+', '-', plot.title.lower()).strip('-')[:50].strip('-')}.png"
            found.append(Picture(plot, chosen[:MOST_CURVES], name))
    return found


def draw(plot: Plot, measured: Measured, groups: Sequence[Group], path: Path) -> None:
    """Draw one plot: for each group the mean of its seeds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.2), dpi=80, layout="constrained")
    colours = pyplot.get_cmap("tab10" if len(groups) <= 10 else "tab20").colors  # type: ignore[attr-defined]
    best, last = [], []
    for group, colour in zip(groups, colours, strict=False):
        for split, dashes, width in (("test", "-", 1.6), ("holdout", "--", 0.9)):
            x, y = curve(measured, group, plot.x, split, plot.metric)
            label = group.label if split == "test" else None
            axes.step(x, y, where="post", linestyle=dashes, linewidth=width, color=colour, label=label)
            best.append(float(np.nanmax(y, initial=0)))
            last.append(float(y[-1]))
    if plot.metric != "loss":
        low, high = axes.get_ylim()
        axes.set_ylim(max(low, min(max(best) - WIDEST_RANGE, np.nanmin([*last, 1]) - 0.02)), high)
    if plot.x in BY_SITE:  # ways differ by powers of ten
        axes.set_xscale("log")
    axes.set_xlabel(AXIS[plot.x])
    axes.set_ylabel(f"{plot.metric} (line: test, dashes: holdout)")
    axes.set_title(plot.title, fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    figure.savefig(path, metadata={"Software": None})
    pyplot.close(figure)


def curve(measured: Measured, group: Group, x: str, split: str, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """The mean over a group's seeds of the score of the model that is current at each x.

    Returns:
        x and y, float [n]; y is NaN where a score is undefined. A run that ended keeps its last score.
    """
    place = _axis(measured, x)
    steps = []
    for result in group.results:
        points = result.outcome.points
        values = [getattr(point, split)[metric] for point in points]
        at = [place(result, point) for point in points]
        steps.append((np.array(at, float), np.array([np.nan if value is None else value for value in values], float)))
    end = max(_end(measured, x, result) for result in group.results)
    places = np.unique(np.concatenate([*(at for at, _ in steps), [end]]))
    grid = places if len(places) <= STEPS else np.linspace(0, end, STEPS)
    now = [y[np.maximum(np.searchsorted(at, grid, side="right") - 1, 0)] for at, y in steps]
    mean: np.ndarray = np.mean(now, axis=0)
    return grid, mean


def _end(measured: Measured, x: str, result: Result) -> float:
    """How far a run went, which may be beyond its last release."""
    outcome = result.outcome
    ends = {
        "seconds": measured.seconds(result, outcome.clock),
        "clock": outcome.clock,
        "megabytes": outcome.bytes / 1e6,
    }
    return max(_axis(measured, x)(result, outcome.final), ends.get(x, 0.0))


def _axis(measured: Measured, x: str) -> Callable[[Result, Point], float]:
    where: dict[str, Any] = {
        "seconds": lambda result, point: measured.seconds(result, point.clock),
        "clock": lambda result, point: point.clock,
        "examples": lambda result, point: point.examples,
        "version": lambda result, point: point.version,
        "megabytes": lambda result, point: point.bytes / 1e6,
        "site_multiply_adds": lambda result, point: spent(result, point)[0],
        "site_megabytes": lambda result, point: spent(result, point)[1] / 1e6,
    }
    found: Callable[[Result, Point], float] = where[x]
    return found
