"""FixMatch in a real network: each step against NumPy, the same bits again, and sites without such images."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedssh.alice.fitting import Epoch
from fedssh.alice.incoming import Received
from fedssh.alice.learner import Network, Stopped
from fedssh.alice.train import Alice
from fedssh.errors import SettingsError
from fedssh.keys import PrivateKey
from fedssh.models import augment, check_spec, fixmatch
from fedssh.models.backend import compiled, load_keras
from fedssh.models.data.images import Images
from fedssh.models.recipe import Recipe
from fedssh.models.training import Examples, Trainer, resident
from fedssh.rules.plan import Plan, read_plan
from fedssh.rules.terms import written_loss
from tests.harness.images import easy_images
from tests.integration.test_alice import LIMITS, SmallSite

load_keras(1)
SETTINGS = fixmatch.Settings(threshold=0.45, weight=2.0, ratio=3, decay=0.5)
TEXT = "fixmatch:threshold=0.45,weight=2,ratio=3,decay=0.5"
RATE, BATCH, SEED = 0.5, 4, 11
Weights = Mapping[str, np.ndarray]


def examples(classes: int) -> Examples:
    random = np.random.default_rng(classes)
    labelled = Images(random.random((6, 5, 4, 1), dtype=np.float32), random.integers(0, classes, 6))
    return resident(labelled, unlabelled=random.random((20, 5, 4, 1), dtype=np.float32))


def trainer(classes: int, **recipe: Any) -> Trainer:
    spec = check_spec({"name": "mlp", "width": 5, "depth": 1, "input": [5, 4, 1], "classes": classes})
    return Trainer(spec, "sgd", RATE, recipe=Recipe(**{"unlabelled": TEXT, **recipe}))


def drawn(images: Any, kind: str, use: int, step: int) -> np.ndarray:
    """What augmentation makes of images, by the seeds that a step has."""
    import tensorflow

    seed = tensorflow.constant([SEED, -2 * step - use], "int64")
    found = augment.strongly(images, False, seed) if kind == "strong" else augment.augmented(images, ("shifts",), seed)
    return np.asarray(found.numpy(), np.float64)


def forward(weights: Weights, images: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Flat images, what the hidden layer gives, and the shares of the classes; of two the shares of both."""
    kernel, bias, out, out_bias = (np.asarray(one, np.float64) for one in weights.values())
    flat = images.reshape(len(images), -1)
    hidden = np.maximum(flat @ kernel + bias, 0)
    logits = hidden @ out + out_bias
    if logits.shape[1] == 1:
        logits = np.concatenate([np.zeros_like(logits), logits], axis=1)
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    return flat, hidden, shares / shares.sum(axis=1, keepdims=True)


def gradient(weights: Weights, images: np.ndarray, labels: np.ndarray, counts: np.ndarray) -> list[np.ndarray]:
    """Of the sum of counts * cross-entropy, by every weight."""
    flat, hidden, shares = forward(weights, images)
    error = (shares - np.eye(shares.shape[1])[labels]) * counts[:, None]
    out = np.asarray(list(weights.values())[2], np.float64)
    error = error[:, 1:] if out.shape[1] == 1 else error
    back = (error @ out.T) * (hidden > 0)
    return [flat.T @ back, back.sum(axis=0), hidden.T @ error, error.sum(axis=0)]


@pytest.mark.parametrize("classes", [2, 3])
def test_each_step_is_that_of_the_paper(classes: int) -> None:
    """Equations 3 and 4 of Sohn et al. 2020; the teacher as in section 2 of Tarvainen and Valpola 2017."""
    given, learner = examples(classes), trainer(classes)
    random = np.random.default_rng(classes)  # not Keras' own start, which other tests of a process change
    start = {name: random.normal(0, 0.6, array.shape) for name, array in learner.weights().items()}
    now: dict[str, np.ndarray] = {name: np.asarray(array, np.float32) for name, array in start.items()}
    learner.load(now)
    learner.fresh(SEED)
    teacher, order = now, np.array([5, 0, 3, 2, 1, 4])  # a whole batch and a short one
    others = fixmatch.places(SEED, 20, 0, 2, SETTINGS.ratio * BATCH)
    images, labels = given.images.numpy(), given.labels.numpy()
    losses, masks = [], []
    for step, at in enumerate((order[:4], order[4:])):
        chosen = given.unlabelled.numpy()[others[step]]
        shares = forward(teacher, drawn(chosen, "weak", 1, step))[2]
        guessed, sure = shares.argmax(axis=1), shares.max(axis=1) >= SETTINGS.threshold
        masks += sure.tolist()
        assert (np.abs(shares.max(axis=1) - SETTINGS.threshold) > 1e-5).all()
        both = np.concatenate([images[at], drawn(chosen, "strong", 2, step)])
        counts = np.concatenate([np.full(len(at), 1 / len(at)), SETTINGS.weight * sure / len(sure)])
        own = forward(now, images[at].astype(np.float64))[2][np.arange(len(at)), labels[at]]
        losses.append(-np.log(own).sum())
        found = gradient(now, both, np.concatenate([labels[at], guessed]), counts)
        now = {name: array - RATE * by for (name, array), by in zip(now.items(), found, strict=True)}
        teacher = {name: SETTINGS.decay * array + (1 - SETTINGS.decay) * now[name] for name, array in teacher.items()}
    if classes == 3:
        assert 0 < sum(masks) < len(masks), "all or none counted, so the threshold was not tried"
    loss, accuracy = learner.epoch(given, order, BATCH)
    for name, array in learner.weights().items():
        np.testing.assert_allclose(array, now[name], atol=2e-6)
    assert loss == pytest.approx(sum(losses) / 6, abs=1e-5), "told is the loss of those with labels"
    assert 0 <= accuracy <= 1


def bits(learner: Trainer, given: Examples, start: Weights, stop: threading.Event | None = None) -> list[bytes]:
    learner.load(start)
    learner.fresh(SEED, 2, 2)
    for epoch in range(2):
        learner.epoch(given, np.random.default_rng(epoch).permutation(6), BATCH, stop)
    return [array.tobytes() for array in learner.weights().values()]


def test_the_same_seed_gives_the_same_bits_whatever_was_before() -> None:
    given, learner = examples(3), trainer(3, augment="flips,contrast", class_weights="balanced")
    start = learner.weights()
    first = bits(learner, given, start)
    assert bits(learner, given, start, threading.Event()) == first
    assert bits(trainer(3, augment="flips,contrast", class_weights="balanced"), given, start) == first
    fewer = dataclasses.replace(given, unlabelled=given.unlabelled[:19])
    assert bits(learner, fewer, start) != first


def test_without_such_images_or_without_the_recipe_training_is_as_ever() -> None:
    given, plain = examples(3), trainer(3, unlabelled="none")
    start = plain.weights()
    ever = bits(plain, dataclasses.replace(given, unlabelled=None), start)
    assert bits(plain, given, start) == ever
    assert bits(trainer(3), dataclasses.replace(given, unlabelled=None), start) == ever
    assert bits(trainer(3), given, start) != ever


@pytest.mark.parametrize(
    "spec",
    [{"input": [1, 3, 1], "classes": 3, "kind": "table"}, {"input": [4, 4, 1], "task": "labels", "labels": 3}],
)
def test_what_has_no_classes_of_images_is_refused(spec: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="unlabelled: "):
        Trainer(check_spec({"name": "mlp", **spec}), "sgd", 0.1, recipe=Recipe(unlabelled=TEXT))


# images changed much


def strongly(images: np.ndarray, flips: bool = False, seed: tuple[int, int] = (7, 3)) -> np.ndarray:
    import tensorflow

    signature = [tensorflow.TensorSpec([None, *images.shape[1:]], "float32"), tensorflow.TensorSpec([2], "int64")]
    graph = compiled(lambda batch, at: augment.strongly(batch, flips, at), signature)
    found = graph(tensorflow.constant(images), tensorflow.constant(seed, "int64"))
    return np.asarray(found.numpy())


def test_images_changed_much_have_a_grey_square_and_stay_images() -> None:
    images = np.random.default_rng(2).random((200, 16, 12, 1), dtype=np.float32)
    found = strongly(images)
    assert found.shape == images.shape and found.min() >= 0 and found.max() <= 1
    assert np.array_equal(found, strongly(images))
    assert not np.array_equal(found, strongly(images, seed=(7, 4)))
    grey = (found == 0.5).reshape(200, -1).sum(axis=1)
    assert grey.max() == 8 * 6 and grey.min() >= 4 * 3, "a quarter of the hole where its middle is in a corner"
    assert np.array_equal(strongly(images[:3]), found[:3]) or len(np.unique(grey)) > 10
    line = images[:, :1]
    assert np.array_equal(strongly(line), line), "a single row stays as it is"


def test_what_an_image_is_turned_by_is_within_the_bounds() -> None:
    """A bright dot in a corner of a middle square: how far it went, over many draws."""
    images = np.zeros((400, 41, 41, 1), np.float32)
    images[:, 20, 30] = 1.0  # ten pixels right of the middle
    found = strongly(images)[..., 0]
    found[found == 0.5] = 0
    bright = found - np.median(found, axis=(1, 2), keepdims=True)
    seen = bright.max(axis=(1, 2)) > 0.1
    assert seen.mean() > 0.5
    rows, columns = np.unravel_index(bright.reshape(400, -1).argmax(axis=1), (41, 41))
    flipped = strongly(images, flips=True)[..., 0]
    flipped[flipped == 0.5] = 0
    assert (columns[seen] > 20).all(), "nothing changes left and right over unless it is asked for"
    left = flipped[:, :, :17].max(axis=(1, 2)) - np.median(flipped, axis=(1, 2)) > 0.1
    assert 0.15 < left.mean() < 0.6
    assert np.hypot(rows[seen] - 20, columns[seen] - 20).max() < 10 * 2.2 + 2 * 4
    assert np.abs(rows[seen] - 20).max() > 4, "some are turned"


# Alice


def said_in_a_session(site: SmallSite, unlabelled: Path | None = None) -> list[str]:
    site.release(1, plan=written_loss(dict(ASKING), "auto"), sessions=1)
    said: list[str] = []
    network = Network(site.data, 1, 1, None, tell=said.append, unlabelled=unlabelled)
    Alice(site.exchange, site.state, network, None, 0.0, threading.Event(), LIMITS).run(sessions=1)
    return said


@pytest.fixture
def site(tmp_path: Path, keys: dict[str, PrivateKey]) -> SmallSite:
    return SmallSite(tmp_path, keys["coordinator"])


PLAN = {"epochs": 2, "publish": "session", "batch_size": 16, "patience": 10, "optimizer": "adam",
        "learning_rate": 0.02, "metric": "accuracy"}  # fmt: skip
ASKING = {**PLAN, "unlabelled": "fixmatch:ratio=2"}


def some_without_labels(site: SmallSite) -> None:
    found = easy_images(120)
    labels = found.labels.copy()
    labels[::2] = -1
    np.savez(site.data, train_images=found.images, train_labels=labels)


def test_a_site_learns_from_its_images_without_labels_and_claims_those_with_labels(
    site: SmallSite, tmp_path: Path
) -> None:
    some_without_labels(site)
    np.savez(tmp_path / "more.npz", images=easy_images(30).images)
    said = said_in_a_session(site, tmp_path / "more.npz")
    assert [line for line in said if "unlabelled" in line] == [
        f"unlabelled: 60 images of {site.data} have no label",
        f"unlabelled: 30 images from {tmp_path / 'more.npz'}",
    ]
    (claim,) = site.claims()
    assert claim.examples == 51  # of 60 with labels, 15 % are held out


def test_a_site_without_such_images_says_so_and_trains(site: SmallSite) -> None:
    said = said_in_a_session(site)
    assert said == ["no image without a label is here: this site learns from those with labels alone"]
    assert len(site.claims()) == 1


def test_a_plan_that_does_not_ask_passes_them_over_and_says_so(site: SmallSite, tmp_path: Path) -> None:
    some_without_labels(site)
    release, plan = received(site, PLAN)
    said: list[str] = []
    Network(site.data, 1, 1, None, tell=said.append).adopt(release, plan)
    assert said == ["60 images have no label and are passed over: here nothing is learned from such"]
    with pytest.raises(SettingsError, match="nothing is learned from such images"):
        Network(site.data, 1, 1, None, unlabelled=tmp_path / "more.npz").adopt(release, plan)


def test_others_that_are_not_of_the_size_are_resized_and_what_is_no_image_is_named(
    site: SmallSite, tmp_path: Path
) -> None:
    large, flat = tmp_path / "large.npz", tmp_path / "flat.npz"
    np.savez(large, images=np.random.default_rng(0).integers(0, 256, (9, 20, 14), dtype=np.uint8))
    np.savez(flat, images=np.zeros((9, 36), np.uint8))
    release, plan = received(site)
    said: list[str] = []
    Network(site.data, 1, 1, None, tell=said.append, unlabelled=large).adopt(release, plan)
    assert said == [f"unlabelled: 9 images from {large}"]
    with pytest.raises(SettingsError, match=r"has shape \(9, 36\)"):
        Network(site.data, 1, 1, None, unlabelled=flat).adopt(release, plan)


def test_a_session_that_was_stopped_begins_again_with_the_same_bits(site: SmallSite, tmp_path: Path) -> None:
    some_without_labels(site)
    release, plan = received(site)
    networks = [Network(site.data, 1, 1, None) for _ in range(2)]
    found = []
    for network, stopped in zip(networks, (False, True), strict=True):
        start = network.adopt(release, plan)
        if stopped:
            stop = threading.Event()

            def stop_at(epoch: Epoch, stop: threading.Event = stop) -> bool:  # the first
                stop.set()
                return True

            with pytest.raises(Stopped, match="interrupted session begins again"):
                network.fit(1, plan, start, stop_at, stop)
            start = network.adopt(release, plan)
        network.fit(1, plan, start, lambda epoch: True, threading.Event())
        found.append([array.tobytes() for array in network.weights().values()])
    assert found[0] == found[1]


def received(site: SmallSite, asking: Mapping[str, Any] = ASKING) -> tuple[Received, Plan]:
    """A release, whose plan asks for it."""
    site.release(1, plan=written_loss(dict(asking), "auto"), sessions=1)
    found = site.exchange.newest(site.terms(), site.state)
    assert found is not None
    return found, read_plan(found.release.plan)
