"""SCAFFOLD against a few lines of NumPy, and what it must not change."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.definition.config import HISTORY, Prepared, Run
from experiments.engines.memory import engine as memory
from experiments.engines.memory.controls import Control, controls_of
from experiments.engines.memory.trainers import Crew
from experiments.engines.ssh import engine as ssh
from fedssh.alice.fitting import epoch_order
from fedssh.alice.session import session_seed
from fedssh.errors import SettingsError
from fedssh.models import build, check_spec, fused, get_weights, training
from fedssh.models.backend import load_keras
from fedssh.models.data.images import Images
from fedssh.models.training import Trainer, resident
from tests.integration.test_engines import PLAN, a_run

SPEC = check_spec({"name": "mlp", "width": 4, "depth": 1, "input": [3, 3, 1], "classes": 3})
RATE, BATCH, EPOCHS = 0.1, 8, 2
SITES = {"alice-1": 40, "alice-2": 21}  # 5 and 3 steps an epoch

Weights = dict[str, np.ndarray]


def some_images(number: int, seed: int) -> Images:
    random = np.random.default_rng(seed)
    return Images(random.random((number, 3, 3, 1), dtype=np.float32), random.integers(0, 3, number))


@pytest.fixture
def federation() -> tuple[Run, Prepared]:
    plan: dict[str, Any] = {**PLAN, "momentum": 0.0, "batch_size": BATCH, "epochs": EPOCHS}
    run = a_run(sites=2, gate="off", validation=0.0, control="scaffold", plan=plan)
    parts = {name: some_images(number, number) for name, number in SITES.items()}
    return run, Prepared(SPEC, None, some_images(30, 1), some_images(30, 2), parts)


def gradient(weights: Weights, pixels: np.ndarray, labels: np.ndarray) -> Weights:
    """Of the mean cross-entropy of a hidden layer with ReLU and a softmax; float64."""
    hidden = np.maximum(pixels @ weights["dense1/kernel"] + weights["dense1/bias"], 0)
    logits = hidden @ weights["output/kernel"] + weights["output/bias"]
    wrong = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    wrong[np.arange(len(labels)), labels] -= 1
    wrong /= len(labels)
    back = (wrong @ weights["output/kernel"].T) * (hidden > 0)
    return {
        "dense1/kernel": pixels.T @ back, "dense1/bias": back.sum(axis=0),
        "output/kernel": hidden.T @ wrong, "output/bias": wrong.sum(axis=0),
    }  # fmt: skip


def each(of: Callable[..., Any], *weights: Weights) -> Weights:
    return {name: of(*(one[name] for one in weights)) for name in weights[0]}


def rounds_in_numpy(
    run: Run, prepared: Prepared, start: Weights, rounds: int, corrected: bool = True
) -> tuple[Weights, dict[str, Weights]]:
    """Algorithm 1 of Karimireddy et al. 2020 with option II and every site in every round; the model and all c_i."""
    x = each(np.float64, start)
    mean = each(np.zeros_like, x)
    own = dict.fromkeys(SITES, mean)
    for number in range(1, rounds + 1):
        trained: list[Weights] = []
        for place, (site, images) in enumerate(prepared.parts.items(), 1):
            pixels, y, steps = np.float64(images.images).reshape(len(images), -1), x, 0
            seed = session_seed(run.site_seed(place), number)
            for epoch in range(1, EPOCHS + 1):
                order = epoch_order(seed, epoch, len(images))
                for first in range(0, len(order), BATCH):
                    at = order[first : first + BATCH]
                    found = gradient(y, pixels[at], images.labels[at])
                    y = each(lambda y, g, c, c_i: y - RATE * (g - corrected * (c_i - c)), y, found, mean, own[site])
                    steps += 1
            own = own | {
                site: each(lambda c_i, c, x, y, k=steps: c_i - c + (x - y) / (k * RATE), own[site], mean, x, y)
            }
            trained.append(y)
        x = each(lambda *ys: np.average(ys, axis=0, weights=list(SITES.values())), *trained)
        mean = each(lambda *all_of_them: np.mean(all_of_them, axis=0), *own.values())
    return x, own


def test_two_rounds_are_those_of_the_paper(federation: tuple[Run, Prepared]) -> None:
    run, prepared = federation
    load_keras(1)
    start = get_weights(build(SPEC))
    controls = controls_of(SPEC, run.site_names)
    x = start
    with Crew(run, prepared, {**run.plan, "metric": "accuracy"}, 2, controls=controls) as crew:
        for number in (1, 2):
            asked = {site: crew.train(site, number, x) for site in SITES}
            trained = {site: future.result() for site, future in asked.items()}
            for site, session in trained.items():
                assert session.control is not None
                controls.keep(site, session.control)
            controls.release()
            every = [dict(session.checkpoints[-1].weights) for session in trained.values()]
            x = each(lambda *ys: np.average(ys, axis=0, weights=list(SITES.values())).astype(np.float32), *every)
    expected, own = rounds_in_numpy(run, prepared, start, 2)
    plain, _ = rounds_in_numpy(run, prepared, start, 2, corrected=False)
    for name, array in expected.items():
        assert x[name] == pytest.approx(array, abs=1e-6)
        assert np.abs(array - plain[name]).max() > 1e-4
        for site in SITES:
            assert controls.begin(site).own[name] == pytest.approx(own[site][name], abs=1e-6)
            assert np.abs(own[site][name]).max() > 1e-3


def test_a_direction_of_nothing_leaves_every_bit(federation: tuple[Run, Prepared]) -> None:
    load_keras(1)
    examples, start = resident(some_images(40, 5)), get_weights(build(SPEC))
    nothing = {name: np.zeros_like(array) for name, array in start.items()}
    found = []
    for directed in (False, True):
        trainer = Trainer(SPEC, "sgd", RATE, directed=directed)
        trainer.load(start)
        if directed:
            trainer.direct(each(np.ones_like, nothing))
            trainer.direct(nothing)
        trainer.fresh(1)
        trainer.epoch(examples, np.arange(40), BATCH)
        found.append(b"".join(array.tobytes() for array in trainer.weights().values()))
        if not directed:
            with pytest.raises(ValueError, match="not made to be directed"):
                trainer.direct(nothing)
    assert found[0] == found[1]
    with pytest.raises(ValueError, match="found output/bias"):
        trainer.direct({"output/bias": nothing["output/bias"]})


def test_a_step_adds_the_direction_to_the_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """In one operation for each tensor, and by Keras' own."""
    load_keras(1)
    examples, start = resident(some_images(BATCH, 6)), get_weights(build(SPEC))
    direction = each(lambda array: np.full_like(array, 0.25), start)
    for same in (fused.same_bits(), False):
        monkeypatch.setattr(training, "same_bits", lambda same=same: same)
        trainer, ends = Trainer(SPEC, "sgd", RATE, directed=True), []
        for added in (each(np.zeros_like, start), direction):
            trainer.load(start)
            trainer.direct(added)
            trainer.fresh(1)
            trainer.epoch(examples, np.arange(BATCH), BATCH)
            ends.append(trainer.weights())
        for name, array in ends[0].items():
            assert ends[1][name] == pytest.approx(array - RATE * 0.25, abs=1e-7)


def test_what_a_site_learns_of_its_own_gradient_is_kept() -> None:
    control = Control({"w": np.array([0.5], np.float32)}, {"w": np.array([0.125], np.float32)})
    assert control.direction["w"].tolist() == [-0.375]
    after = control.after({"w": np.array([2.0])}, {"w": np.array([1.0], np.float32)}, steps=4, rate=0.5)
    assert after["w"].tolist() == [0.5 - 0.125 + 0.5] and after["w"].dtype == np.float32


def test_no_number_of_cores_changes_a_run_and_its_bytes_are_twice_those(
    federation: tuple[Run, Prepared], tmp_path: Path
) -> None:
    run, prepared = federation
    plain = dataclasses.replace(run, control="none")
    found = {}
    for name, this, cores in (("one", run, 1), ("two", run, 2), ("plain", plain, 1)):
        (tmp_path / name).mkdir()
        outcome = memory.run(this, prepared, tmp_path / name, lambda share, text: None, cores)
        found[name] = outcome, (tmp_path / name / HISTORY).read_bytes()
    assert found["one"][1] == found["two"][1] != found["plain"][1]
    (one, _), (other, _) = found["one"], found["plain"]
    assert one.bytes == 2 * other.bytes
    assert [point.bytes for point in one.points] == [2 * point.bytes for point in other.points]


def test_real_agents_have_none(federation: tuple[Run, Prepared], tmp_path: Path) -> None:
    run, prepared = federation
    with pytest.raises(SettingsError, match=r"the engine ssh cannot do control variates \(scaffold\)"):
        ssh.run(run, prepared, tmp_path, lambda share, text: None, 1)
