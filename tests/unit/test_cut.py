"""Where networks can be cut, and that parts of one learn what the whole would have learned."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from fedssh import models
from fedssh.models.costs import usual
from fedssh.models.cut import cuts, find, parts
from fedssh.models.data.images import Images
from fedssh.models.parts import ITERATION, Part
from fedssh.models.recipe import PLAIN, Recipe
from fedssh.models.training import Trainer, resident

CNN = {"name": "cnn", "input": [10, 10, 1], "classes": 2}
MLP = {"name": "mlp", "input": [4, 4, 1], "classes": 3}


def branched() -> keras.Model:
    """Two ways from `first` to `joined`; `twice` is passed two times."""
    layers = keras.layers
    given = keras.Input((4,), name="given")
    first = layers.Dense(5, name="first")(given)
    left, right = layers.Dense(3, name="left")(first), layers.Dense(3, name="right")(first)
    joined = layers.Add(name="joined")([left, right])
    twice = layers.Dense(3, name="twice")
    between = layers.Activation("relu", name="between")(twice(joined))
    return keras.Model(given, layers.Dense(1, name="output")(twice(between)), name="branched")


def test_a_cut_is_where_every_path_passes() -> None:
    found = {cut.layer: cut.shape for cut in cuts(branched())}
    assert found == {"first": (5,), "joined": (3,)}  # neither between the two ways nor between the two passes


def test_there_are_weights_on_either_side() -> None:
    network = models.build(MLP)
    assert [layer.name for layer in network.layers] == ["images", "flatten", "dense1", "dense2", "output"]
    assert [(cut.layer, cut.floats) for cut in cuts(network)] == [("dense1", 200), ("dense2", 200)]


def test_an_error_lists_the_valid_cuts() -> None:
    network = models.build(CNN)
    with pytest.raises(ValueError, match="cnn has no layer 'pol1'; did you mean 'pool1'\\? it can be cut after conv1,"):
        find(network, "pol1")
    with pytest.raises(ValueError, match="cnn cannot be cut after output; it can be cut after conv1, pool1, conv2,"):
        find(network, "output")
    with pytest.raises(ValueError, match="not in its order: pool2, conv1"):
        parts(network, ["pool2", "conv1"])
    given = keras.Input((4,))
    single = keras.Model(given, keras.layers.Dense(1, name="dense")(given), name="single")
    with pytest.raises(ValueError, match="single cannot be cut: everything that it has to learn is in one layer"):
        find(single, "dense")


def test_what_is_cut_where_nobody_says_leaves_a_site_little_to_compute() -> None:
    assert usual(models.build({"name": "cnn", "input": [28, 28, 1], "classes": 2})) == "pool1"
    assert usual(models.build(MLP)) == "dense1"  # no cut is light: the first


def data(spec: dict[str, Any], number: int = 22) -> Images:
    random = np.random.default_rng(0)
    images = random.random((number, *spec["input"]), dtype=np.float32)
    return Images(images, random.integers(0, spec["classes"], number))


def steps(pieces: list[Part], examples: Images, epochs: range, batch: int = 8) -> tuple[float, float]:
    """Train parts as rooms would that exchange what passes the cuts; the last epoch's mean loss, and how much right."""
    loss = right = 0.0
    for epoch in epochs:
        order, loss, right = np.random.default_rng([7, epoch]).permutation(len(examples)), 0.0, 0.0
        for start in range(0, len(order), batch):
            some = order[start : start + batch]
            given = [examples.images[some]]
            for part in pieces[:-1]:
                given.append(part.forward(given[-1]).numpy())
            gradient, mean, found = pieces[-1].step(given[-1], examples.labels[some])
            loss, right = loss + mean * len(some), right + found
            for part, batch_given in zip(pieces[-2::-1], given[-2::-1], strict=True):
                gradient = part.backward(batch_given, gradient)
    return loss / len(examples), right / len(examples)


def joined(pieces: list[Part]) -> dict[str, bytes]:
    return {name: array.tobytes() for part in pieces for name, array in part.weights().items()}


PLANS = [
    (CNN, ["pool1"], "adam", 0.0, PLAIN),
    (CNN, ["pool1", "flatten"], "sgd", 0.9, PLAIN),
    (MLP, ["dense1"], "adamw", 0.0, Recipe(weight_decay=0.01, learning_rate_schedule="cosine", warmup=2)),
    (CNN, ["conv1", "pool2", "dense"], "rmsprop", 0.0, Recipe(augment="flips,shifts")),
]


@pytest.mark.parametrize(("spec", "after", "optimizer", "momentum", "recipe"), PLANS)
def test_parts_learn_what_the_whole_learns(
    spec: dict[str, Any], after: list[str], optimizer: str, momentum: float, recipe: Recipe
) -> None:
    examples, spec = data(spec), models.check_spec(spec)
    whole = Trainer(spec, optimizer, 0.01, momentum, recipe=recipe)
    pieces = [Part(spec, after, n, optimizer, 0.01, momentum, recipe=recipe) for n in range(len(after) + 1)]
    for part in pieces:
        part.load(whole.weights())
        part.fresh(7, 2, 3)
    whole.fresh(7, 2, 3)
    for epoch in range(2):
        order = np.random.default_rng([7, epoch]).permutation(len(examples))
        told = whole.epoch(resident(examples), order, 8)
    assert steps(pieces, examples, range(2)) == pytest.approx(told, abs=1e-12)
    assert joined(pieces) == {name: array.tobytes() for name, array in whole.weights().items()}


class Odd:
    """A network with all that has a memory of its own: dropout, batch normalisation, a regularizer."""

    @staticmethod
    def of(monkeypatch: pytest.MonkeyPatch) -> None:
        def build(spec: object, precision: str = "float32") -> keras.Model:
            layers = keras.layers
            given = keras.Input((4, 4, 1), name="images")
            x = layers.Flatten(name="flatten")(given)
            x = layers.Dense(6, name="first", kernel_regularizer=keras.regularizers.L2(0.1))(x)
            x = layers.Dropout(0.5, name="drop1")(layers.BatchNormalization(name="norm1")(x))
            x = layers.Dense(6, name="second", kernel_regularizer="l1")(x)
            x = layers.Dropout(0.5, name="drop2")(layers.BatchNormalization(name="norm2")(x))
            return keras.Model(given, layers.Dense(3, activation="softmax", name="output")(x), name="odd")

        monkeypatch.setattr("fedssh.models.parts.build", build)
        monkeypatch.setattr("fedssh.models.training.build", build)


@pytest.mark.parametrize("cut", ["first", "drop1", "second", "norm2"])
def test_dropout_statistics_and_penalties_are_as_in_one_piece(cut: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Odd.of(monkeypatch)
    examples = data(MLP)
    whole = Trainer(MLP, "adam", 0.01)
    pieces = [Part(MLP, [cut], number, "adam", 0.01) for number in range(2)]
    for part in pieces:
        part.load(whole.weights())
        part.fresh(3)
    whole.fresh(3)
    whole.epoch(resident(examples), np.random.default_rng([7, 1]).permutation(len(examples)), 8)
    steps(pieces, examples, range(1, 2))
    assert joined(pieces) == {name: array.tobytes() for name, array in whole.weights().items()}


def test_what_is_sent_again_is_the_same_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    Odd.of(monkeypatch)
    examples, front = data(MLP), Part(MLP, ["norm2"], 0, "adam", 0.01)
    front.fresh(3)
    before = {**joined([front]), **{name: one.tobytes() for name, one in front.generators().items()}}
    first, second = (front.forward(examples.images).numpy().tobytes() for _ in range(2))
    assert first == second
    assert before == {**joined([front]), **{name: one.tobytes() for name, one in front.generators().items()}}


@pytest.mark.parametrize("optimizer", ["adam", "nadam", "sgd", "adagrad"])
def test_who_goes_on_from_weights_state_and_random_numbers_goes_on_the_same(
    optimizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Odd.of(monkeypatch)
    examples, cut = data(MLP), ["norm1"]
    one = [Part(MLP, cut, number, optimizer, 0.01) for number in range(2)]
    for part in one:
        part.fresh(3)
    steps(one, examples, range(1))
    other = [Part(MLP, cut, number, optimizer, 0.01) for number in range(2)]
    for part, source in zip(other, one, strict=True):
        part.load(source.weights())
        part.fresh(3)
        part.load_state(source.state())
        part.load_generators(source.generators())
        assert part.state()[ITERATION].tolist() == [0, 3]
    steps(one, examples, range(1, 2))
    steps(other, examples, range(1, 2))
    assert joined(one) == joined(other)


def test_a_recipe_that_needs_the_whole_network_is_refused() -> None:
    with pytest.raises(ValueError, match=r"clip_norm is 1\.0, but a network in several parts has none"):
        Part(MLP, ["dense1"], 0, "adam", 0.01, recipe=Recipe(clip_norm=1.0))
    with pytest.raises(ValueError, match="class_weights is balanced"):
        Part(MLP, ["dense1"], 0, "adam", 0.01, recipe=Recipe(class_weights="balanced"))


def test_another_part_s_state_or_weights_are_refused() -> None:
    front, back = (Part(MLP, ["dense1"], number, "adam", 0.01) for number in range(2))
    with pytest.raises(ValueError, match="the optimizer's state lacks dense1_kernel_momentum"):
        front.load_state(back.state())
    with pytest.raises(ValueError, match="tensor dense1/kernel is missing"):
        front.load(back.weights())
