"""What a record of scores on the test split may say: asked before one is written, and of each that is read. Pure."""

from __future__ import annotations

import itertools
import math

from fedssh.forms import shown
from fedssh.rules.events import Tested
from fedssh.rules.gate import impossible
from fedssh.rules.typed import Absent

SPLIT = "test"
MOST_POINTS = 201  # of a curve, as `models.decision.curve` gives them


def objection(said: Tested) -> str:
    """Why no reader would take such a record; empty when each does."""
    if said.split != SPLIT:
        return f"its split is {shown(said.split)}, expected {SPLIT}"
    if (name := impossible(said.metrics)) is not None:
        return f"no model can score the {name} {str(said.metrics[name])[:40]}"
    if not isinstance(said.curve, Absent) and not _is_curve(said.curve):
        return "its curve does not rise from 0 to 1 while the probability falls"
    return ""


def _is_curve(points: tuple[tuple[float, ...], ...]) -> bool:
    """Whether points can be those of a receiver operating characteristic."""
    if not 1 <= len(points) <= MOST_POINTS or any(len(point) != 3 for point in points) or points[-1][1:] != (1, 1):
        return False
    steps = itertools.pairwise([(math.inf, 0.0, 0.0), *points])
    return all(one[0] > two[0] >= 0 and one[1] <= two[1] <= 1 and one[2] <= two[2] <= 1 for one, two in steps)
