"""`splitfed`: rounds in which all sites train at once, each its first layers, with the rest at the coordinator.

SplitFed, version 1 (Thapa et al. 2022, algorithms 1 and 2): every site has a copy of the coordinator's layers there,
and trains with it over a channel as under `split`. At the end of a round what the sites have and the copies are joined,
and the mean of all is taken, weighted by examples. Of a site's update only its layers leave it.
"""

from __future__ import annotations

from collections.abc import Mapping

from fedssh.rules.options import Option
from fedssh.rules.policies import fedavg, split

DOES = "rounds: as split, all sites at once, and the mean of what comes of it"
_ALONE = ("weights",)  # a mean is of layers that somebody can read
OPTIONS: Mapping[str, Option] = {
    **{name: option for name, option in split.OPTIONS.items() if name not in _ALONE}, **fedavg.OPTIONS,
}  # fmt: skip
SPLIT = True

shares_of = fedavg.shares_of
