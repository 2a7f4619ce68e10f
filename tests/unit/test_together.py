"""All parts of a network in one graph: bit for bit what rooms learn that pass each other the same numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from experiments.engines.memory.passing import passing
from experiments.engines.memory.turns import take_turn, traffic
from fedssh import models
from fedssh.alice.fitting import epoch_order
from fedssh.models.data.images import Images
from fedssh.models.parts import Part
from fedssh.models.together import Together
from fedssh.models.training import Trainer, resident
from fedssh.rules.plan import Plan
from fedssh.rules.policies import read_policy
from fedssh.split.coordinator import CoordinatorTurn
from fedssh.split.site import SiteTurn
from fedssh.split.turn import Agreed, Length
from fedssh.split.wire import Wire, decode, encode

SPEC = models.check_spec({"name": "cnn", "input": [10, 10, 1], "classes": 3})
PLAN = Plan(batch_size=8, epochs=2, patience=10, optimizer="adam", learning_rate=0.01, loss="auto")
SEED = 5


def data(number: int = 21) -> Images:
    random = np.random.default_rng(0)
    return Images(random.random((number, 10, 10, 1), dtype=np.float32), random.integers(0, 3, number))


@pytest.fixture(scope="module")
def start() -> Mapping[str, np.ndarray]:
    return models.get_weights(models.build(SPEC))


def begun(parts: list[Part], start: Mapping[str, np.ndarray]) -> None:
    for part in parts:
        part.load(start)
        part.fresh(SEED, PLAN.epochs, 3)


def learned(parts: list[Part]) -> dict[str, bytes]:
    return {name: array.tobytes() for part in parts for name, array in part.weights().items()}


@pytest.mark.parametrize(
    "text",
    [
        "split:pool1,wire=f16",
        "split:pool1,wire=int8",
        "split:pool1,wire=f32,checkpoint=2,labels=site,tail=dense",
    ],
)
def test_a_turn_in_one_graph_is_that_of_two_rooms(text: str, start: Mapping[str, np.ndarray]) -> None:
    agreed, examples = Agreed(SPEC, dataclasses.replace(PLAN, augment="flip"), read_policy(text)), resident(data())
    site = SiteTurn(agreed, "", start, examples, lambda epoch: epoch_order(SEED, epoch, 21), 1, SEED, None)
    coordinator = CoordinatorTurn(agreed, "", start, None, None)
    take_turn(site, coordinator)
    parts = [agreed.part(number) for number in range(len(agreed.after) + 1)]
    begun(parts, start)
    together = Together(parts, passing(agreed.wire))
    found = [together.epoch(examples, epoch_order(SEED, epoch, 21), 8) for epoch in (1, 2)]
    own, state, of_site = coordinator.result()
    joined = {**site.weights(), **own}
    assert learned(parts) == {name: joined[name].tobytes() for name in learned(parts)}
    assert site.past is not None
    assert found[-1] == (site.past.loss, site.past.value)
    assert {name: one.tobytes() for name, one in parts[1].state().items()} == {
        name: one.tobytes() for name, one in state.items()
    }
    work = coordinator.work()
    counted = traffic(agreed, Length(21, 8, 2), parts, 1, SEED, None, of_site)
    assert counted == (work.received, work.sent)


@pytest.mark.parametrize("after", [["pool1"], ["conv1", "pool2"], ["conv1", "conv2", "dense"]])
def test_any_number_of_rooms_learns_what_one_learns(after: list[str], start: Mapping[str, np.ndarray]) -> None:
    parts = [Part(SPEC, after, number, "adam", 0.01) for number in range(len(after) + 1)]
    begun(parts, start)
    trainer, examples = Trainer(SPEC, "adam", 0.01), resident(data())
    trainer.load(start)
    trainer.fresh(SEED, PLAN.epochs, 3)
    together = Together(parts)
    for epoch in (1, 2):
        order = epoch_order(SEED, epoch, 21)
        assert together.epoch(examples, order, 8) == trainer.epoch(examples, order, 8)
    assert learned(parts) == {name: array.tobytes() for name, array in trainer.weights().items()}


def test_what_is_not_finite_is_no_loss(start: Mapping[str, np.ndarray]) -> None:
    parts = [Part(SPEC, ["pool1"], number, "sgd", 0.01) for number in (0, 1)]
    begun(parts, {**start, "conv1/bias": start["conv1/bias"] + np.float32(np.inf)})
    with pytest.raises(ValueError, match="not finite"):
        Together(parts).epoch(resident(data()), np.arange(21), 8)


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("wire", [Wire.f16, Wire.int8])
def test_what_arrives_in_a_graph_is_what_arrives_in_a_room(wire: Wire, gradient: bool) -> None:
    """From numbers that float16 does not hold to those of which it has no bit."""
    random = np.random.default_rng(0)
    sent = (random.normal(size=(500, 6)) * 10.0 ** random.uniform(-12, 6, (500, 6))).astype(np.float32)
    way: Any = passing(wire)
    arrived = way(sent, gradient).numpy()
    coded = encode(sent, wire, gradient=gradient)
    assert arrived.tobytes() == decode(coded, wire, 500, (6,), gradient=gradient).tobytes()
