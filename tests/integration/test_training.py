"""The compiled epoch against Keras' own `fit`, and that nothing but weights, examples, order and seed decides."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fedssh import models
from fedssh.alice.session import Patience
from fedssh.models import fused, score, training
from fedssh.models.backend import load_keras
from fedssh.models.calibrated import shift
from fedssh.models.data.images import Images
from fedssh.models.recipe import Recipe, balanced
from fedssh.models.schedule import Rate
from fedssh.models.training import Interrupted, Trainer, resident

BINARY = {"name": "mlp", "input": [6, 6, 1], "classes": 2, "width": 16}
TEN = {"name": "mlp", "input": [6, 6, 1], "classes": 10, "width": 16}
CONVOLUTIONS = {"name": "cnn", "input": [12, 12, 1], "classes": 2, "depth": 4}
DROPOUT = {"name": "squeezenet", "input": [32, 32, 3], "classes": 2, "trained": 2}
BATCH = 16

Weights = dict[str, np.ndarray]


def some_images(spec: dict[str, Any], number: int, seed: int = 0) -> Images:
    random = np.random.default_rng(seed)
    labels = random.integers(0, spec["classes"], number)
    return Images(random.random((number, *spec["input"]), dtype=np.float32), labels)


def an_order(number: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).permutation(number)


@pytest.fixture(scope="module")
def trainers() -> Callable[..., Trainer]:
    """Trainers, each made once; every test loads its own weights."""
    load_keras(1)
    made: dict[str, Trainer] = {}

    def trainer(spec: dict[str, Any], optimizer: str = "adam", rate: float = 0.01, **more: Any) -> Trainer:
        key = repr([spec, optimizer, rate, more])
        if key not in made:
            made[key] = Trainer(spec, optimizer, rate, **more)
        made[key].load(start(spec))
        made[key].fresh(1)
        return made[key]

    return trainer


def start(spec: dict[str, Any]) -> Weights:
    """Random weights, the same each time, biases included."""
    load_keras(1).utils.set_random_seed(5)
    random = np.random.default_rng(5)
    built = models.get_weights(models.build(spec))
    return {
        name: array if array.any() else 0.01 * random.random(array.shape, dtype=np.float32)
        for name, array in built.items()
    }


def same(some: Weights, others: Weights) -> bool:
    return some.keys() == others.keys() and all(np.array_equal(some[name], others[name]) for name in some)


# against Keras


def compiled(spec: dict[str, Any], network: Any, optimizer: str, rate: float, momentum: float) -> Any:
    """The network as plain Keras trains it; without XLA, which rounds in another order."""
    load_keras(1)
    network.compile(
        training.new_optimizer(optimizer, rate, momentum),
        loss=models.loss_name(spec),
        metrics=["accuracy"],
        jit_compile=False,
    )
    return network


@pytest.mark.parametrize(
    ("spec", "optimizer", "rate", "momentum"),
    [
        (BINARY, "sgd", 0.1, 0.9),
        (BINARY, "adam", 0.01, 0.0),
        (TEN, "sgd", 0.2, 0.2),
        (TEN, "adam", 0.01, 0.0),
        (CONVOLUTIONS, "adam", 0.001, 0.0),
        (CONVOLUTIONS, "rmsprop", 0.001, 0.0),
    ],
)
def test_epochs_are_those_of_keras_fit(
    trainers: Callable[..., Trainer], spec: dict[str, Any], optimizer: str, rate: float, momentum: float
) -> None:
    """Two epochs with a short last batch. Both compute the same operations in float32, so they may differ in what
    another order of additions rounds: about 1e-7 of a weight a step, and Adam divides by small numbers."""
    examples, number = some_images(spec, 75), 75
    trainer = trainers(spec, optimizer, rate, momentum=momentum)
    network = compiled(spec, models.build(spec), optimizer, rate, momentum)
    models.set_weights(network, start(spec))
    held = resident(examples)
    for epoch in (1, 2):
        order = an_order(number, epoch)
        found = trainer.epoch(held, order, BATCH)
        shuffled = examples.take(order)
        shown = network.fit(shuffled.images, shuffled.labels, batch_size=BATCH, shuffle=False, verbose=0).history
        assert found == pytest.approx((shown["loss"][0], shown["accuracy"][0]), rel=1e-5)
    expected = models.get_weights(network)
    for name, array in trainer.weights().items():
        np.testing.assert_allclose(array, expected[name], rtol=1e-4, atol=1e-6, err_msg=name)
    assert not same(expected, start(spec))


@pytest.mark.parametrize("spec", [BINARY, TEN, CONVOLUTIONS, DROPOUT], ids=lambda spec: str(spec["name"]))
@pytest.mark.parametrize("number", [5, 150])
def test_scores_are_those_of_keras_evaluate(
    trainers: Callable[..., Trainer], spec: dict[str, Any], number: int
) -> None:
    examples = some_images(spec, number)
    trainer = trainers(spec)
    network = compiled(spec, models.build(spec), "adam", 0.01, 0.0)
    models.set_weights(network, start(spec))
    expected = network.evaluate(examples.images, examples.labels, verbose=0)
    assert trainer.evaluate(resident(examples)) == pytest.approx(tuple(expected), rel=1e-5)


def normalised(spec: dict[str, Any], precision: str = "float32") -> Any:
    """A network with batch normalisation."""
    keras = load_keras(1)
    images = keras.Input(shape=tuple(spec["input"]))
    normal = keras.layers.BatchNormalization(name="normal")(keras.layers.Flatten(name="flat")(images))
    return keras.Model(images, keras.layers.Dense(1, activation="sigmoid", name="output")(normal))


def regularized(spec: dict[str, Any], precision: str = "float32") -> Any:
    """A network whose layers are punished for large kernels, large biases and large activations."""
    keras = load_keras(1)
    images = keras.Input(shape=tuple(spec["input"]))
    flat = keras.layers.Flatten(name="flat")(images)
    hidden = keras.layers.Dense(
        8, activation="relu", kernel_regularizer=keras.regularizers.L2(0.1), bias_regularizer="l1",
        activity_regularizer=keras.regularizers.L2(0.001), name="hidden",
    )(flat)  # fmt: skip
    output = keras.layers.Dense(1, activation="sigmoid", kernel_regularizer=keras.regularizers.L2(0.05), name="output")
    return keras.Model(images, output(hidden))


@pytest.mark.parametrize(("optimizer", "rate"), [("sgd", 0.05), ("adam", 0.01)])
def test_regularizers_count_as_in_keras(monkeypatch: pytest.MonkeyPatch, optimizer: str, rate: float) -> None:
    """In the gradients, in the loss of training, and in the loss of scoring."""
    monkeypatch.setattr(training, "build", regularized)
    trainer = Trainer(BINARY, optimizer, rate)
    network = compiled(BINARY, regularized(BINARY), optimizer, rate, 0.0)
    models.set_weights(network, trainer.weights())
    examples, order = some_images(BINARY, 75), np.arange(75)
    held = resident(examples)
    for _ in range(3):
        loss, _ = trainer.epoch(held, order, BATCH)
        shown = network.fit(examples.images, examples.labels, batch_size=BATCH, shuffle=False, verbose=0).history
        assert loss == pytest.approx(shown["loss"][0], rel=1e-5)
        expected, _ = network.evaluate(examples.images, examples.labels, batch_size=64, verbose=0)
        assert trainer.evaluate(held)[0] == pytest.approx(expected, rel=1e-5)
    for name, array in models.get_weights(network).items():
        np.testing.assert_allclose(trainer.weights()[name], array, rtol=1e-4, atol=1e-6, err_msg=name)


def test_moving_averages_are_those_of_keras(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that training changes without gradients, as those of batch normalisation."""
    monkeypatch.setattr(training, "build", normalised)
    trainer = Trainer(BINARY, "sgd", 0.1)
    network = compiled(BINARY, normalised(BINARY), "sgd", 0.1, 0.0)
    begin = trainer.weights()
    models.set_weights(network, begin)
    examples, order = some_images(BINARY, 40), np.arange(40)
    trainer.epoch(resident(examples), order, BATCH)
    network.fit(examples.images, examples.labels, batch_size=BATCH, shuffle=False, verbose=0)
    found, expected = trainer.weights(), models.get_weights(network)
    assert not np.array_equal(found["normal/moving_mean"], begin["normal/moving_mean"])
    for name, array in found.items():
        np.testing.assert_allclose(array, expected[name], rtol=1e-5, atol=1e-6, err_msg=name)
    score = network.evaluate(examples.images, examples.labels, verbose=0)
    assert trainer.evaluate(resident(examples)) == pytest.approx(tuple(score), rel=1e-5), "scored by what they say"
    assert models.statistics(trainer.network) == {"normal/moving_mean", "normal/moving_variance"}


def test_a_network_without_regularizers_pays_nothing_for_them(trainers: Callable[..., Trainer]) -> None:
    """Its graph adds nothing to the loss, so its weights are the same bits as ever."""
    trainer = trainers(TEN)
    assert not trainer.network.losses
    graph: Any = trainer._training._graph
    operations = graph.graph.as_graph_def().library.function
    assert operations
    assert not [node for function in operations for node in function.node_def if node.op == "AddN"]


@pytest.mark.parametrize("patience", [1, 2, 3])
def test_patience_is_keras_early_stopping(patience: int) -> None:
    keras = load_keras(1)

    class Stopping:
        stop_training = False
        metrics: tuple[()] = ()

    random = np.random.default_rng(0)
    rows = [[*random.integers(0, 5, 9).astype(float)] for _ in range(200)]
    nan = float("nan")
    for losses in [*rows, [nan, 1.0, 0.5], [1.0, nan, nan, 0.5, nan], [float("inf"), 1.0, 1.0, 1.0]]:
        early = keras.callbacks.EarlyStopping(monitor="val_loss", patience=patience)
        model: Any = Stopping()
        early.set_model(model)
        early.on_train_begin()
        rule = Patience(patience)
        for epoch, loss in enumerate(losses):
            early.on_epoch_end(epoch, {"val_loss": loss})
            assert rule.over(loss) is model.stop_training, (losses, epoch)
            if model.stop_training:
                break


@pytest.mark.parametrize("spec", [BINARY, TEN])
def test_confusion_is_counted_as_scores_are(trainers: Callable[..., Trainer], spec: dict[str, Any]) -> None:
    trainer, examples = trainers(spec), some_images(spec, 150)
    found = trainer.confusion(resident(examples))
    outputs = trainer.network(examples.images, training=False).numpy()
    expected = score.score(outputs, examples.labels, spec["classes"])
    assert found.tolist() == expected["confusion"]
    assert score.balanced_accuracy(found) == expected["balanced_accuracy"]
    assert found.trace() / 150 == trainer.evaluate(resident(examples))[1]


# what decides


@pytest.mark.parametrize("spec", [TEN, CONVOLUTIONS, DROPOUT], ids=lambda spec: str(spec["name"]))
def test_the_same_seed_gives_the_same_bits_whatever_was_trained_before(
    trainers: Callable[..., Trainer], spec: dict[str, Any]
) -> None:
    trainer = trainers(spec)
    held, order, begin = resident(some_images(spec, 40)), an_order(40), start(spec)

    def train(seed: int) -> Weights:
        trainer.load(begin)
        trainer.fresh(seed)
        trainer.epoch(held, order, BATCH)
        return trainer.weights()

    once, other = train(1), train(2)
    assert same(train(1), once)
    assert same(once, other) is (spec is not DROPOUT), "without dropout nothing is random; with it, the seed decides"
    another = Trainer(spec, "adam", 0.01)
    another.load(begin)
    another.fresh(1)
    another.epoch(held, order, BATCH)
    assert same(another.weights(), once)


def test_slices_change_neither_weights_nor_scores(
    trainers: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, held, order = trainers(DROPOUT), resident(some_images(DROPOUT, 75)), an_order(75)
    whole = trainer.epoch(held, order, BATCH), trainer.weights(), trainer.evaluate(held)
    monkeypatch.setattr(training, "SLICE_SECONDS", 0.0)  # a batch at a time
    trainer, never = trainers(DROPOUT), threading.Event()
    assert trainer.epoch(held, order, BATCH, never) == whole[0]
    assert same(trainer.weights(), whole[1])
    assert trainer.evaluate(held, never) == whole[2]


def test_training_stops_between_two_slices(trainers: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, held = trainers(BINARY), resident(some_images(BINARY, 20))
    stop = threading.Event()
    stop.set()
    with pytest.raises(Interrupted):
        trainer.epoch(held, np.arange(20), BATCH, stop)
    with pytest.raises(Interrupted):
        trainer.evaluate(held, stop)
    assert same(trainer.weights(), start(BINARY))


def test_frozen_layers_stay_and_the_others_are_trained(trainers: Callable[..., Trainer]) -> None:
    trainer, before = trainers(DROPOUT), start(DROPOUT)
    trainer.epoch(resident(some_images(DROPOUT, 20)), np.arange(20), BATCH)
    changed = {name for name, array in trainer.weights().items() if not np.array_equal(array, before[name])}
    assert {name.split("_")[0].split("/")[0] for name in changed} == {"fire9", "output"}


def test_loading_takes_a_copy(trainers: Callable[..., Trainer]) -> None:
    given = start(TEN)
    kept = {name: array.copy() for name, array in given.items()}
    trainer = trainers(TEN)
    trainer.load(given)
    taken = trainer.weights()
    trainer.epoch(resident(some_images(TEN, 40)), np.arange(40), BATCH)
    assert same(given, kept)
    assert same(taken, kept)
    assert not same(trainer.weights(), kept)


def test_weights_of_another_network_are_refused(trainers: Callable[..., Trainer]) -> None:
    with pytest.raises(ValueError, match="tensor output/kernel"):
        trainers(TEN).load(start(BINARY))


def test_one_graph_serves_all_sizes(trainers: Callable[..., Trainer]) -> None:
    """Fewer images than a batch, one image, and an order that takes only some."""
    trainer = trainers(TEN)
    for number, order in ((5, np.arange(5)), (1, np.arange(1)), (50, np.arange(0, 50, 7))):
        loss, accuracy = trainer.epoch(resident(some_images(TEN, number)), order, BATCH)
        assert np.isfinite(loss)
        assert 0 <= accuracy <= 1


# FedProx


def test_the_proximal_term_is_that_of_fedprox(trainers: Callable[..., Trainer]) -> None:
    """The second of two steps: w2 = w1 - rate * (gradient(w1) + mu * (w1 - w0)); Li et al. 2020, equation 2."""
    rate, mu = 0.1, 2.0
    held, first, second = resident(some_images(TEN, 20)), np.arange(10), np.arange(10, 20)
    plain, pulled = trainers(TEN, "sgd", rate), trainers(TEN, "sgd", rate, proximal=mu)
    w0 = start(TEN)
    plain.epoch(held, first, BATCH)
    w1 = plain.weights()
    plain.epoch(held, second, BATCH)
    expected = {name: array - rate * mu * (w1[name] - w0[name]) for name, array in plain.weights().items()}
    pulled.epoch(held, first, BATCH)
    assert same(pulled.weights(), w1), "at the loaded weights the term is 0"
    pulled.epoch(held, second, BATCH)
    for name, array in pulled.weights().items():
        np.testing.assert_allclose(array, expected[name], rtol=1e-5, atol=1e-7, err_msg=name)


def test_a_strong_pull_holds_the_weights(trainers: Callable[..., Trainer]) -> None:
    """At a rate of 1/mu every step goes back to the release, but for one gradient divided by mu."""
    held, order, mu = resident(some_images(TEN, 200)), np.arange(200), 1000.0

    def moved(trainer: Trainer) -> float:
        for _ in range(5):
            trainer.epoch(held, order, BATCH)
        return max(float(np.abs(array - start(TEN)[name]).max()) for name, array in trainer.weights().items())

    free, pulled = (moved(trainers(TEN, "sgd", 1 / mu, proximal=proximal)) for proximal in (0.0, mu))
    assert pulled < free / 10


@pytest.mark.parametrize(
    ("spec", "momentum", "more"),
    [
        (TEN, 0.2, {}),
        (TEN, 0.0, {}),
        (CONVOLUTIONS, 0.9, {"recipe": Recipe(clip_norm=0.5, weight_decay=0.01)}),
        (BINARY, 0.9, {"recipe": Recipe(learning_rate_schedule="cosine", warmup=3), "proximal": 0.1}),
        (CONVOLUTIONS, 0.9, {"recipe": Recipe(class_weights="balanced")}),
    ],
)
def test_steps_in_one_operation_have_the_bits_of_keras(
    monkeypatch: pytest.MonkeyPatch, spec: dict[str, Any], momentum: float, more: dict[str, Any]
) -> None:
    """The SHA-256 of weights over epochs; where this machine's bits would differ, Keras' own operations are used."""
    load_keras(1)
    examples, hashes = resident(some_images(spec, 75)), []
    for same in (fused.same_bits(), False):
        monkeypatch.setattr(training, "same_bits", lambda same=same: same)
        trainer = Trainer(spec, "sgd", 0.1, momentum, **more)
        trainer.load(start(spec))
        trainer.fresh(1, 3, 5)
        for epoch in range(3):
            trainer.epoch(examples, an_order(75, epoch), BATCH)
        found = b"".join(array.tobytes() for array in trainer.weights().values())
        hashes.append(hashlib.sha256(found).hexdigest())
    assert hashes[0] == hashes[1]


def test_a_step_of_other_bits_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    load_keras(1)
    nearly = {"learning_rate": 0.07 * (1 + 1e-7)}
    keras_sgd = fused._keras_sgd
    monkeypatch.setattr(fused, "fused_sgd", lambda config: keras_sgd({**config, **nearly}))
    assert not fused.same_bits.__wrapped__()
    monkeypatch.setattr(fused, "fused_sgd", keras_sgd)
    assert fused.same_bits.__wrapped__()


def test_momentum_needs_sgd() -> None:
    with pytest.raises(ValueError, match=r"momentum 0.5 needs the optimizer sgd, found adam"):
        Trainer(BINARY, "adam", 0.1, momentum=0.5)


# class weights


def rare(spec: dict[str, Any], number: int) -> Images:
    """One image in five is not of class 0, and with ten classes nothing is of the last."""
    found = some_images(spec, number)
    labels = np.where(np.arange(number) % 5 == 0, 1 + found.labels % max(spec["classes"] - 2, 1), 0)
    return Images(found.images, labels)


@pytest.mark.parametrize("spec", [BINARY, TEN, CONVOLUTIONS], ids=lambda spec: str(spec["name"]) + str(spec["classes"]))
def test_class_weights_are_those_of_keras_fit(trainers: Callable[..., Trainer], spec: dict[str, Any]) -> None:
    examples = rare(spec, 75)
    trainer, network = trainers(spec, recipe=Recipe(class_weights="balanced")), models.build(spec)
    network = compiled(spec, network, "adam", 0.01, 0.0)
    models.set_weights(network, start(spec))
    weights = dict(enumerate(balanced(examples.labels, spec["classes"]).tolist()))
    held = resident(examples)
    for epoch in (1, 2):
        order = an_order(75, epoch)
        loss, _ = trainer.epoch(held, order, BATCH)
        shuffled = examples.take(order)
        shown = network.fit(
            shuffled.images, shuffled.labels, batch_size=BATCH, shuffle=False, verbose=0, class_weight=weights
        ).history
        assert loss == pytest.approx(shown["loss"][0], rel=1e-5)
    expected = models.get_weights(network)
    for name, array in trainer.weights().items():
        np.testing.assert_allclose(array, expected[name], rtol=1e-4, atol=1e-6, err_msg=name)


def test_class_weights_are_of_the_examples_at_hand_and_not_in_scores(trainers: Callable[..., Trainer]) -> None:
    """Sites train in the same trainer one after the other; what is scored is plain."""
    spec, recipe = BINARY, Recipe(class_weights="balanced")
    plain, weighted = trainers(spec), trainers(spec, recipe=recipe)
    one, other = rare(spec, 40), some_images(spec, 40, seed=3)
    assert weighted.evaluate(resident(one)) == plain.evaluate(resident(one))
    weighted.epoch(resident(other), an_order(40), BATCH)
    weighted = trainers(spec, recipe=recipe)
    weighted.epoch(resident(one), an_order(40), BATCH)
    alone = Trainer(spec, "adam", 0.01, recipe=recipe)
    alone.load(start(spec))
    alone.fresh(1)
    alone.epoch(resident(one), an_order(40), BATCH)
    assert same(weighted.weights(), alone.weights())
    plain.epoch(resident(one), an_order(40), BATCH)
    assert not same(weighted.weights(), plain.weights())


def test_a_site_with_one_class_trains_as_without_weights(trainers: Callable[..., Trainer]) -> None:
    found = some_images(TEN, 40)
    examples, order = resident(Images(found.images, np.full(40, 3))), an_order(40)
    plain, weighted = trainers(TEN), trainers(TEN, recipe=Recipe(class_weights="balanced"))
    for trainer in (plain, weighted):
        trainer.epoch(examples, order, BATCH)
    assert same(plain.weights(), weighted.weights())


# a loss that is calibrated for unlike labels

SHARES = {2: (0.3, 0.7), 10: (0.19, *(0.09,) * 9)}


def calibrated_loss(weights: Weights, examples: Images, moved: np.ndarray) -> float:
    """The mean loss of a network with one hidden layer, in NumPy with 64 bits: of logits that are moved."""
    one = {name: np.asarray(array, np.float64) for name, array in weights.items()}
    pixels = examples.images.reshape(len(examples), -1).astype(np.float64)
    hidden = np.maximum(pixels @ one["dense1/kernel"] + one["dense1/bias"], 0)
    logits = hidden @ one["output/kernel"] + one["output/bias"] + moved
    if logits.shape[1] == 1:
        logits = np.concatenate([np.zeros_like(logits), logits], axis=1)
    largest = logits.max(axis=1, keepdims=True)
    every = np.log(np.exp(logits - largest).sum(axis=1)) + largest[:, 0]
    return float(np.mean(every - logits[np.arange(len(examples)), examples.labels]))


@pytest.mark.parametrize("sure", [0.0, 30.0])
@pytest.mark.parametrize("classes", [2, 10])
def test_a_calibrated_step_is_that_of_the_formula(trainers: Callable[..., Trainer], classes: int, sure: float) -> None:
    """Loss and gradient, by finite differences; also where probabilities are 0 and 1 in float32."""
    spec = {**(BINARY if classes == 2 else TEN), "depth": 1}
    examples, shares = rare(spec, 40), SHARES[classes]
    begun = {name: array.copy() for name, array in start(spec).items()}
    begun["output/bias"][-1] += sure  # the class that is not here, or rare
    trainer = trainers(spec, "sgd", 1.0, recipe=Recipe(calibrate="labels", label_shares=shares))
    trainer.load(begun)
    loss, _ = trainer.epoch(resident(examples), np.arange(40), 40)
    moved = shift(examples.labels, shares).astype(np.float64)
    assert loss == pytest.approx(calibrated_loss(begun, examples, moved), rel=1e-6, abs=1e-6)
    gradients = {name: begun[name].astype(np.float64) - array for name, array in trainer.weights().items()}
    assert max(float(np.abs(one).max()) for one in gradients.values()) > 0.01
    random = np.random.default_rng(2)
    for name, array in gradients.items():
        for at in random.choice(array.size, min(array.size, 12), replace=False):
            sides = []
            for change in (1e-5, -1e-5):
                weights = {other: begun[other].astype(np.float64) for other in begun}
                weights[name].flat[at] += change
                sides.append(calibrated_loss(weights, examples, moved))
            step = 4e-6 if name == "output/bias" and sure else 1e-6  # a float32 near 30 has no more digits
            assert array.flat[at] == pytest.approx((sides[0] - sides[1]) / 2e-5, abs=step), (name, at)


def test_a_calibrated_loss_is_of_the_examples_at_hand_and_not_in_scores(trainers: Callable[..., Trainer]) -> None:
    recipe = Recipe(calibrate="labels", label_shares=SHARES[2])
    plain, calibrated = trainers(BINARY), trainers(BINARY, recipe=recipe)
    one, other = resident(rare(BINARY, 40)), resident(some_images(BINARY, 40, seed=3))
    assert calibrated.evaluate(one) == plain.evaluate(one)
    calibrated.epoch(other, an_order(40), BATCH)
    calibrated = trainers(BINARY, recipe=recipe)
    calibrated.epoch(one, an_order(40), BATCH)
    alone = Trainer(BINARY, "adam", 0.01, recipe=recipe)
    alone.load(start(BINARY))
    alone.fresh(1)
    alone.epoch(one, an_order(40), BATCH)
    assert same(calibrated.weights(), alone.weights())
    plain.epoch(one, an_order(40), BATCH)
    assert not same(calibrated.weights(), plain.weights())


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_site_with_one_of_two_classes_hardly_moves(trainers: Callable[..., Trainer], optimizer: str) -> None:
    """Adam would take whole steps along gradients however small, but for those below its epsilon."""
    found = some_images(BINARY, 40)
    examples = resident(Images(found.images, np.ones(40, np.int64)))

    def moved(**recipe: Any) -> float:
        trainer = trainers(BINARY, optimizer, recipe=Recipe(**recipe))
        for _ in range(5):
            trainer.epoch(examples, an_order(40), BATCH)
        return max(float(np.abs(array - start(BINARY)[name]).max()) for name, array in trainer.weights().items())

    assert moved(calibrate="labels", label_shares=SHARES[2]) < moved() / 20


def test_a_calibrated_loss_goes_with_all_that_does_not_correct_the_same(trainers: Callable[..., Trainer]) -> None:
    recipe = Recipe(
        calibrate="labels", label_shares=SHARES[2], clip_norm=0.5, precision="mixed", augment="flips",
        learning_rate_schedule="cosine", warmup=2,
    )  # fmt: skip
    trainer = trainers(CONVOLUTIONS, proximal=0.1, recipe=recipe)
    before = trainer.weights()
    loss, _ = trainer.epoch(resident(rare(CONVOLUTIONS, 40)), an_order(40), BATCH)
    assert np.isfinite(loss)
    assert not same(trainer.weights(), before)
    for wrong, words in (
        (
            Recipe(calibrate="labels", label_shares=SHARES[2], class_weights="balanced"),
            "or weighted by class, not both",
        ),
        (Recipe(calibrate="labels", label_shares=SHARES[10]), "label shares of 10 classes, but the network tells 2"),
        (Recipe(calibrate="labels"), "label shares of 0 classes"),
    ):
        with pytest.raises(ValueError, match=words):
            Trainer(BINARY, "adam", 0.1, recipe=wrong)


# the learning rate, the gradient's length, decay


def trained_by_keras(optimizer: Any, epochs: int, trainer: Trainer) -> tuple[Weights, Weights]:
    """Weights of plain Keras with this optimizer, and of the trainer, after the same epochs of five steps."""
    network, examples = models.build(TEN), some_images(TEN, 75)
    network.compile(optimizer, loss=models.loss_name(TEN), jit_compile=False)
    models.set_weights(network, start(TEN))
    held = resident(examples)
    trainer.load(start(TEN))
    trainer.fresh(1, epochs, 5)
    for epoch in range(epochs):
        order = an_order(75, epoch)
        trainer.epoch(held, order, BATCH)
        shuffled = examples.take(order)
        network.fit(shuffled.images, shuffled.labels, batch_size=BATCH, shuffle=False, verbose=0)
    return models.get_weights(network), trainer.weights()


def assert_near(found: Weights, expected: Weights) -> None:
    for name, array in found.items():
        np.testing.assert_allclose(array, expected[name], rtol=1e-4, atol=1e-6, err_msg=name)


def keras_schedule(kind: str, warm: int, steps: int) -> Any:
    schedules: Any = load_keras(1).optimizers.schedules
    if kind == "cosine" and warm:
        return schedules.CosineDecay(0.0, steps - warm, warmup_target=0.1, warmup_steps=warm)
    if kind == "cosine":
        return schedules.CosineDecay(0.1, steps)
    return schedules.PiecewiseConstantDecay([-(-steps // 2) - 1, -(-steps * 3 // 4) - 1], [0.1, 0.01, 0.001])


@pytest.mark.parametrize(
    ("kind", "warmup", "warm"), [("cosine", 0, 0), ("cosine", 4, 4), ("cosine", "1 epochs", 5), ("step", 0, 0)]
)
def test_the_rate_over_a_session_is_that_of_keras(kind: str, warmup: int | str, warm: int) -> None:
    """Step for step, also after the end, and then in weights: 3 epochs of 5 steps."""
    recipe = Recipe(learning_rate_schedule=kind, warmup=warmup)
    expected, rate = keras_schedule(kind, warm, 15), Rate(0.1, recipe)
    rate.begin(3, 5)
    for step in range(18):
        assert float(rate.wanted(step)) == pytest.approx(float(expected(step)), rel=1e-5, abs=1e-7), step
    optimizer = load_keras(1).optimizers.SGD(expected)
    by_keras, ours = trained_by_keras(optimizer, 3, Trainer(TEN, "sgd", 0.1, recipe=recipe))
    assert_near(ours, by_keras)


def test_a_warm_up_alone_ends_at_the_rate() -> None:
    rate = Rate(0.1, Recipe(warmup=4))
    rate.begin(2, 5)
    assert [round(float(rate.wanted(step)), 4) for step in range(6)] == [0, 0.025, 0.05, 0.075, 0.1, 0.1]
    constant = Rate(0.1, Recipe())
    constant.begin(2, 5)
    assert constant.wanted == 0.1, "a plain number, as ever"


def test_the_next_session_begins_anew_and_has_its_own_length() -> None:
    trainer, found = Trainer(TEN, "adam", 0.01, recipe=Recipe(learning_rate_schedule="cosine", warmup=2)), []
    for epochs in (3, 9, 3):
        trainer.load(start(TEN))
        trainer.fresh(1, epochs, 5)
        for epoch in range(3):
            trainer.epoch(resident(some_images(TEN, 75)), an_order(75, epoch), BATCH)
        found.append(trainer.weights())
    assert same(found[0], found[2])
    assert not same(found[0], found[1]), "in a longer session the rate falls more slowly"


@pytest.mark.parametrize(
    ("optimizer", "own"),
    [
        ("sgd", {"momentum": 0.9, "global_clipnorm": 0.05}),
        ("adam", {"global_clipnorm": 0.05}),
        ("sgd", {"weight_decay": 0.1}),
        ("adamw", {"global_clipnorm": 0.1, "weight_decay": 0.5}),
        ("adamw", {"weight_decay": 0.0}),
        ("adamw", {}),
    ],
)
def test_clipping_and_decay_are_those_of_keras(optimizer: str, own: dict[str, float]) -> None:
    """As given to the optimizer's own class."""
    optimizers: Any = load_keras(1).optimizers
    kind = {"sgd": optimizers.SGD, "adam": optimizers.Adam, "adamw": optimizers.AdamW}[optimizer]
    recipe = Recipe(clip_norm=own.get("global_clipnorm", 0.0), weight_decay=own.get("weight_decay"))
    trainer = Trainer(TEN, optimizer, 0.05, own.get("momentum", 0.0), recipe=recipe)
    by_keras, ours = trained_by_keras(kind(0.05, **own), 2, trainer)
    assert_near(ours, by_keras)
    plain, _ = trained_by_keras(kind(0.05, momentum=0.9) if "momentum" in own else kind(0.05), 2, trainer)
    assert same(plain, by_keras) is (not own), "and they make a difference"


def test_the_optimizer_of_a_plan_has_its_clipping_and_decay() -> None:
    plan = {"optimizer": "sgd", "learning_rate": 0.1, "momentum": 0.5, "clip_norm": 2.0, "weight_decay": 0.25}
    found = training.optimizer_of(plan)
    assert (found.momentum, found.global_clipnorm, found.weight_decay) == (0.5, 2.0, 0.25)
    found = training.optimizer_of({"optimizer": "adam", "learning_rate": 0.1})
    assert (found.global_clipnorm, found.weight_decay) == (None, None)


# changed images


def test_the_same_seed_changes_images_to_the_same_bits(trainers: Callable[..., Trainer]) -> None:
    recipe = Recipe(augment="flips,shifts,rotations,contrast")
    held, order = resident(some_images(CONVOLUTIONS, 40)), an_order(40)

    def train(trainer: Trainer, seed: int, stop: threading.Event | None = None) -> Weights:
        trainer.load(start(CONVOLUTIONS))
        trainer.fresh(seed)
        trainer.epoch(held, order, BATCH, stop)
        return trainer.weights()

    one, other = (Trainer(CONVOLUTIONS, "adam", 0.01, recipe=recipe) for _ in range(2))
    first = train(one, 1)
    assert same(train(other, 1), first)
    assert not same(train(one, 2), first)
    assert same(train(one, 1), first), "again, after another session"
    assert same(train(one, 1, threading.Event()), first), "and in slices"
    assert not same(train(trainers(CONVOLUTIONS), 1), first)
    one.load(start(CONVOLUTIONS))
    assert one.evaluate(held) == trainers(CONVOLUTIONS).evaluate(held), "what is scored is not changed"


def test_a_plain_recipe_is_the_same_graph(trainers: Callable[..., Trainer]) -> None:
    """What a recipe does not ask for is not there, rather than there with no effect."""

    def operations(trainer: Trainer) -> list[str]:
        graph: Any = trainer._training._graph
        return [node.op for function in graph.graph.as_graph_def().library.function for node in function.node_def]

    plain = operations(trainers(TEN))
    assert plain.count("Softmax") == 1
    calibrated = Recipe(calibrate="labels", label_shares=SHARES[10])
    assert operations(trainers(TEN, recipe=calibrated)).count("Softmax") > 1
    more = {"ResourceGather", "StatelessRandomUniformV2", "ImageProjectiveTransformV3", "Cos"}
    assert not more & set(plain)
    assert "ResourceGather" in operations(trainers(TEN, recipe=Recipe(class_weights="balanced")))
