"""The arithmetic of rounds against Flower's, installed for this test into a folder of its own.

The folder is kept in `build/`; only the first run needs the network.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedssh.rules.averaging import Weights, round_result
from fedssh.rules.policies import read_policy

ROUNDS, SITES, WEIGHTS = 4, 9, 500
RULES = ["fedavg", "median", "trimmed:1", "trimmed:2", "krum:1", "krum:2", "multi-krum:1", "multi-krum:2"]
SERVERS = ["fedavg:server=adam", "fedavg:server=yogi", "fedavg:server=momentum,rate=0.5"]


@pytest.fixture(scope="module")
def flower(root: Path) -> Path:
    """A folder with the packages of locks/reference.txt, to be put on PYTHONPATH."""
    lock = root / "locks" / "reference.txt"
    version = hashlib.sha256(lock.read_bytes() + sys.version.encode()).hexdigest()[:16]
    folder = root / "build" / f"reference-{version}"
    if folder.exists():
        return folder
    folder.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, ignore_cleanup_errors=True) as temporary:
        new = Path(temporary, "packages")
        pip = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--retries=1", "--no-deps"]
        choice = ["--only-binary=:all:", "--require-hashes", f"--target={new}", f"--requirement={lock}"]
        done = subprocess.run([*pip, *choice], capture_output=True, text=True, check=False, timeout=300)
        assert "DO NOT MATCH THE HASHES" not in done.stderr, done.stderr
        if done.returncode:
            pytest.skip(f"Flower cannot be installed here: {done.stderr.strip().splitlines()[-1]}")
        if not folder.exists():
            new.rename(folder)
    return folder


@pytest.fixture(scope="module")
def questions() -> dict[str, Any]:
    """Six sites and three that agree less with them, so that every rule has something to choose."""
    random = np.random.default_rng(6)
    updates = random.normal(size=(ROUNDS, SITES, WEIGHTS)) * 0.05
    updates[:, 6:] += random.normal(size=WEIGHTS) * 0.1
    updates += random.normal(size=(ROUNDS, 1, WEIGHTS))
    # float32 values in float64: what the sites send is the same, and Flower computes without float32's rounding.
    numbers = {"updates": updates, "base": random.normal(size=WEIGHTS)}
    exact = {name: array.astype("f4").astype("f8") for name, array in numbers.items()}
    return {**exact, "examples": random.integers(1, 1000, SITES)}


@pytest.fixture(scope="module")
def answers(flower: Path, questions: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    folder = tmp_path_factory.mktemp("flower")
    np.savez(folder / "questions.npz", **questions)
    program = Path(__file__).with_name("flower_answers.py")
    command = [sys.executable, str(program), str(folder / "questions.npz"), str(folder / "answers.npz")]
    environment = {**os.environ, "PYTHONPATH": str(flower), "FLWR_TELEMETRY_ENABLED": "0", "FLWR_HOME": str(folder)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    with np.load(folder / "answers.npz") as found:
        return dict(found)


def model(values: np.ndarray) -> Weights:
    """The weights in two tensors; Flower gets them in one."""
    array = values.astype("f4")
    return {"kernel": array[:480].reshape(6, 80), "bias": array[480:]}


def flat(found: Weights) -> np.ndarray:
    return np.concatenate([found["kernel"].ravel(), found["bias"]])


@pytest.mark.parametrize("policy", RULES)
def test_a_rule_gives_what_flower_gives(policy: str, questions: dict[str, Any], answers: dict[str, np.ndarray]) -> None:
    updates, examples = [model(row) for row in questions["updates"][0]], questions["examples"].tolist()
    found = flat(round_result(read_policy(policy), model(questions["base"]), updates, examples, []).weights)
    # Ours is rounded to float32 once: half of 2^-23, and what cancels around zero.
    assert np.allclose(found, answers[policy], rtol=2**-23, atol=1e-12)


@pytest.mark.parametrize("policy", SERVERS)
def test_a_server_optimizer_goes_where_flower_s_goes(
    policy: str, questions: dict[str, Any], answers: dict[str, np.ndarray]
) -> None:
    state: list[Weights] = []
    current, examples = model(questions["base"]), questions["examples"].tolist()
    for number, rows in enumerate(questions["updates"]):
        result = round_result(read_policy(policy), current, [model(row) for row in rows], examples, state)
        current, state = result.weights, list(result.state)
        # Model and state are rounded to float32 in every round; a few steps of it at numbers up to 4.
        assert np.allclose(flat(current), answers[policy][number], rtol=1e-6, atol=2e-6)
    assert not np.allclose(flat(current), questions["base"], atol=1e-3)  # it went somewhere


def test_the_rules_differ_where_they_are_compared(answers: dict[str, np.ndarray]) -> None:
    """By more than is tolerated, or one rule could stand for another and nobody would see."""
    for one, other in itertools.combinations(answers, 2):
        assert np.abs(answers[one] - answers[other]).max() > 1e-4, (one, other)
