"""What the judge does with several models: mixes of two, and a round's updates made one. From files to files.

Averaging happens on the arrays: no network is rebuilt, and of the files only one tensor at a time is in memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from fedssh import weights
from fedssh.charity.judge.protocol import server_files
from fedssh.rules import averaging
from fedssh.rules.policies import read_policy

if TYPE_CHECKING:
    import numpy as np


class Scores(Protocol):
    """What it needs of a judge: its architecture, reading a file of it, and scoring weights in memory.

    Attributes:
        statistics: The names of the tensors that no gradient changes.
    """

    spec: dict[str, Any]
    statistics: frozenset[str]

    def read(self, path: Path) -> Mapping[str, np.ndarray]:
        """The tensors of a model file of its architecture, each read when it is asked for."""
        ...

    def right(self, path: Path) -> np.ndarray:
        """Which images a stored model calls rightly, bool [n]."""
        ...

    def score_weights(self, tensors: Mapping[str, np.ndarray], against: np.ndarray | None = None) -> dict[str, Any]:
        """Metrics by name of the network with these weights, paired with the images that another calls rightly."""
        ...


def mix(judge: Scores, wanted: dict[str, Any]) -> dict[str, Any]:
    """Score mixes of the current model and a candidate; or write them, when a file is named, without scoring again.

    With a `base`, the candidate's step from there is added to the current model instead; with `others`, the mean of its
    step and theirs. Where they are `paired`, it is with the current model.
    """
    against = judge.right(Path(wanted["current"])) if wanted.get("paired") else None
    current, candidate = judge.read(Path(wanted["current"])), judge.read(Path(wanted["candidate"]))
    base = judge.read(Path(wanted["base"])) if wanted.get("base") else None
    others = [(judge.read(Path(one)), judge.read(Path(start))) for one, start in wanted.get("others", ())]
    metrics = []
    for share in wanted["shares"]:
        if others:
            own = candidate, current if base is None else base
            mixed = averaging.gathered(current, [own, *others], share, judge.statistics)
        elif base is None:
            mixed = averaging.mix(current, candidate, share)
        else:
            mixed = averaging.step(current, candidate, base, share, judge.statistics)
        if wanted["out"]:
            weights.write_weights(Path(wanted["out"]), mixed, judge.spec)
        else:
            metrics.append(judge.score_weights(mixed, against))
    return {"metrics": metrics}


def combine(judge: Scores, wanted: dict[str, Any]) -> dict[str, Any]:
    """Combine the updates of a round, score the result, and write it with the server optimizer's new state.

    Where it is `paired`, it is with the model that the round started from.
    """
    updates = [judge.read(Path(path)) for path, _ in wanted["updates"]]
    examples = [count for _, count in wanted["updates"]]
    server = [judge.read(Path(path)) for path in wanted["server"]]
    base = judge.read(Path(wanted["base"]))
    against = judge.right(Path(wanted["base"])) if wanted.get("paired") else None
    policy = read_policy(wanted["policy"])
    result = averaging.round_result(policy, base, updates, examples, server, judge.statistics)
    metrics = judge.score_weights(result.weights, against)
    out = Path(wanted["out"])
    weights.write_weights(out, result.weights, judge.spec)
    for path, state in zip(server_files(out), result.state, strict=False):
        weights.write_weights(path, state, judge.spec)
    bearing = averaging.bearing(base, updates) if wanted.get("bearing") else None
    return {"metrics": metrics, "shares": list(result.shares), "server": len(result.state), "bearing": bearing}
