"""A choice among runs: made by what they score on the holdout with some seeds, and confirmed with others.

    [choice]
    by = "holdout balanced_accuracy"   what decides; never the test split
    seeds = [11, 12, 13, 14, 15]       with these the candidates are compared; none of the experiment's own seeds
    runs = ["step-*", "fedavg-*"]      patterns of candidates; of each one is chosen  ["*"]

The candidates are run with the seeds of the choice; then whatever is no candidate, and of the candidates those that
were chosen, with the experiment's seeds. Tables show these runs alone. Centralised training is never a candidate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from experiments.definition import settings
from fedssh.forms import Expected, nearest


@dataclass(frozen=True)
class Choice:
    """How runs are chosen.

    Attributes:
        metric: On the holdout, of the last release: mean over the seeds.
        seeds: Of the choice alone.
        patterns: Of names without fold and seed; of each a run is chosen.
    """

    metric: str
    seeds: tuple[int, ...]
    patterns: tuple[str, ...] = ("*",)

    def candidates(self, labels: Sequence[str]) -> dict[str, list[str]]:
        """By pattern, which of these names it may choose."""
        return {one: [label for label in labels if fnmatchcase(label, one)] for one in self.patterns}


def read_choice(table: Mapping[str, Any]) -> Choice:
    """The table [choice]; ValueError says what is wrong with it."""
    checks: dict[str, settings.Check] = {"by": _by, "seeds": settings.TOP["seeds"], "runs": settings.patterns}
    found = settings.all_of(table, checks, ("by", "seeds"), "[choice]")
    return Choice(found["by"], found["seeds"], found.get("runs", ("*",)))


def _by(value: Any) -> str:
    split, _, metric = settings.text(value).partition(" ")
    if split == "test":
        raise Expected("the test split is for the report and never for a choice: expected 'holdout METRIC'")
    if split != "holdout" or metric not in settings.SCORES:
        raise Expected("expected 'holdout METRIC'" + nearest(metric, settings.SCORES))
    return metric
