"""What training costs a site, by how the federation trains: bytes each way, and multiply-adds. Pure.

    fedavg         a round: all weights down, epochs, all weights up
    large batch    every step: the gradient of all weights up, the sum of all sites' down (large-batch SGD)
    split          a turn: the first part of the network and its optimizer's state down, epochs, both up again; every
                   step: what passes the cut and the labels up, its gradient down (Gupta and Raskar 2018, algorithms 1
                   and 2). With the last layers at the site, too, what passes the second cut down and its gradient up
                   instead of the labels (section 3.6, the U shape)

Multiply-adds are those of one example, forward, and a gradient takes twice as many (Kaplan et al. 2020, section 2.1:
one product for the gradient of the weights, one for that of what was given). The first part of a network in two
computes forward twice, since `models.parts` keeps nothing between a step's two halves. Scoring is not counted.

Bytes are those of tensors, and of the frames around what passes a cut, before SSH. Signatures, manifests, and what
opens a turn are a few kilobytes, and left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

WIRES = {"f32": 4, "f16": 2, "int8": 1}  # bytes for a number that passes a cut
NUMBER_BYTES = 4  # of a weight, of a gradient of weights, and of the scale that each image has with int8
FRAME_BYTES = 24 + 16  # header and tag, see the channel's frames
SCORES_BYTES = 16  # before a gradient that comes down: what the batch scored
BACKWARD = 2  # what a gradient takes, of what is computed forward
AGAIN = 2  # how often the first part computes forward
# How many numbers an optimizer of Keras keeps for each weight that it changes.
SLOTS = {"adagrad": 1, "adam": 2, "adamax": 2, "adamw": 2, "nadam": 2, "rmsprop": 1, "sgd": 0}
_COUNTERS = 2  # numbers that say how many steps an optimizer has taken
SHOWN = 12  # cuts that a table has without anybody asking for all


@dataclass(frozen=True)
class Piece:
    """A network, or a part of it; for one example.

    Attributes:
        weights: Numbers in a model file.
        trained: Those that an optimizer changes.
        multiply_adds: Forward.
        learning: Those of them that a gradient passes.
    """

    weights: int
    trained: int
    multiply_adds: int
    learning: int


@dataclass(frozen=True)
class Bytes:
    """What a site receives, and what it sends."""

    down: int = 0
    up: int = 0

    def __add__(self, other: Bytes) -> Bytes:
        return Bytes(self.down + other.down, self.up + other.up)

    def __mul__(self, times: int) -> Bytes:
        return Bytes(self.down * times, self.up * times)

    @property
    def total(self) -> int:
        """Both ways."""
        return self.down + self.up


class Way(Protocol):
    """How a federation trains, for one site."""

    @property
    def trips(self) -> int:
        """How often a step waits for what comes back."""
        ...

    def turn(self) -> Bytes:
        """What goes once in each round or turn, however many images there are."""
        ...

    def step(self, rows: int) -> Bytes:
        """What goes in a step with so many images."""
        ...

    def multiply_adds(self) -> int:
        """What the site computes for one image in a step."""
        ...


@dataclass(frozen=True)
class FedAvg:
    """Federated averaging (McMahan et al. 2017), and every other way that sends a model once in a round."""

    network: Piece
    trips = 0

    def turn(self) -> Bytes:
        """The model each way."""
        size = NUMBER_BYTES * self.network.weights
        return Bytes(size, size)

    def step(self, rows: int) -> Bytes:
        """Nothing."""
        return Bytes()

    def multiply_adds(self) -> int:
        """All of them."""
        return self.network.multiply_adds + BACKWARD * self.network.learning


@dataclass(frozen=True)
class LargeBatch:
    """Large-batch SGD: the sites compute one gradient together (Chen et al. 2016)."""

    network: Piece
    trips = 1

    def turn(self) -> Bytes:
        """Nothing: whoever has had every gradient has the weights."""
        return Bytes()

    def step(self, rows: int) -> Bytes:
        """A gradient of all weights each way, however few images it is of."""
        size = NUMBER_BYTES * self.network.weights
        return Bytes(size, size)

    def multiply_adds(self) -> int:
        """All of them."""
        return self.network.multiply_adds + BACKWARD * self.network.learning


@dataclass(frozen=True)
class Split:
    """A network in two rooms, or with the U shape in three parts of which the site has the first and the last.

    Attributes:
        head: What the site trains, before the cut.
        floats: How many numbers of one image pass the cut.
        wire: How they are written: one of `WIRES`.
        slots: What the optimizer keeps for each weight: of `SLOTS`, and one more with momentum.
        label_bytes: Of one image.
        end: With the U shape what the site trains behind the second cut; then no label leaves it.
        end_floats: How many numbers of one image pass that.
        anew: Whether the optimizer begins anew in each round, as with all sites at once (SplitFed, Thapa et al. 2022);
            then its state only goes up.
    """

    head: Piece
    floats: int
    wire: str = "f32"
    slots: int = 2
    label_bytes: int = 4
    end: Piece | None = None
    end_floats: int = 0
    anew: bool = False

    @property
    def trips(self) -> int:
        """One, and with the U shape two."""
        return 1 if self.end is None else 2

    def turn(self) -> Bytes:
        """What the site trains, with the optimizer's state, each way."""
        parts = [self.head] if self.end is None else [self.head, self.end]
        weights = NUMBER_BYTES * sum(part.weights for part in parts)
        state = NUMBER_BYTES * sum(self.slots * part.trained + _COUNTERS for part in parts)
        return Bytes(down=weights + (0 if self.anew else state), up=weights + state)

    def step(self, rows: int) -> Bytes:
        """What passes the cut or the cuts, and the gradients of that."""
        here = self._frame(rows, self.floats)
        if self.end is None:
            return Bytes(down=here + SCORES_BYTES, up=here + rows * self.label_bytes)
        there = self._frame(rows, self.end_floats)
        return Bytes(down=here + there + SCORES_BYTES, up=here + there)

    def _frame(self, rows: int, floats: int) -> int:
        scale = NUMBER_BYTES if self.wire == "int8" else 0
        return FRAME_BYTES + rows * (floats * WIRES[self.wire] + scale)

    def multiply_adds(self) -> int:
        """The first part's, once more forward than in one piece, and those of the last, where the site has it."""
        of_head = AGAIN * self.head.multiply_adds + BACKWARD * self.head.learning
        return of_head + (self.end.multiply_adds + BACKWARD * self.end.learning if self.end else 0)


def slots_of(optimizer: str, momentum: float = 0.0) -> int:
    """How many numbers an optimizer of the training plan keeps for each weight that it changes."""
    return SLOTS[optimizer] + (momentum > 0)


def client_bytes(way: Way, images: int, batch: int, epochs: int = 1, turns: int = 1) -> Bytes:
    """What goes to and from a site in rounds or turns.

    Args:
        images: That the site trains on in an epoch.
        batch: In a step; the last one of an epoch may have fewer.
        epochs: In each round or turn.
        turns: How many of them.
    """
    full, rest = divmod(images, batch)
    epoch = way.step(batch) * full + (way.step(rest) if rest else Bytes())
    return (way.turn() + epoch * epochs) * turns


def releases(network: Piece, turns: int) -> Bytes:
    """What a site receives beside its own turns where the whole network is released to all for each of so many."""
    return Bytes(down=NUMBER_BYTES * network.weights) * turns


def client_multiply_adds(way: Way, images: int, epochs: int = 1) -> int:
    """What a site computes in training, by how many images it takes in how many epochs."""
    return way.multiply_adds() * images * epochs


def break_even(split: Split, fedavg: FedAvg, batch: int, epochs: int = 1) -> int:
    """The most images of a site with which split learning sends no more than `fedavg` in a round or turn.

    0 where it always sends more: what the site trains, with its optimizer's state, is larger than the network.
    """
    most = fedavg.turn().total
    room = most - split.turn().total
    high = max(0, room) // (epochs * 2 * split.floats * WIRES[split.wire]) + 1
    low = 0  # sends no more, or is nothing; with `high` it sends more
    while high - low > 1:
        middle = (low + high) // 2
        fits = client_bytes(split, middle, batch, epochs).total <= most
        low, high = (middle, high) if fits else (low, middle)
    return low


def published_break_even(weights: int, floats: int, wire: str = "f32", epochs: int = 1) -> float:
    """The same without what goes once in a turn, labels and frames: W/q with one epoch and f32."""
    return NUMBER_BYTES * weights / (WIRES[wire] * floats * epochs)


@dataclass(frozen=True)
class Line:
    """The line between a site and the coordinator.

    Attributes:
        bits_per_second: Each way, above 0.
        round_trip_seconds: From a site and back, with nothing to carry.
    """

    bits_per_second: float
    round_trip_seconds: float

    def seconds(self, bytes: int, trips: int) -> float:
        """How long so many bytes and so many answers keep a site waiting."""
        return 8 * bytes / self.bits_per_second + trips * self.round_trip_seconds


def steps_per_second(way: Way, rows: int, line: Line, compute_seconds: float = 0.0) -> float:
    """1 / (compute + bytes/bandwidth + round trip), with two round trips in the U shape.

    Args:
        rows: Images in a step.
        compute_seconds: What both sides compute for a step. Without it, what the line allows.
    """
    seconds = compute_seconds + line.seconds(way.step(rows).total, way.trips)
    return 1 / seconds if seconds else math.inf


def waiting_seconds(way: Way, images: int, batch: int, line: Line, epochs: int = 1) -> float:
    """How long the line keeps a site waiting in a round or turn: for all bytes, every step and what goes once."""
    steps = math.ceil(images / batch) * epochs
    once = 2 if way.turn().total else 0
    return line.seconds(client_bytes(way, images, batch, epochs).total, way.trips * steps + once)


def worth_a_look(floats: Sequence[int]) -> list[bool]:
    """Which of several cuts, in the network's order, pass fewer numbers than all before them.

    Of two that pass as many, the earlier one leaves less to be computed at the site.
    """
    return [all(one < other for other in floats[:place]) for place, one in enumerate(floats)]
