"""What a site has computed and sent until a release, beside its score. Pure: results in, numbers and text out."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.definition.config import Point
from experiments.results.file import Result
from experiments.results.measure import Group, mean_of_seeds
from experiments.results.tables import NONE, named, table
from fedssh.rules.metrics import gain


def spent(result: Result, point: Point) -> tuple[float, float]:
    """What a site has computed and what went to and from it until a point, as the mean of all sites.

    Returns:
        Multiply-adds and bytes, both 0 where nobody counted them.
    """
    per, run = result.outcome.per_site, result.run
    if not per:
        return 0.0, 0.0
    images = point.examples / run.sites
    return images * per["multiply_adds"], images / (per["images"] * run.plan["epochs"]) * per["bytes"]


def table_of_costs(groups: Sequence[Group], metric: str, reaches: Sequence[float]) -> str:
    """What a site had computed and sent when the test score first reached each of some values."""
    rows = []
    for group in groups:
        if not all(result.outcome.per_site for result in group.results):
            continue
        images = mean_of_seeds((one.run.seed, one.outcome.per_site["images"]) for one in group.results)
        cells = [cell for value in reaches for cell in _until(group, metric, value)]
        rows.append([group.label, f"{images.value:,.0f}" if images else NONE, *cells])
    if not rows or not reaches:
        return ""
    heads = [head for value in reaches for head in (f"M multiply-adds to {value:g}", f"MB to {value:g}")]
    said = (
        "What one site computes in training and what goes to and from it until the test "
        f"{named(metric)} first reaches a value, as the mean of all sites; releases of others' turns are left out:\n\n"
    )
    return said + table(["run", "images a site", *heads], rows)


def _until(group: Group, metric: str, value: float) -> tuple[str, str]:
    reached = []
    for result in group.results:
        points = [one for one in result.outcome.points if one.test[metric] is not None]
        there = [one for one in points if gain(metric, one.test[metric]) >= gain(metric, value)]
        if there:
            reached.append((result.run.seed, spent(result, there[0])))
    if not reached:
        return NONE, NONE
    few = "" if len(reached) == len(group.results) else f" ({len(reached)} of {len(group.results)})"
    adds = mean_of_seeds((seed, cost[0] / 1e6) for seed, cost in reached)
    megabytes = mean_of_seeds((seed, cost[1] / 1e6) for seed, cost in reached)
    assert adds is not None and megabytes is not None
    return f"{adds.value:,.1f}{few}", f"{megabytes.value:,.2f}{few}"
