"""Mixed precision: bfloat16 inside, float32 in what travels and is scored; without it nothing is another bit."""

from __future__ import annotations

import dataclasses

import numpy as np

from fedssh import models
from fedssh.alice.fitting import new_trainer
from fedssh.models.data.images import Images
from fedssh.models.firing import Watch
from fedssh.models.training import resident
from fedssh.rules.plan import Plan

SPEC = {"name": "cnn", "input": [12, 12, 1], "classes": 2}
PLAN = Plan(batch_size=16, epochs=1, patience=1, optimizer="adam", learning_rate=0.003, loss="auto")


def test_layers_compute_in_bfloat16_and_weights_are_float32() -> None:
    network = models.build(SPEC, "mixed")
    kinds = {layer.name: layer.compute_dtype for layer in network.layers if layer.weights}
    assert kinds == {"conv1": "bfloat16", "conv2": "bfloat16", "dense": "bfloat16", "output": "float32"}
    assert {str(one.dtype) for one in network.weights} == {"float32"}
    plain = models.build(SPEC)
    assert [one.path for one in plain.weights] == [one.path for one in network.weights]
    assert {layer.compute_dtype for layer in plain.layers} == {"float32"}


def test_it_learns_and_is_scored_in_float32_alike() -> None:
    random = np.random.default_rng(0)
    labels = np.arange(96) % 2
    pixels = random.uniform(0, 0.4, (96, 12, 12, 1)) + 0.4 * labels[:, None, None, None]
    examples = resident(Images(pixels.astype(np.float32), labels))
    weights = models.get_weights(models.build(SPEC))
    found = {}
    for precision in ("float32", "mixed"):
        trainer = new_trainer(SPEC, dataclasses.replace(PLAN, precision=precision))
        trainer.load(weights)
        trainer.fresh(1)
        for _ in range(6):
            trainer.epoch(examples, np.arange(96), 16)
        found[precision] = trainer.weights(), trainer.evaluate(examples)
        assert found[precision][1][1] > 0.95
        assert len(Watch(trainer.network).look(examples)) == 1
    mixed, (loss, _) = found["mixed"]
    assert not np.array_equal(mixed["conv1/kernel"], found["float32"][0]["conv1/kernel"])
    judge = new_trainer(SPEC, PLAN)
    judge.load(mixed)
    assert abs(judge.evaluate(examples)[0] - loss) < 0.02
