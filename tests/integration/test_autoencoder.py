"""An autoencoder beside the classes: each step against NumPy, the same bits again, and what leaves a site."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedssh.alice.fitting import fit, new_trainer
from fedssh.alice.learner import Network
from fedssh.alice.session import session_seed
from fedssh.alice.train import Alice
from fedssh.errors import SettingsError
from fedssh.ledger import Ledger
from fedssh.models import autoencoder, build, check_spec, fixmatch
from fedssh.models.autoencoder import EncodingTrainer
from fedssh.models.backend import load_keras
from fedssh.models.data import datasets, images
from fedssh.models.data.images import Images
from fedssh.models.pool import Pool
from fedssh.models.recipe import Recipe
from fedssh.models.training import Examples, Trainer, resident
from fedssh.rules.plan import read_plan
from fedssh.rules.terms import written_loss
from fedssh.weights import read_header
from tests.harness.images import easy_images
from tests.integration.test_alice import LIMITS, SmallSite, shapes, site
from tests.integration.test_in_use import run

__all__ = ["site"]  # a fixture
load_keras(1)
WIDTH, RATE, BATCH, SEED, WEIGHT = 9, 0.5, 4, 11, 3.0
TEXT = f"autoencoder:weight={WEIGHT:g},cut=dense1"
Weights = Mapping[str, np.ndarray]


def examples(classes: int) -> Examples:
    random = np.random.default_rng(classes)
    labelled = Images(random.random((6, 1, WIDTH, 1), dtype=np.float32), random.integers(0, classes, 6))
    return resident(labelled, unlabelled=random.random((7, 1, WIDTH, 1), dtype=np.float32))


def trainer(classes: int, **recipe: Any) -> EncodingTrainer:
    """Of images of one row, whose decoder has two dense layers and nothing else."""
    spec = check_spec({"name": "mlp", "width": 5, "depth": 1, "input": [1, WIDTH, 1], "classes": classes})
    return EncodingTrainer(spec, "sgd", RATE, recipe=Recipe(**{"unlabelled": TEXT, **recipe}))


def step(
    now: list[np.ndarray], made: list[np.ndarray], images: np.ndarray, labels: np.ndarray
) -> tuple[list[np.ndarray], list[np.ndarray], float]:
    """A step of the network and of its decoder in float64, and the sum of the labelled images' losses.

    Args:
        images: Flat; the labelled ones first.
    """
    kernel, bias, out, out_bias = now
    first, first_bias, last, last_bias = made
    count = len(labels)
    hidden = np.maximum(images @ kernel + bias, 0)
    logits = hidden[:count] @ out + out_bias
    both = np.concatenate([np.zeros_like(logits), logits], axis=1) if logits.shape[1] == 1 else logits
    shares = np.exp(both - both.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    error = (shares - np.eye(both.shape[1])[labels]) / count
    error = error[:, 1:] if logits.shape[1] == 1 else error
    inner = np.maximum(hidden @ first + first_bias, 0)
    away = 2 * (inner @ last + last_bias - images) / images.size  # of the mean squared error
    to_inner = (away @ last.T) * (inner > 0)
    by_features = WEIGHT * (to_inner @ first.T)
    by_features[:count] += error @ out.T
    back = by_features * (hidden > 0)
    network = [images.T @ back, back.sum(axis=0), hidden[:count].T @ error, error.sum(axis=0)]
    decoder = [hidden.T @ to_inner, to_inner.sum(axis=0), inner.T @ away, away.sum(axis=0)]
    loss = -np.log(shares[np.arange(count), labels]).sum()
    return (
        [one - RATE * by for one, by in zip(now, network, strict=True)],
        [one - RATE * by for one, by in zip(made, decoder, strict=True)],
        float(loss),
    )


@pytest.mark.parametrize("classes", [2, 3])
def test_each_step_goes_down_both_losses_and_the_decoders_down_its_own(classes: int) -> None:
    """Algorithm 3 of Gupta and Raskar 2018."""
    given, learner = examples(classes), trainer(classes)
    random = np.random.default_rng(classes)
    start = {name: random.normal(0, 0.6, array.shape) for name, array in learner.weights().items()}
    learner.load({name: np.asarray(array, np.float32) for name, array in start.items()})
    learner.fresh(SEED)
    now = list(start.values())
    made = [np.asarray(one.value.numpy(), np.float64) for one in learner._decoder.network.weights]
    begun = [one.copy() for one in made]
    order, losses = np.array([5, 0, 3, 2, 1, 4]), 0.0  # a whole batch and a short one
    others = fixmatch.places(SEED, 7, 0, 2, BATCH)
    for number, at in enumerate((order[:4], order[4:])):
        every = np.concatenate([given.images.numpy()[at], given.unlabelled.numpy()[others[number]]])
        images = every.reshape(len(every), -1).astype(np.float64)
        now, made, loss = step(now, made, images, given.labels.numpy()[at])
        losses += loss
    told, accuracy = learner.epoch(given, order, BATCH)
    for array, wanted in zip(learner.weights().values(), now, strict=True):
        np.testing.assert_allclose(array, wanted, atol=3e-6)
    for one, wanted, before in zip(learner._decoder.network.weights, made, begun, strict=True):
        np.testing.assert_allclose(one.value.numpy(), wanted, atol=3e-6)
        assert np.abs(wanted - before).max() > 1e-3
    assert told == pytest.approx(losses / 6, abs=1e-5) and 0 <= accuracy <= 1


def bits(learner: Trainer, given: Examples, start: Weights, stop: threading.Event | None = None) -> list[bytes]:
    learner.load(start)
    learner.fresh(SEED, 2, 2)
    for epoch in range(2):
        learner.epoch(given, np.random.default_rng(epoch).permutation(6), BATCH, stop)
    return [array.tobytes() for array in learner.weights().values()]


def test_the_same_seed_gives_the_same_bits_whatever_was_before_and_without_such_images_training_is_as_ever() -> None:
    given, more = examples(3), {"class_weights": "balanced", "learning_rate_schedule": "cosine"}
    learner, again = trainer(3, **more), trainer(3, **more)
    start = learner.weights()
    first = bits(learner, given, start)
    assert bits(learner, given, start, threading.Event()) == first == bits(again, given, start)
    alone = dataclasses.replace(given, unlabelled=None)
    plain = Trainer(learner.spec, "sgd", RATE, recipe=Recipe(**more))  # type: ignore[arg-type]
    assert bits(learner, alone, start) == bits(plain, alone, start) != first


def test_what_is_made_again_is_the_image_as_it_was_changed() -> None:
    """With an encoder and a decoder of real images; every kind of change, and a loss that falls."""
    spec = check_spec({"name": "cnn", "input": [12, 12, 1], "classes": 2})
    recipe = Recipe(unlabelled="autoencoder:weight=5,cut=auto", augment="flips,shifts,rotations,contrast")
    learner = EncodingTrainer(spec, "adam", 0.01, recipe=recipe)
    slopes = np.random.default_rng(3).random((64, 2, 1, 1))
    ramps = slopes[:, :1] * np.linspace(0, 1, 12)[:, None] * (1 - slopes[:, 1:] * np.linspace(0, 1, 12))
    pixels = ramps[..., None].astype(np.float32).reshape(64, 12, 12, 1)
    given = resident(Images(pixels[:24], np.arange(24) % 2), unlabelled=pixels[24:])
    learner.fresh(1)
    errors = []
    for _ in range(8):
        learner.epoch(given, np.arange(24), 8)
        features = learner._front(given.unlabelled, training=False)
        made = learner._decoder.network(features, training=False)
        errors.append(float(((made - given.unlabelled) ** 2).numpy().mean()))
    assert errors[-1] < 0.5 * errors[0]


@pytest.mark.parametrize(
    ("spec", "more", "words"),
    [
        ({"input": [1, 3, 1], "classes": 3, "kind": "table"}, {}, "this is a table"),
        ({"input": [4, 4, 1], "task": "labels", "labels": 3}, {}, "there are to be classes beside it"),
        ({"input": [4, 4, 1], "classes": 3}, {"precision": "mixed"}, "has the precision float32, found mixed"),
        (
            {"input": [4, 4, 1], "classes": 3}, {"unlabelled": "autoencoder:weight=1,cut=dense"},
            "mlp has no layer 'dense'; did you mean 'dense2'",
        ),
        ({"input": [4, 4, 1], "classes": 3}, {"unlabelled": "autoencoder:weight=1"}, "by 'autoencoder:weight=1'"),
    ],
)  # fmt: skip
def test_what_is_not_trained_so_is_refused(spec: dict[str, Any], more: dict[str, Any], words: str) -> None:
    recipe = Recipe(**{"unlabelled": TEXT, **more})
    with pytest.raises(ValueError, match=words):
        EncodingTrainer(check_spec({"name": "mlp", **spec}), "sgd", 0.1, recipe=recipe)


def test_a_site_that_cannot_cut_the_network_says_so() -> None:
    plan = read_plan(written_loss(PLAN | {"unlabelled": "autoencoder:cut=nowhere"}, "auto"))
    spec = check_spec({"name": "mlp", "input": [6, 6, 1], "classes": 2})
    with pytest.raises(SettingsError, match="the plan's mlp has no layer 'nowhere'"):
        new_trainer(spec, plan)
    with pytest.raises(SettingsError, match="the plan's unlabelled: there are to be classes beside it"):
        new_trainer(check_spec({"name": "mlp", "input": [6, 6, 1], "task": "labels", "labels": 2}), plan)


PLAN = {"epochs": 2, "publish": "session", "batch_size": 16, "patience": 10, "optimizer": "adam",
        "learning_rate": 0.02, "metric": "accuracy"}  # fmt: skip


def test_a_site_trains_so_and_its_decoder_stays(site: SmallSite) -> None:
    found = easy_images(120)
    labels = found.labels.copy()
    labels[::2] = -1
    np.savez(site.data, train_images=found.images, train_labels=labels)
    models = []
    for weight in ("0.001", "100"):
        plan = PLAN | {"unlabelled": f"autoencoder:weight={weight},cut=dense1"}
        site.release(1, plan=written_loss(plan, "auto"), sessions=1, name=weight)
        network = Network(site.data, 1, 1, None)
        Alice(site.exchange, site.state, network, None, 0.0, threading.Event(), LIMITS).run(sessions=1)
        model = site.exchange.waiting()[-1]
        assert set(read_header(model).tensors) == set(shapes())
        models.append(model.read_bytes())
    assert models[0] != models[1] and [claim.examples for claim in site.claims()] == [51, 51]


def test_a_simulation_gives_the_weights_of_a_site_bit_for_bit(site: SmallSite) -> None:
    """Two trainings at a time, as experiments in memory have them, and a decoder each."""
    found = easy_images(120)
    np.savez(site.data, train_images=found.images, train_labels=np.where(np.arange(120) % 3, found.labels, -1))
    site.release(1, plan=written_loss(PLAN | {"unlabelled": "autoencoder:weight=2,cut=dense1"}, "auto"), sessions=1)
    received = site.exchange.newest(site.terms(), site.state)
    assert received is not None
    plan, spec = read_plan(received.release.plan), received.header.spec
    network = Network(site.data, 1, 1, None)
    start = network.adopt(received, plan)
    begun = dict(network.weights())
    network.fit(1, plan, start, lambda epoch: True, threading.Event())
    labelled = images.load(site.data, spec["input"], 2, "train")
    kept, _ = images.hold_out(labelled.labels, 0.15, 1, None)
    train = resident(labelled.take(kept), spec, found.images[::3])

    def job(trainer: Trainer) -> dict[str, bytes]:
        trainer.load(begun)
        fit(trainer, train, None, plan, session_seed(1, 1), None, lambda epoch: True)
        return {name: array.tobytes() for name, array in trainer.weights().items()}

    with Pool(lambda: new_trainer(spec, plan), 2) as pool:
        simulated = pool.run([job] * 3)
    assert simulated == [{name: array.tobytes() for name, array in network.weights().items()}] * 3


def test_where_a_federation_begins_the_cut_is_written_out(tmp_path: Path) -> None:
    datasets.save(tmp_path / "data.npz", {"train": easy_images(20), "val": easy_images(20, seed=1)})
    state = tmp_path / "state"
    words = (f"--state={state}", f"--data={tmp_path / 'data.npz'}", "--architecture=mlp")
    done = run("charity", "init", *words, "--unlabelled=autoencoder:cut=dense9", code=2)
    assert "--unlabelled autoencoder:weight=1,cut=dense9: mlp has no layer 'dense9'; did you mean" in done.stderr
    run("charity", "init", *words, "--unlabelled=autoencoder:weight=2")
    with closing(Ledger.create(state / "vault" / "ledger.db")) as ledger:
        genesis = ledger.record(1).fields
    text = genesis["plan"]["unlabelled"]
    assert text == "autoencoder:weight=2,cut=dense1" == autoencoder.found(text, build(genesis["spec"]))
    assert autoencoder.found("none", build(genesis["spec"])) == "none"
