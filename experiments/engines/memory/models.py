"""The models of a run in memory: the first one, what each would be as a file, and what it scores.

Networks are built once per architecture and process and keep their compiled functions for the runs that follow.
"""

from __future__ import annotations

import base64
import copy
import hashlib
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from fedssh.errors import SettingsError
from fedssh.forms import canonical
from fedssh.rules.events import Blob
from fedssh.weights import read_header, read_weights, write_weights

if TYPE_CHECKING:
    from experiments.definition.config import Prepared
    from fedssh.charity.judge.scorer import Scorer
    from fedssh.models.data.images import Images


Weights = Mapping[str, np.ndarray]  # float32 arrays by variable path, in build order


class Scores(Protocol):
    """What weights score on some images."""

    def __call__(self, weights: Weights, against: Weights | None = None, /) -> dict[str, Any]:
        """Metrics by name; with `against` also `rules.gate.PAIRED`, the two paired image by image."""
        ...


_scorers: dict[bytes, Scorer] = {}


class ModelFiles:
    """Tells hash and size of model files of one architecture without writing them.

    Args:
        like: Weights of the architecture.
        spec: The architecture.
    """

    def __init__(self, like: Weights, spec: dict[str, Any]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "model")
            header = write_weights(path, like, spec)
            self._head = path.read_bytes()[: header.offset]
        self._names = list(like)
        self.size = header.size

    def blob(self, weights: Weights) -> Blob:
        """The SHA-256 and size of the file that these weights would be."""
        digest = hashlib.sha256(self._head)
        for name in self._names:
            digest.update(np.ascontiguousarray(weights[name], "<f4").data)
        return Blob(sha256=digest.hexdigest(), size=self.size)


def first_model(prepared: Prepared, plan: Mapping[str, Any], seed: int) -> tuple[dict[str, np.ndarray], int]:
    """The weights that a run begins with, as `charity init` makes them, and how many images they were trained on.

    Raises:
        SettingsError: The given weights do not fit the architecture.
    """
    from fedssh.charity.judge.process import genesis
    from fedssh.models.data.images import Images
    from fedssh.models.data.reading import Reading

    with tempfile.TemporaryDirectory() as folder:
        data, out = Path(folder, "data.npz"), Path(folder, "first.safetensors")
        if prepared.train is not None:
            np.savez(data, train_images=prepared.train.images, train_labels=prepared.train.labels)
        one = Images(prepared.holdout.images[:1], prepared.holdout.labels[:1])  # it is scored elsewhere
        answer = genesis(
            prepared.spec, data, one, seed, dict(plan), out, epochs=int(prepared.train is not None),
            given=prepared.weights, reading=Reading(raw=prepared.columns is not None),
        )  # fmt: skip
        if "unfit" in answer:
            raise SettingsError(answer["unfit"])
        return read_weights(out, read_header(out).tensors), answer["examples"]


def scores_on(spec: dict[str, Any], images: Images, name: str = "", beside: int = 1) -> Scores:
    """A function that says what weights score on some images, as the coordinator's judge does.

    It raises ValueError for weights whose predictions are not finite.

    Args:
        name: Functions of different names share no network, so they may be called at the same time.
        beside: How many batches are computed at the same time.
    """
    from fedssh.charity.judge.scorer import BATCH, Scorer

    key = canonical([spec, min(BATCH, len(images)), name, beside])
    if key not in _scorers:
        if len(_scorers) > 3:  # several batch sizes of one architecture at most
            _scorers.clear()
        _scorers[key] = Scorer(spec, images, beside=beside)
    scorer = copy.copy(_scorers[key])
    _scorers[key].holdout = images.take(np.arange(0))  # the network stays, the images of a run go with it
    scorer.holdout = images
    known: list[tuple[Weights, np.ndarray]] = []  # the last weights that were paired with; no array is ever changed

    def scores(weights: Weights, against: Weights | None = None, /) -> dict[str, Any]:
        if against is None:
            return scorer.score_weights(weights)
        if not known or known[0][0] is not against:
            known[:] = [(against, scorer.right_of(against))]
        return scorer.score_weights(weights, known[0][1])

    return scores


def statistics_of(spec: dict[str, Any]) -> frozenset[str]:
    """The names of the tensors that no gradient changes, as the coordinator's judge tells them."""
    from fedssh.models import build, statistics

    return statistics(build(spec))


def identifier(number: int) -> str:
    """The id of submission `number` of a run, of the form that real ones have; the same in every run."""
    return f"00000000-0000-7000-8000-{number:012x}"


def site_key(site: str) -> str:
    """What stands for a site's public key: it tells sites apart and opens nothing."""
    return f"simulated {base64.b64encode(site.encode()).decode()}"
