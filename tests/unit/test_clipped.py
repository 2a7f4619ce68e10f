"""The sum of clipped gradients in one pass is that of one example after the other, whatever the layers are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fedssh.models import check_spec
from fedssh.models.backend import load_keras
from fedssh.models.clipped import _way, clipped_sums, listening, pieces
from fedssh.models.objective import Objective

keras = load_keras()
layers = keras.layers
OBJECTIVE = Objective(check_spec({"name": "mlp", "input": [6, 5, 2], "classes": 3}))


def network(*between: Any) -> Any:
    images = x = layers.Input((6, 5, 2))
    for layer in (*between, layers.Flatten(), layers.Dense(3, "softmax")):
        x = layer(x)
    return keras.Model(images, x)


def low_rank(one: Any) -> Any:
    one.layers[2].enable_lora(2)
    return one


def twice(x: Any) -> Any:
    same = layers.Conv2D(2, 2, padding="same")
    return same(same(x))


def beside(x: Any) -> Any:
    sides = [layers.Conv2D(2, 1, activation="relu")(x), layers.Conv2D(3, 3, padding="same")(x)]
    return layers.Concatenate()(sides)


NETWORKS: dict[str, Callable[[], Any]] = {
    "dense": lambda: network(layers.Flatten(), layers.Dense(4, "tanh", use_bias=False), layers.Dense(5, "relu")),
    "valid": lambda: network(layers.Conv2D(3, (3, 2), activation="relu"), layers.MaxPooling2D(2)),
    "same": lambda: network(layers.Conv2D(2, (4, 3), padding="same", activation="gelu", use_bias=False)),
    "strides": lambda: network(layers.Conv2D(2, 3, strides=2, padding="same"), layers.Conv2D(3, 2, strides=(1, 2))),
    "wide": lambda: network(layers.Conv2D(9, (5, 3), strides=2, padding="same"), layers.AveragePooling2D(2)),
    "wide, valid": lambda: network(layers.Conv2D(8, (5, 4), activation="sigmoid", use_bias=False)),
    "beside": lambda: network(layers.ReLU(), beside),
    "mirrored": lambda: network(lambda x: keras.ops.flip(x, axis=-1), layers.Conv2D(3, 3), layers.ZeroPadding2D(1)),
    "frozen": lambda: network(layers.Conv2D(3, 3, trainable=False), layers.Conv2D(2, 2)),
}


def gradients_of(one: Any, image: Any, label: Any) -> tuple[list[Any], float]:
    """Of a single example by each weight that is trained, and their length."""
    import tensorflow

    with tensorflow.GradientTape() as tape:
        loss = OBJECTIVE.mean(label[None], one(image[None], training=True))
    found = [each.numpy() for each in tape.gradient(loss, [variable.value for variable in one.trainable_variables])]
    return found, float(np.sqrt(sum((each.astype(np.float64) ** 2).sum() for each in found)))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_sum_is_that_of_single_examples(name: str) -> None:
    import tensorflow

    one, random = NETWORKS[name](), np.random.default_rng(1)
    images = random.random((5, 6, 5, 2), np.float32) * 3
    images[2] *= 1e-3
    images[3, 0, 0, 0] = np.inf  # its gradient is no number
    labels = tensorflow.constant(random.integers(0, 3, 5))
    single = [gradients_of(one, image, label) for image, label in zip(images, labels, strict=True)]
    finite = [length for _, length in single if np.isfinite(length)]
    clip = float(np.mean(finite))
    assert len(finite) == 4 and min(finite) < clip < max(finite)
    wanted = [
        sum(each[number] * min(1.0, clip / length) for each, length in single if np.isfinite(length))
        for number in range(len(one.trainable_variables))
    ]
    assert pieces(one, OBJECTIVE, (6, 5, 2)) > 0
    summed = tensorflow.function(lambda: clipped_sums(one, OBJECTIVE, clip, tensorflow.constant(images), labels))
    found, _, right = summed.get_concrete_function()()
    for ours, theirs in zip(found, wanted, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-6)
    assert int(right) == int(OBJECTIVE.right(labels, one(images)))


def test_each_way_is_one_of_those_that_are_tested() -> None:
    ways = set()
    for name in ("dense", "strides", "wide"):
        one = NETWORKS[name]()
        with listening(one) as used:
            one(np.zeros((1, 6, 5, 2), np.float32))
        ways |= {_way(each).__name__ for each in used}
    assert ways == {"_Dense", "_Convolution", "_WideConvolution"}


REFUSED: dict[str, Callable[[], Any]] = {
    "another layer": lambda: network(layers.LayerNormalization()),
    "a function of the whole batch": lambda: network(lambda x: x - keras.ops.mean(x, axis=0)),
    "images beside each other": lambda: network(lambda x: layers.Concatenate(axis=0)([x, x])),
    "its own activation": lambda: network(layers.Conv2D(2, 2, activation=lambda x: x - keras.ops.mean(x, axis=0))),
    "groups": lambda: network(layers.Conv2D(4, 2, groups=2)),
    "gaps": lambda: network(layers.Conv2D(4, 2, dilation_rate=2)),
    "a dense layer of places": lambda: network(layers.Dense(4)),
    "low-rank parts beside a kernel": lambda: low_rank(network(layers.Flatten(), layers.Dense(8, use_bias=False))),
    "a penalty": lambda: network(layers.Conv2D(2, 2, kernel_regularizer="l2")),
    "a layer used twice": lambda: network(twice),
    "a network in it": lambda: network(keras.Sequential([layers.Conv2D(2, 2)])),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_it_does_not_know_is_left_to_others(what: str) -> None:
    one = REFUSED[what]()
    assert pieces(one, OBJECTIVE, (6, 5, 2)) == 0
    assert not any("call" in vars(layer) for layer in one.layers)


def test_large_images_come_in_small_pieces() -> None:
    small, large = (
        keras.Sequential([layers.Input((size, size, 1)), layers.Conv2D(8, 3), layers.Flatten(), layers.Dense(3)])
        for size in (16, 512)
    )
    assert pieces(small._functional, OBJECTIVE, (16, 16, 1)) == 64
    assert 1 <= pieces(large._functional, OBJECTIVE, (512, 512, 1)) < 4
