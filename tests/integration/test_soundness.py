"""The real judge with a network of batch normalisation and regularizers: rounds of it, and what becomes current."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedssh.charity.judge.client import Judge
from fedssh.models import networks
from fedssh.models.backend import load_keras
from fedssh.models.data import datasets
from fedssh.models.data.images import Images
from fedssh.models.training import Trainer, resident
from fedssh.weights import read_header, read_weights, write_weights

ARCHITECTURE = '''"""Two dense layers with batch normalisation between them, punished for large weights."""
PARAMETERS = {"width": 8}
def check(spec): pass
def hidden(images, spec):
    from keras import layers
    x = layers.Dense(spec["width"], activation="relu", kernel_regularizer="l2", name="dense1")(layers.Flatten()(images))
    x = layers.BatchNormalization(momentum=0.1, name="normal")(x)
    return layers.Dense(spec["width"], activation="relu", name="dense2")(x)
'''
SPEC = {"name": "normalised", "input": [6, 6, 1], "classes": 2, "width": 8}
PLAN = {"optimizer": "sgd", "learning_rate": 0.05, "momentum": 0.0, "batch_size": 16}
VARIANCE = "normal/moving_variance"
# An architecture is a file in a folder of `networks`.
STARTED = (
    "import sys; from fedssh.models import networks; networks.__path__.append(sys.argv.pop(1)); "
    "from fedssh.charity.judge.process import main; main()"
)


def pictures(number: int, seed: int) -> Images:
    """Noise of little spread, brighter in class 1: far from the variance of 1 that normalisation begins with."""
    random = np.random.default_rng(seed)
    labels = np.arange(number) % 2
    pixels = 0.3 + 0.1 * labels[:, None, None, None] + random.normal(0, 0.02, (number, 6, 6, 1))
    return Images(pixels.astype(np.float32), labels.astype(np.int64))


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with one more architecture, which is known here, too."""
    load_keras(1)
    folder = tmp_path_factory.mktemp("architectures")
    (folder / "normalised.py").write_text(ARCHITECTURE)
    networks.__path__.append(str(folder))
    yield folder
    networks.__path__.remove(str(folder))
    sys.modules.pop("fedssh.models.networks.normalised", None)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "charity.npz"
    datasets.save(path, {"train": pictures(100, 1), "val": pictures(60, 2)})
    return path


@pytest.fixture(scope="module")
def judge(installed: Path, data: Path) -> Iterator[Judge]:
    words = [sys.executable, "-c", STARTED, str(installed), f"--data={data}", f"--spec={json.dumps(SPEC)}"]
    judge = Judge(words)
    yield judge
    judge.stop()


def tensors(path: Path) -> dict[str, np.ndarray]:
    return read_weights(path, read_header(path).tensors)


@pytest.fixture(scope="module")
def first(judge: Judge, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first model; without an epoch, so its statistics are what they begin with."""
    out = tmp_path_factory.mktemp("first") / "first.safetensors"
    judge.ask({"genesis": {"out": str(out), "seed": 1, "plan": PLAN, "epochs": 0, "weights": None}})
    return out


@pytest.mark.parametrize("server", ["momentum", "adam", "yogi"])
def test_variances_of_rounds_stay_variances(judge: Judge, first: Path, tmp_path: Path, server: str) -> None:
    trainer = Trainer(SPEC, "sgd", 0.05)
    sites = [resident(pictures(48, seed)) for seed in (10, 11)]
    base, state = first, list[Path]()
    for number in range(4):
        said = []
        for place, examples in enumerate(sites):
            trainer.load(tensors(base))
            trainer.fresh(number)
            trainer.epoch(examples, np.arange(48), 16)
            write_weights(tmp_path / f"{number}-{place}.safetensors", trainer.weights(), SPEC)
            said.append(trainer.weights())
        updates = [(tmp_path / f"{number}-{place}.safetensors", 1 + 2 * place) for place in range(2)]
        out = tmp_path / f"round-{number}.safetensors"
        answer = judge.combine(f"fedavg:server={server}", base, updates, state, out)
        assert np.isfinite(answer["metrics"]["loss"])
        result = tensors(out)
        for name in ("normal/moving_mean", VARIANCE):
            np.testing.assert_allclose(result[name], said[0][name] / 4 + said[1][name] * 3 / 4, rtol=1e-6, atol=1e-9)
        assert result[VARIANCE].min() >= 0
        kept = [out.with_suffix(f".server{place}.safetensors") for place in range(answer["server"])]
        base, state = out, kept
    assert tensors(base)[VARIANCE].max() < 0.1, "they fell from 1, which a step with momentum overshoots"


def better(first: Path) -> dict[str, np.ndarray]:
    """An honest site's model."""
    trainer = Trainer(SPEC, "sgd", 0.05)
    trainer.load(tensors(first))
    for number in range(3):
        trainer.epoch(resident(pictures(96, 20)), np.random.default_rng(number).permutation(96), 16)
    return trainer.weights()


def scaled(weights: dict[str, np.ndarray], factor: float) -> dict[str, np.ndarray]:
    """dense2 multiplied and the output divided: ReLU passes the factor on, so every score stays."""
    changed = dict(weights)
    for name in ("dense2/kernel", "dense2/bias"):
        changed[name] = weights[name] * np.float32(factor)
    changed["output/kernel"] = weights["output/kernel"] / np.float32(factor)
    return changed


def checked(judge: Judge, first: Path, weights: dict[str, np.ndarray], folder: Path, **plan: Any) -> tuple[bool, str]:
    path = folder / "candidate.safetensors"
    write_weights(path, weights, SPEC)
    found = judge.check(path, first, first, {**PLAN, **plan})
    return found["sound"], found["text"]


def test_an_honest_model_is_not_conspicuous(judge: Judge, first: Path, tmp_path: Path) -> None:
    assert checked(judge, first, better(first), tmp_path) == (True, "")


@pytest.mark.parametrize(
    ("factor", "sound", "words"),
    [
        (2.0**20, False, "layer dense2 is 1,0"),
        (2.0**-20, False, "layer output is 1,"),
        (2.0**3, True, "times as large as the current one, and can be trained"),
    ],
)
def test_scaled_models_are_tried(
    judge: Judge, first: Path, tmp_path: Path, factor: float, sound: bool, words: str
) -> None:
    honest = better(first)
    write_weights(tmp_path / "honest.safetensors", honest, SPEC)
    write_weights(tmp_path / "scaled.safetensors", scaled(honest, factor), SPEC)
    assert judge.score(tmp_path / "honest.safetensors") == judge.score(tmp_path / "scaled.safetensors")
    found = checked(judge, first, scaled(honest, factor), tmp_path)
    assert found[0] is sound and words in found[1], found
    assert found == checked(judge, first, scaled(honest, factor), tmp_path), "always the same"
    assert checked(judge, first, honest, tmp_path) == (True, ""), "a trial leaves no trace"
