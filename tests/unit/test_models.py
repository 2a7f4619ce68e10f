"""Specs and the registry without Keras; then real networks: their sizes, names and weights."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import models


def spec(name: str, size: int = 28, channels: int = 1, classes: int = 2, **parameters: int) -> dict[str, Any]:
    return {"name": name, "input": [size, size, channels], "classes": classes, **parameters}


def test_the_registry_finds_every_architecture_and_nothing_else() -> None:
    assert models.architectures() == ("cnn", "lenet", "mlp")


def test_an_architecture_is_added_by_adding_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tiny.py").write_text(
        "from keras import layers\n"
        "PARAMETERS = {'units': 3}\n"
        "def check(spec): pass\n"
        "def hidden(images, spec):\n"
        "    return layers.Dense(spec['units'], name='dense')(layers.Flatten(name='flatten')(images))\n"
    )
    monkeypatch.setattr(models, "__path__", [*models.__path__, str(tmp_path)])
    assert "tiny" in models.architectures()
    weights = models.get_weights(models.build(spec("tiny", size=2, classes=4)))
    assert {name: array.shape for name, array in weights.items()} == {
        "dense/kernel": (4, 3),
        "dense/bias": (3,),
        "output/kernel": (3, 4),
        "output/bias": (4,),
    }


def test_check_spec_writes_out_the_defaults() -> None:
    assert models.check_spec(spec("cnn")) == {"name": "cnn", "depth": 4, "input": [28, 28, 1], "classes": 2}
    assert models.check_spec(models.check_spec(spec("mlp"))) == models.check_spec(spec("mlp", width=200, depth=2))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"input": [28, 28, 1], "classes": 2}, "no architecture is called None"),
        (spec("cn"), "did you mean 'cnn'"),
        (spec("images"), "no architecture is called 'images'"),
        (spec("../cnn"), "no architecture is called"),
        ({"name": "cnn", "classes": 2}, "lacks 'input'"),
        ({"name": "cnn", "input": [28, 28, 1]}, "lacks 'classes'"),
        (spec("cnn", dept=4), "no parameter 'dept'; did you mean 'depth'"),
        (spec("cnn", depth=5), "depth 4 or 8, found 5"),
        (spec("cnn", depth=True), "depth must be a whole number"),
        (spec("cnn", classes=1), "classes must be a whole number in 2"),
        (spec("cnn", size=9), "at least 10x10, found 9x9"),
        (spec("cnn", size=7, depth=8), "at least 8x8, found 7x7"),
        (spec("lenet", size=11), "at least 12x12, found 11x11"),
        (spec("mlp", depth=65), "at most 64 hidden layers"),
        (spec("mlp", width=10**9), "width must be a whole number"),
        ({"name": "cnn", "input": [28, 28], "classes": 2}, "height, width and channels"),
        ({"name": "cnn", "input": [10**5, 10**5, 1], "classes": 2}, "at most 16,777,216"),
        ({"name": "cnn", "input": [28.0, 28, 1], "classes": 2}, "whole number"),
        (["cnn"], "found list"),
    ],
)
def test_check_spec_says_what_is_wrong(wrong: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        models.check_spec(wrong)


def test_checking_a_spec_loads_neither_keras_nor_numpy() -> None:
    probe = (
        "import sys, models; models.check_spec({'name': 'cnn', 'input': [28, 28, 1], 'classes': 2}); "
        "models.architectures(); sys.exit(bool({'keras', 'tensorflow', 'numpy', 'sklearn', 'PIL'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", probe], check=False).returncode == 0


@pytest.mark.parametrize(
    ("network", "parameters"),
    [
        (spec("cnn"), 223_873),
        (spec("cnn", classes=10), 225_034),
        (spec("cnn", depth=8), 286_561),
        (spec("lenet", classes=10), 61_706),  # LeCun 1998 counts 60,000 with the sparse C3
        (spec("mlp", classes=10), 199_210),  # McMahan 2017, section 3
    ],
)
def test_networks_have_their_published_sizes(network: dict[str, Any], parameters: int) -> None:
    assert models.build(network).count_params() == parameters


@pytest.mark.parametrize(
    "network",
    [
        spec("cnn", 10),
        spec("cnn", 8, depth=8),
        spec("lenet", 12, 3, 5),
        spec("mlp", 1, classes=3),
        spec("cnn", 33, 3, 4),
    ],
)
def test_the_smallest_and_odd_inputs_give_one_probability_per_class(network: dict[str, Any]) -> None:
    images = np.random.default_rng(0).random((3, *network["input"]), dtype=np.float32)
    found = np.asarray(models.build(network)(images))
    assert found.shape == (3, 1 if network["classes"] == 2 else network["classes"])
    assert found.min() >= 0
    assert found.max() <= 1
    if network["classes"] > 2:
        assert np.allclose(found.sum(axis=1), 1, atol=1e-5)


def test_weights_go_from_model_to_model_by_name() -> None:
    one, other = models.build(spec("lenet")), models.build(spec("lenet"))
    images = np.random.default_rng(0).random((4, 28, 28, 1), dtype=np.float32)
    assert not np.allclose(one(images), other(images))
    weights = models.get_weights(one)
    assert list(weights)[:2] == ["c1/kernel", "c1/bias"]
    assert all(array.dtype == np.float32 for array in weights.values())
    models.set_weights(other, weights)
    assert np.array_equal(one(images), other(images))


def test_weights_that_do_not_fit_change_nothing() -> None:
    model = models.build(spec("mlp", 4, width=5))
    before = models.get_weights(model)
    zeros = {name: np.zeros_like(array) for name, array in before.items()}
    for wrong, message in (
        ({name: array for name, array in zeros.items() if name != "output/bias"}, "output/bias is missing"),
        ({**zeros, "evil": zeros["output/bias"]}, "evil is not part of mlp"),
        ({**zeros, "output/bias": np.zeros(2, np.float32)}, r"output/bias is \(2,\), expected \(1,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            models.set_weights(model, wrong)
    after = models.get_weights(model)
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_getting_weights_takes_a_copy() -> None:
    model = models.build(spec("mlp", 4, width=5))
    weights = models.get_weights(model)
    weights["output/bias"] += 1
    assert np.array_equal(models.get_weights(model)["output/bias"], [0.0])
