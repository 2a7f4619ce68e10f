"""Specs and the registry without Keras; then real networks: their sizes, names and weights."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedssh import models
from fedssh.models import networks
from fedssh.models.backend import load_keras


def spec(name: str, size: int = 28, channels: int = 1, classes: int = 2, **parameters: int) -> dict[str, Any]:
    return {"name": name, "input": [size, size, channels], "classes": classes, **parameters}


def test_the_registry_finds_every_architecture_and_nothing_else() -> None:
    assert models.architectures() == ("alexnet", "cnn", "lenet", "mlp", "squeezenet")


def test_an_architecture_is_added_by_adding_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tiny.py").write_text(
        "from keras import layers\n"
        "PARAMETERS = {'units': 3}\n"
        "def check(spec): pass\n"
        "def hidden(images, spec):\n"
        "    return layers.Dense(spec['units'], name='dense')(layers.Flatten(name='flatten')(images))\n"
    )
    monkeypatch.setattr(networks, "__path__", [*networks.__path__, str(tmp_path)])
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
        (spec("alexnet", size=62), "at least 63x63, found 62x62"),
        (spec("alexnet", 128, 3, units=10**9), "units must be a whole number"),
        (spec("squeezenet", 128), "needs colour images, 3 channels, found 1"),
        (spec("squeezenet", 30, 3), "at least 31x31, found 30x30"),
        (spec("squeezenet", 31, 3, trained=11), "has 10 blocks to train, found 11"),
        (spec("squeezenet", 31, 3, trained=0), "trained must be a whole number in 1"),
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
        "import sys; from fedssh import models; "
        "models.check_spec({'name': 'cnn', 'input': [28, 28, 1], 'classes': 2}); "
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
        (spec("alexnet", 128, 3, units=512), 5_190_529),
        # Iandola 2016 gives 1.24 million with conv10, whose 513,000 weights are for the 1000 classes of ImageNet.
        (spec("squeezenet", 128, 3), 1_235_496 - 513_000 + 513),
    ],
)
def test_networks_have_their_published_sizes(network: dict[str, Any], parameters: int) -> None:
    model = models.build(network)
    assert model.count_params() == parameters
    shapes = {name: array.shape for name, array in models.get_weights(model).items()}
    assert list(models.shapes(network).items()) == list(shapes.items()), "the same without making any, in this order"


def test_a_network_of_a_terabyte_is_measured_without_memory() -> None:
    shapes = models.shapes(spec("mlp", width=65_536, depth=64))
    assert sum(math.prod(shape) for shape in shapes.values()) == 270_638_579_713
    with load_keras().StatelessScope():
        pass  # at its end Keras makes whatever variables are waiting for it
    assert models.build(spec("mlp", 4, width=5)).count_params() == 16 * 5 + 5 + 5 * 5 + 5 + 6


@pytest.mark.parametrize(
    "network",
    [
        spec("cnn", 10),
        spec("cnn", 8, depth=8),
        spec("lenet", 12, 3, 5),
        spec("mlp", 1, classes=3),
        spec("cnn", 33, 3, 4),
        spec("alexnet", 63, 1, 3, units=8),
        spec("alexnet", 64, 3, units=8),
        spec("squeezenet", 31, 3, 5),
        spec("squeezenet", 48, 3),
        {"name": "squeezenet", "input": [64, 49, 3], "classes": 2, "trained": 1},
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


def test_alexnet_has_the_maps_of_the_paper_at_its_size() -> None:
    model = models.build(spec("alexnet", 224, 3, 1000, units=1))
    maps = {
        name: tuple(model.get_layer(name).output.shape[1:]) for name in ("conv1", "pool1", "pool2", "conv5", "pool5")
    }
    assert maps == {
        "conv1": (55, 55, 96),
        "pool1": (27, 27, 96),
        "pool2": (13, 13, 256),
        "conv5": (13, 13, 256),
        "pool5": (6, 6, 256),
    }


@pytest.mark.parametrize(("trained", "first"), [(1, "output"), (2, "fire9"), (3, "fire8"), (9, "fire2"), (10, "conv1")])
def test_squeezenet_trains_the_blocks_at_its_end(trained: int, first: str) -> None:
    model = models.build(spec("squeezenet", 31, 3, 4, trained=trained))
    blocks = list(dict.fromkeys(variable.path.split("/")[0].split("_")[0] for variable in model.trainable_variables))
    assert blocks[0] == first
    assert len(blocks) == trained
    assert blocks[-1] == "output"


def test_frozen_weights_stay_when_it_learns_and_travel_all_the_same() -> None:
    model = models.build(spec("squeezenet", 31, 3, trained=2))
    whole = models.build(spec("squeezenet", 31, 3))
    shapes = {name: array.shape for name, array in models.get_weights(model).items()}
    assert shapes == {name: array.shape for name, array in models.get_weights(whole).items()}
    assert list(shapes) == list(models.get_weights(whole)), "names and order do not depend on what is trained"
    before = models.get_weights(model)
    images = np.random.default_rng(0).random((8, 31, 31, 3), dtype=np.float32)
    model.compile("sgd", "binary_crossentropy")
    model.fit(images, np.arange(8) % 2, verbose=0)
    after = models.get_weights(model)
    moved = {name.split("_")[0].split("/")[0] for name in before if not np.array_equal(before[name], after[name])}
    assert moved == {"fire9", "output"}


def test_squeezenet_sees_what_its_weights_expect() -> None:
    """RGB in 0..1 becomes BGR in 0..255 without the means, before conv1."""
    import keras

    model = models.build(spec("squeezenet", 31, 3))
    seen = keras.Model(model.input, model.get_layer("mean").output)
    red = np.zeros((1, 31, 31, 3), np.float32)
    red[..., 0] = 1
    assert np.allclose(np.asarray(seen(red))[0, 5, 5], [-104.006, -116.669, 255 - 122.679], atol=1e-3)


def test_dropout_only_acts_in_training() -> None:
    for network in (spec("alexnet", 63, 1, units=8), spec("squeezenet", 31, 3)):
        load_keras().utils.set_random_seed(1)  # eight units can all be dead by chance, and then nothing is dropped
        model = models.build(network)
        images = np.random.default_rng(0).random((2, *network["input"]), dtype=np.float32)
        assert np.array_equal(model(images), model(images))
        assert not np.array_equal(model(images, training=True), model(images, training=True))
        assert not any("seed" in name for name in models.get_weights(model))


def test_given_imagenet_weights_tell_cats_from_dogs() -> None:
    """A linear probe on the pooled features of pictures that the weights have never seen."""
    folder = Path(os.environ.get("FEDSSH_DATA", ""))
    weights, pets = folder / "squeezenet_v11_imagenet.npz", folder / "cats_dogs_128.tar"
    if not os.environ.get("FEDSSH_DATA") or not (weights.exists() and pets.exists()):
        pytest.skip("set FEDSSH_DATA to a folder with squeezenet_v11_imagenet.npz and cats_dogs_128.tar")
    import keras
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from fedssh.models.data import datasets

    model = models.build(spec("squeezenet", 128, 3))
    with np.load(weights, allow_pickle=False) as arrays:
        given = {name.replace("/", "_").replace(":", "/"): arrays[name] for name in arrays.files}
    expected = models.get_weights(model)
    models.set_weights(model, expected | {name: array for name, array in given.items() if name in expected})
    features = keras.Model(model.input, model.get_layer("average").output)
    splits = datasets.open_dataset("cats_dogs_published", folder).splits
    train, test = splits["val"], splits["test"].take(np.arange(0, 1013, 3))  # val is smaller than train
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2000))
    probe.fit(features.predict(train.images, verbose=0), train.labels)
    assert probe.score(features.predict(test.images, verbose=0), test.labels) > 0.9
