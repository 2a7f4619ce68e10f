"""`fednova`: the mean of what sites change in a step of training, times the steps of all (Wang et al. 2020).

A site with more images takes more steps between two rounds, so under `fedavg` it counts twice: by its number of images,
and by how far it went. Here each update's change is divided by its steps first (theorem 1, equation 5, for plain SGD).
All sites train the same epochs in batches of the same size, so steps are as numbers of images are; divided by them,
every site counts alike, and the step is taken τ_eff Σ(p/τ) times as long, which is n Σ p² with p a site's share of all
images: 1 where all are of one size, 2 where their sizes deviate by as much as their mean. Numbers of images are what
sites say of themselves, and one lie would make it n, so it is `MOST` at most; and with `clip` the longer step is no
longer than that, as every round's combined step is (see `averaging`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fedssh.forms import whole
from fedssh.rules.options import ROUNDS, Option, Values
from fedssh.rules.policies import fedavg

DOES = "rounds: mean of the updates' changes per step of training, times the steps of all"
MOST = 2.0
OPTIONS: Mapping[str, Option] = {
    **ROUNDS,
    "cap": Option(whole(1, 10**9), None, "as how many images a site counts at most; 1: all sites alike"),
}


def shares_of(values: Values, examples: Sequence[int]) -> list[float]:
    """All sites alike, but for one without images."""
    having = [count > 0 for count in fedavg.shares_of(values, examples)]
    return [one / sum(having) for one in having]


def length(values: Values, examples: Sequence[int]) -> float:
    """N Σ p²; never less than 1, and at most `MOST`."""
    parts = [share for share in fedavg.shares_of(values, examples) if share]
    return min(len(parts) * sum(share**2 for share in parts), MOST)
