"""What both rooms derive from what was agreed for a turn: its parts, the size of its batches, its name."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from fedssh.errors import SettingsError
from fedssh.models import tasks
from fedssh.models.costs import usual
from fedssh.models.cut import cuts as every_cut
from fedssh.models.cut import find
from fedssh.models.parts import Part
from fedssh.models.recipe import Recipe
from fedssh.rules.plan import Plan
from fedssh.rules.policies import Policy, read_policy
from fedssh.rules.policies.split import AUTO, cuts
from fedssh.split.wire import Wire

if TYPE_CHECKING:
    from fedssh.models.decoder import Decoder

MAX_EXAMPLES = 1 << 31
_LABELS = {tasks.CLASSES: "<i4", tasks.LABELS: "u1", tasks.REGRESSION: "<f4"}


@dataclass(frozen=True)
class Agreed:
    """What a turn is about.

    Attributes:
        spec: The architecture.
        plan: How it is trained.
        policy: `split`, with its options.
    """

    spec: Mapping[str, Any]
    plan: Plan
    policy: Policy

    @property
    def after(self) -> tuple[str, ...]:
        """The layers after which the network is cut."""
        return cuts(self.policy.values)

    @property
    def labels_stay(self) -> bool:
        """Whether the labels, and with them the last layers, are at the site."""
        return self.policy.values["labels"] == "site"

    @property
    def wire(self) -> Wire:
        """How numbers go."""
        return Wire[str(self.policy.values["wire"])]

    @property
    def every(self) -> int:
        """After how many epochs both rooms write down where they are."""
        return int(self.policy.values["checkpoint"])

    @property
    def recipe(self) -> Recipe:
        """What a step has beyond optimizer, rate and loss."""
        return Recipe(**{field.name: getattr(self.plan, field.name) for field in fields(Recipe)})

    @property
    def alpha(self) -> float | None:
        """How much the gradient of a decoder at the site counts at the cut; None where there is none."""
        found = self.policy.values.get("decoder")
        return None if found is None else float(found)

    def part(self, number: int) -> Part:
        """One part of the network, with its optimizer.

        Raises:
            SettingsError: It cannot be cut so.
        """
        plan = self.plan
        try:
            return Part(
                self.spec, self.after, number, plan.optimizer, plan.learning_rate, plan.momentum, recipe=self.recipe
            )  # fmt: skip
        except ValueError as error:
            raise SettingsError(str(error)) from None

    def decoder(self, cut: tuple[int, ...]) -> Decoder:
        """The decoder beside the site's layers, with its optimizer.

        Args:
            cut: The shape of what they give for one example.
        """
        from fedssh.models.decoder import Decoder

        assert self.alpha is not None
        plan = self.plan
        return Decoder(
            cut, tuple(self.spec["input"]), self.alpha, plan.optimizer, plan.learning_rate, plan.momentum, self.recipe
        )  # fmt: skip


class Parts:
    """The parts that a room needs, made once for all turns that are about the same: to make one takes seconds."""

    def __init__(self) -> None:
        self._about: Agreed | None = None
        self._made: dict[int, Part] = {}
        self._decoder: Decoder | None = None

    def of(self, agreed: Agreed, number: int) -> Part:
        """One of them; what it has learned and how far its optimizer is, is whatever the last turn left.

        Raises:
            SettingsError: The network cannot be cut so.
        """
        if agreed != self._about:
            self._about, self._made, self._decoder = agreed, {}, None
        if number not in self._made:
            self._made[number] = agreed.part(number)
        return self._made[number]

    def decoder(self, agreed: Agreed) -> Decoder:
        """The decoder beside the first of them, likewise."""
        first = self.of(agreed, 0)
        if self._decoder is None:
            self._decoder = agreed.decoder(first.after)
        return self._decoder


@dataclass(frozen=True)
class Length:
    """How long a turn is.

    Attributes:
        examples: How many images the site trains on.
        batch: How many of them are in a step.
        epochs: How often it goes through all.
    """

    examples: int
    batch: int
    epochs: int

    @property
    def steps(self) -> int:
        """In one epoch."""
        return -(-self.examples // self.batch)

    @property
    def of(self) -> int:
        """In all."""
        return self.steps * self.epochs

    def rows(self, step: int) -> int:
        """How many images are in a step (from 1): the last of an epoch has what is left."""
        last = (step - 1) % self.steps == self.steps - 1
        return self.examples - (self.steps - 1) * self.batch if last else self.batch

    def ends(self, step: int, every: int) -> bool:
        """Whether both rooms write down where they are after a step."""
        epoch, left = divmod(step, self.steps)
        return not left and (epoch % every == 0 or epoch == self.epochs)


def found(policy: Policy, network: Any) -> Policy:
    """A policy with the layers written out that it leaves open; every other policy is as it is.

    Args:
        network: The whole, a Keras model.

    Raises:
        ValueError: It cannot be cut so; says where it can be.
    """
    if not policy.split:
        return policy
    values = dict(policy.values)
    if values["cut"] == AUTO:
        values["cut"] = usual(network)
    order = [one.layer for one in every_cut(network)]
    first = find(network, str(values["cut"])).layer
    if values["labels"] == "site":
        later = order[order.index(first) + 1 :]
        if not later:
            raise ValueError(f"with labels=site there is a second cut after {first}, and {network.name} has none there")
        if values.get("tail", AUTO) == AUTO:
            values["tail"] = later[-1]
        if find(network, str(values["tail"])).layer not in later:
            raise ValueError(
                f"the tail {values['tail']} does not come after the cut {first}; after it are {', '.join(later)}"
            )
    elif "tail" in values:
        raise ValueError("tail belongs to labels=site")
    return read_policy(Policy(policy.name, values).text)


def kept_id(turn: str, seed: int, length: Length, unlabelled: int = 0) -> str:
    """What tells what is kept of a turn from what was kept of it with other images."""
    words = f"{turn} {seed} {length.examples} {length.batch} {length.epochs}"
    words += f" {unlabelled}" if unlabelled else ""
    return hashlib.sha256(words.encode()).hexdigest()[:16]


def labels_size(spec: Mapping[str, Any]) -> int:
    """How many bytes the label of one image has on its way."""
    return np.dtype(_LABELS[tasks.task_of(spec)]).itemsize * _width(spec)


def write_labels(labels: np.ndarray, spec: Mapping[str, Any]) -> bytes:
    """The bytes of labels as a trainer has them."""
    return np.ascontiguousarray(labels, _LABELS[tasks.task_of(spec)]).tobytes()


def read_labels(data: Any, rows: int, spec: Mapping[str, Any]) -> np.ndarray:
    """What `write_labels` was given.

    Raises:
        ValueError: There is no such class, or a target is not finite.
    """
    task = tasks.task_of(spec)
    labels = np.frombuffer(data, _LABELS[task])
    if task == tasks.REGRESSION:
        if not np.isfinite(labels).all():
            raise ValueError("a target is not finite")
        return labels.reshape(rows, -1)
    most = spec["classes"] - 1 if task == tasks.CLASSES else 1
    if labels.size and not 0 <= int(labels.min()) <= int(labels.max()) <= most:
        raise ValueError(f"a label is {int(labels.max())} or {int(labels.min())}, expected 0..{most}")
    found = labels.astype(np.int64)
    return found if task == tasks.CLASSES else found.reshape(rows, -1)


def _width(spec: Mapping[str, Any]) -> int:
    task = tasks.task_of(spec)
    return 1 if task == tasks.CLASSES else spec["labels"] if task == tasks.LABELS else len(spec["targets"])
