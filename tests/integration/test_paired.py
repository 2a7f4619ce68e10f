"""What the judge finds where a gate pairs images: the same as NumPy, and as an experiment in memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.engines.memory.models import scores_on
from fedssh.charity.judge.client import Judge, judge_command
from fedssh.models import build, get_weights, set_weights
from fedssh.models.data.images import Images, load
from fedssh.rules import averaging
from fedssh.rules.gate import PAIRED
from fedssh.rules.policies import read_policy
from fedssh.weights import write_weights

SPEC: dict[str, Any] = {"name": "mlp", "depth": 1, "width": 3, "input": [4, 4, 1], "classes": 3}
NUMBER = 70  # more than a batch of the judge's

Weights = Mapping[str, np.ndarray]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    random = np.random.default_rng(3)
    arrays: dict[str, np.ndarray] = {}
    for split in ("train", "val"):
        arrays[f"{split}_images"] = random.integers(0, 256, (NUMBER, 4, 4), dtype=np.uint8)
        arrays[f"{split}_labels"] = random.integers(0, 3, NUMBER)
    path = tmp_path_factory.mktemp("data") / "charity.npz"
    np.savez(path, allow_pickle=False, **arrays)
    return path


def model(seed: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {
        name: random.normal(0, 1, array.shape).astype(np.float32) for name, array in get_weights(build(SPEC)).items()
    }


def losses(weights: Weights, holdout: Images) -> np.ndarray:
    """Of each image 1 where it is called wrongly, else 0: float [n]."""
    network = build(SPEC)
    set_weights(network, weights)
    called: np.ndarray = np.asarray(network(holdout.images)).argmax(axis=1)
    wrong: np.ndarray = (called != holdout.labels).astype(np.float64)
    return wrong


def by_hand(weights: Weights, current: Weights, holdout: Images) -> float:
    """s/sqrt(n), as Blum and Hardt write it."""
    differences = losses(weights, holdout) - losses(current, holdout)
    return float(np.std(differences, ddof=1) / np.sqrt(len(differences)))


def test_the_judge_finds_what_numpy_finds_and_so_does_an_experiment_in_memory(data: Path, tmp_path: Path) -> None:
    current, candidate, third = model(1), model(2), model(3)
    paths = {name: tmp_path / f"{name}.safetensors" for name in ("current", "candidate", "third")}
    for path, weights in zip(paths.values(), (current, candidate, third), strict=True):
        write_weights(path, weights, SPEC)
    holdout = load(data, SPEC["input"], 3, "val")
    here = scores_on(SPEC, holdout)
    judge = Judge(judge_command(data, SPEC), start_seconds=600, answer_seconds=600)
    try:
        plain = judge.score(paths["candidate"])
        found = judge.score(paths["candidate"], paths["current"])
        assert PAIRED not in plain and found == plain | {PAIRED: found[PAIRED]} == here(candidate, current)
        assert found[PAIRED] == pytest.approx(by_hand(candidate, current, holdout), rel=1e-12) and found[PAIRED] > 0
        assert judge.score(paths["current"], paths["current"])[PAIRED] == 0
        other = judge.score(paths["candidate"], paths["third"])  # not with what was remembered of the current model
        assert other[PAIRED] == pytest.approx(by_hand(candidate, third, holdout), rel=1e-12) != found[PAIRED]

        mixes = judge.mix(paths["current"], paths["candidate"], (1.0, 0.5), paired=True)
        mixed = averaging.mix(current, candidate, 0.5)
        assert mixes == [found, here(mixed, current)]
        assert mixes[1][PAIRED] == pytest.approx(by_hand(mixed, current, holdout), rel=1e-12)
        steps = judge.mix(paths["current"], paths["candidate"], (0.5,), base=paths["third"], paired=True)
        stepped = averaging.step(current, candidate, third, 0.5, frozenset())
        assert steps == [here(stepped, current)]

        updates, policy = [(paths["candidate"], 10), (paths["third"], 30)], read_policy("fedavg")
        answer = judge.combine(policy.text, paths["current"], updates, [], tmp_path / "round.safetensors", paired=True)
        result = averaging.round_result(policy, current, [candidate, third], [10, 30], [], frozenset()).weights
        assert answer["metrics"] == here(result, current)
        assert answer["metrics"][PAIRED] == pytest.approx(by_hand(result, current, holdout), rel=1e-12)
    finally:
        judge.stop()


def test_on_one_image_nothing_can_be_paired(data: Path) -> None:
    one = load(data, SPEC["input"], 3, "val").take(np.arange(1))
    with pytest.raises(ValueError, match="needs a holdout of at least 2, found 1"):
        scores_on(SPEC, one)(model(2), model(1))
