"""Layers that are not trained: named in the spec, left alone by optimizers, batch normalisation by its statistics."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fedssh import models
from fedssh.models import own
from fedssh.models.data.images import Images
from fedssh.models.training import Examples, Trainer, resident
from fedssh.rules import averaging
from fedssh.rules.policies import read_policy

FOLDER = Path(__file__).resolve().parents[2] / "experiments" / "networks"
SMALL = {"name": "resnet", "input": [8, 8, 1], "classes": 2, "blocks": 1, "width": 4, "stages": 2}
STEM = ["stem_conv/kernel", "stem_norm/gamma", "stem_norm/beta", "stem_norm/moving_mean", "stem_norm/moving_variance"]


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(own.VARIABLE, str(FOLDER))


@pytest.mark.parametrize("frozen", ["stem_*", "stem_conv, stem_norm", "before stage1_block1_1_conv"])
def test_what_is_frozen_stays_to_the_bit_and_the_rest_is_trained(frozen: str) -> None:
    spec = models.check_spec(SMALL | {"frozen": frozen})
    trainer = Trainer(spec, "adam", 0.01)
    assert set(STEM) <= models.statistics(trainer.network)
    examples = _examples()
    before = trainer.weights()
    trainer.fresh(1)
    trainer.epoch(examples, np.arange(len(examples)), 8)
    after = trainer.weights()
    same = [name for name in before if np.array_equal(before[name], after[name])]
    assert same == STEM


def test_all_but_the_output() -> None:
    spec = models.check_spec(SMALL | {"frozen": "all"})
    network = models.build(spec)
    assert [one.path for one in network.trainable_weights] == ["output/kernel", "output/bias"]
    assert models.architectures()  # and a spec that freezes nothing says nothing of it
    assert "frozen" not in models.check_spec(SMALL)


def test_frozen_batch_normalisation_works_by_its_moving_statistics() -> None:
    network = models.build(models.check_spec(SMALL | {"frozen": "all"}))
    images = _examples().images[:8]
    np.testing.assert_array_equal(network(images, training=True), network(images, training=False))


def test_a_server_optimizer_leaves_what_is_frozen_alone() -> None:
    statistics = models.statistics(models.build(models.check_spec(SMALL | {"frozen": "stem_*"})))
    base = models.get_weights(models.build(SMALL))
    update = {name: array + 1 if name not in STEM else array for name, array in base.items()}
    policy = read_policy("fedavg:server=adam")
    result = averaging.round_result(policy, base, [update, update], [1, 1], [], statistics)
    again = averaging.round_result(policy, result.weights, [result.weights] * 2, [1, 1], result.state, statistics)
    assert all(np.array_equal(again.weights[name], base[name]) for name in STEM)
    assert not np.array_equal(again.weights["output/kernel"], result.weights["output/kernel"])  # its momentum goes on


@pytest.mark.parametrize(
    ("frozen", "said"),
    [
        ("stem_konv", "resnet has no layer with weights called 'stem_konv'; did you mean 'stem_conv'?"),
        ("stem_relu", "no layer with weights called 'stem_relu'"),
        ("before stag1", "resnet has no layer 'stag1' to train from"),
    ],
)
def test_layers_that_are_not_there_are_named(frozen: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        models.build(SMALL | {"frozen": frozen})


@pytest.mark.parametrize("frozen", ["", "a,,b", 3, "a\nb"])
def test_other_values_are_refused(frozen: object) -> None:
    with pytest.raises(ValueError, match="frozen must be"):
        models.check_spec(SMALL | {"frozen": frozen})


def test_init_says_which_layers_there_are(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (8, 8, 8), np.uint8)
    labels = np.arange(8) % 2
    np.savez(
        tmp_path / "data.npz", allow_pickle=False, train_images=images, train_labels=labels, val_images=images,
        val_labels=labels,
    )  # fmt: skip
    charity = Path(sys.executable).with_name("charity")
    words = ["init", f"--state={tmp_path / 'state'}", f"--data={tmp_path / 'data.npz'}", f"--networks={FOLDER}"]
    words += ["--architecture", '{"name":"resnet","blocks":1,"width":2,"stages":1}', "--frozen", "conv9"]
    done = subprocess.run([charity, *words], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode != 0
    assert "resnet has no layer with weights called 'conv9'; it has stem_conv, stem_norm" in done.stderr
    assert "Traceback" not in done.stderr


def _examples() -> Examples:
    random = np.random.default_rng(0)
    labels = np.arange(32) % 2
    pixels = random.uniform(0, 0.5, (32, 8, 8, 1)) + 0.4 * labels[:, None, None, None]
    return resident(Images(pixels.astype(np.float32), labels))
