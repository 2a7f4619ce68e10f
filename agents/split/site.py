"""The site's side of a turn: every batch through the first layers, over the channel, and back.

What it says and hears stands in `talk`. It may be killed or cut off anywhere; whoever runs it again with a new channel
goes on where both rooms were.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedssh.errors import ChannelError
from fedssh.models.data.pixel_file import PixelFile
from fedssh.models.parts import check_state
from fedssh.models.training import Examples, Interrupted
from fedssh.rules.turns import ENDED, KEPT, LIVE, START, GoOn, Position, go_on
from fedssh.split.encoding import Encoding
from fedssh.split.kept import Kept
from fedssh.split.layers import together
from fedssh.split.line import Expected, Line, NotAgreedError, complain, hear, read, say
from fedssh.split.talk import SCORES, Hello, Kind, Stand
from fedssh.split.turn import Agreed, Length, Parts, kept_id, write_labels
from fedssh.split.wire import decode, encode, size

MAX_STATE_BYTES = 1 << 30


class DivergedError(Exception):
    """Training has left the finite numbers at this end; it would again."""


@dataclass(frozen=True)
class Past:
    """How an epoch went.

    Attributes:
        epoch: From 1.
        loss: Mean loss of its images, each as its batch found it; without what regularizers of the first layers add.
        value: Of the task's measure, likewise.
    """

    epoch: int
    loss: float
    value: float


class SiteTurn:
    """One turn of a site.

    Args:
        agreed: What it is about.
        turn: Its name, see `turn_id`.
        weights: Of the whole network, as the release has them.
        examples: What is trained on.
        order: In which order an epoch (from 1) goes through them: int64 [n].
        session, seed: Of this session.
        kept: The folder where this room writes down where it is; None writes nothing.
        parts: Has the site's parts, perhaps from the turn before.
        told: Called after each epoch.
        watch: Called with the gradient of each step by the first weights, float32 [their number]; raises where the
            coordinator does not train what was agreed.
        decoder: What `decoder` gave at the end of the site's last turn; None begins anew. Only where one was agreed.
        unlabelled: float32 [n, height, width, channels], in 0..1, or a `PixelFile`: what that is trained on as well.
        begins: The optimizer's state, where it comes from the last site and not over the channel.

    Raises:
        SettingsError: The network cannot be cut so.
    """

    def __init__(
        self,
        agreed: Agreed,
        turn: str,
        weights: Mapping[str, np.ndarray],
        examples: Examples,
        order: Callable[[int], np.ndarray],
        session: int,
        seed: int,
        kept: Path | None,
        parts: Parts | None = None,
        told: Callable[[Past], None] = lambda past: None,
        watch: Callable[[np.ndarray], None] = lambda gradient: None,
        decoder: Mapping[str, np.ndarray] | None = None,
        unlabelled: np.ndarray | PixelFile | None = None,
        begins: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        self._begins = begins
        self._agreed = agreed
        self._weights = weights
        self._examples = examples
        self._order = order
        self._session, self._seed = session, seed
        self.length = Length(len(examples), agreed.plan.batch_size, agreed.plan.epochs)
        more = 0 if unlabelled is None else len(unlabelled)
        self._kept = Kept(kept, kept_id(turn, seed, self.length, more))
        self._told, self._watch = told, watch
        parts = parts or Parts()
        self._parts = [parts.of(agreed, number) for number in ((0, 2) if agreed.labels_stay else (0,))]
        self._encoding: Encoding | None = None
        if agreed.alpha is not None:
            self._encoding = Encoding(parts.decoder(agreed), decoder, unlabelled, seed, self.length)
        self._live: int | None = None
        self._sums = [0.0, 0.0]  # of the epoch at hand: loss and measure, over its images so far
        self._past: Past | None = None
        self._sent: tuple[int, bytes] | None = None  # with labels that stay: step and gradient that was sent
        self._at: tuple[int, np.ndarray] = (0, np.zeros(0, np.int64))
        self._ahead: tuple[int, Any, np.ndarray] | None = None  # a step to come, its images and labels

    @property
    def past(self) -> Past | None:
        """How the last whole epoch went."""
        return self._past

    @property
    def step(self) -> int:
        """How many steps are done."""
        return self._live or 0

    def weights(self) -> dict[str, np.ndarray]:
        """Of the site's layers, by variable path."""
        return {name: array for part in self._parts for name, array in part.weights().items()}

    def decoder(self) -> dict[str, np.ndarray]:
        """The decoder and its optimizer as they are now, which stay at the site; empty where there is none."""
        return {} if self._encoding is None else self._encoding.arrays()

    def state(self) -> dict[str, np.ndarray]:
        """Of the optimizer of the site's layers."""
        every = enumerate(self._parts)
        return {f"{number}/{name}": array for number, part in every for name, array in part.state().items()}

    def sent(self) -> dict[str, np.ndarray]:
        """What goes out at the end: the site's layers, and where they are for sites alone, their optimizer's state."""
        return together(self.weights(), self.state() if self._agreed.policy.for_sites else {})

    def run(self, line: Line, stop: threading.Event | None = None) -> None:
        """Go on until the turn is over at both ends.

        Args:
            line: A new channel; is closed when this returns or raises.
            stop: When set, it ends after the step at hand.

        Raises:
            UnreachableError: The channel was cut; run again with a new one.
            ChannelError: What came is not as agreed, or the coordinator says that something is wrong.
            DivergedError: What is trained here is no finite number any more: nothing of this turn is worth sending.
            models.training.Interrupted: `stop` was set.
            OSError: Where it is cannot be written down.
        """
        try:
            if self._greet(line):
                while self.step < self.length.of:
                    if stop is not None and stop.is_set():
                        raise Interrupted
                    self._take(line, self.step + 1)
                self._end(line)
        except ChannelError as error:
            complain(line, str(error))
            raise
        finally:
            line.close()

    def forget(self) -> None:
        """Let go of what was written down: the turn's result is on its way."""
        self._kept.clear()

    # the beginning

    def _greet(self, line: Line) -> bool:
        """Agree where to go on; False where the turn is over already."""
        length = self.length
        mine = Position(self._live, self._kept.steps())
        hello = Hello(
            session=self._session, seed=self._seed, examples=length.examples, epochs=length.epochs, steps=length.steps,
            live=mine.live, kept=tuple(mine.kept),
        )  # fmt: skip
        say(line, Kind.HELLO, hello)
        _, body = hear(line, Expected(0, {Kind.STAND: (0, 0, -4096)}))
        stand = read(Stand, body)
        self._check_stand(stand, mine)
        if stand.how == START:
            self._begin(line)
        elif stand.how in (KEPT, ENDED) and self._live != stand.step:
            self._restore(stand.step)
        return stand.how != ENDED

    def _check_stand(self, stand: Stand, mine: Position) -> None:
        """Whether it is a place where this room can go on."""
        of = self.length.of
        possible = {
            LIVE: mine.live == stand.step,
            KEPT: stand.step in mine.kept and not stand.again,
            START: stand.step == 0 and not stand.again,
            ENDED: go_on(mine, Position(None), of, ended=True) == GoOn(of, ENDED) and stand.step == of,
        }
        if not possible.get(stand.how):
            raise NotAgreedError(
                f"the coordinator goes on from step {stand.step} ({stand.how}), which is not kept here"
            )

    def _begin(self, line: Line) -> None:
        """From the release's weights; the optimizer of the site's layers comes from whoever had the last turn."""
        shapes = {
            f"{number}/{name}": shape
            for number, part in enumerate(self._parts)
            for name, shape in part.state_shapes().items()
        }
        _, body = hear(line, Expected(0, {Kind.STATE: (0, 0, -MAX_STATE_BYTES)}))
        self._kept.clear()
        for part in self._parts:
            part.load(self._weights)
            part.fresh(self._seed, self.length.epochs, self.length.steps)
        if self._encoding is not None:
            self._encoding.begin()
        if self._agreed.policy.for_sites and len(body):
            raise NotAgreedError("the coordinator has an optimizer's state that is for sites alone")
        state = read_state(bytes(body), shapes) if len(body) else _checked(self._begins or {}, shapes)
        if state:
            for number, part in enumerate(self._parts):
                own = f"{number}/"
                part.load_state({name.removeprefix(own): one for name, one in state.items() if name.startswith(own)})
        self._live, self._sums, self._past, self._sent = 0, [0.0, 0.0], None, None

    # steps

    def _take(self, line: Line, step: int) -> None:
        images, labels = self._batch(step)
        front, wire = self._parts[0], self._agreed.wire
        batch = images if self._encoding is None else self._encoding.with_unlabelled(images, step)
        every = front.forward(batch).numpy()
        features = every[: len(labels)]
        if not np.isfinite(features).all():
            raise DivergedError(f"what the site's layers give in step {step} is not finite")
        gradient = (
            self._both_ends(line, step, features, labels)
            if self._agreed.labels_stay
            else self._to_coordinator(line, step, encode(features, wire), labels)
        )
        if not np.isfinite(gradient).all():
            raise NotAgreedError(f"the gradient of step {step} is not finite")
        if self._encoding is not None:
            gradient = self._encoding.step(every, front.changed(batch), gradient, step)
        front.backward(batch, gradient)
        if front.felt is not None:
            self._watch(front.felt)
        self._live = step
        epoch, within = divmod(step, self.length.steps)
        if not within:
            loss, value = (total / self.length.examples for total in self._sums)
            self._past, self._sums = Past(epoch, loss, value), [0.0, 0.0]
            self._told(self._past)
        if self.length.ends(step, self._agreed.every):
            self._keep(step)
            say(line, Kind.KEEP, step=step)
            hear(line, Expected(step, {Kind.KEPT: (0, 0, 0)}))

    def _to_coordinator(self, line: Line, step: int, features: bytes, labels: Any) -> np.ndarray:
        """The gradient of a batch whose labels go with it."""
        front, wire, rows = self._parts[0], self._agreed.wire, len(labels)
        own = write_labels(labels, self._agreed.spec)
        line.send(Kind.FORWARD, features, own, dtype=wire, rows=rows, step=step)
        self._look_ahead(step)
        return self._gradient(line, step, rows, front.after, count=True)

    def _both_ends(self, line: Line, step: int, features: np.ndarray, labels: Any) -> np.ndarray:
        """The gradient of a batch whose labels stay: its loss is computed here, by the last layers.

        These take their step before the coordinator takes hers. So what was sent to her is kept until hers is known.
        """
        front, last, wire, rows = *self._parts, self._agreed.wire, len(labels)
        line.send(Kind.FORWARD, encode(features, wire), dtype=wire, rows=rows, step=step)
        self._look_ahead(step)
        possible: dict[int, tuple[int, int, int]] = {Kind.OUTPUTS: (rows, wire, size(wire, rows, last.before))}
        if self._sent is not None and self._sent[0] == step:
            possible[Kind.GRADIENT] = (rows, wire, SCORES.size + size(wire, rows, front.after))
        header, body = hear(line, Expected(step, possible))
        if header.kind == Kind.GRADIENT:
            return decode(body[SCORES.size :], wire, rows, front.after, gradient=True)
        if self._sent is None or self._sent[0] != step:
            outputs = decode(body, wire, rows, last.before)
            if not np.isfinite(outputs).all():
                raise NotAgreedError(f"what the coordinator's layers give in step {step} is not finite")
            gradient, loss, right = last.step(outputs, labels)
            if not np.isfinite(loss):
                raise DivergedError(f"the loss of step {step} is not finite")
            self._count(loss, right, rows)
            self._sent = step, encode(gradient.numpy(), wire, gradient=True)
        line.send(Kind.BACKWARD, self._sent[1], dtype=wire, rows=rows, step=step)
        return self._gradient(line, step, rows, front.after, count=False)

    def _gradient(self, line: Line, step: int, rows: int, shape: tuple[int, ...], *, count: bool) -> np.ndarray:
        wire = self._agreed.wire
        length = SCORES.size + size(wire, rows, shape)
        _, body = hear(line, Expected(step, {Kind.GRADIENT: (rows, wire, length)}))
        if count:
            loss, right = SCORES.unpack_from(body)
            if not (np.isfinite(loss) and np.isfinite(right)):
                raise NotAgreedError(f"the scores of step {step} are not finite")
            self._count(loss, right, rows)
        return decode(body[SCORES.size :], wire, rows, shape, gradient=True)

    def _count(self, loss: float, right: float, rows: int) -> None:
        self._sums = [self._sums[0] + loss * rows, self._sums[1] + right]

    def _look_ahead(self, step: int) -> None:
        """Get the next batch ready, while the coordinator computes."""
        if step < self.length.of:
            self._ahead = (step + 1, *self._batch(step + 1))

    def _batch(self, step: int) -> tuple[Any, np.ndarray]:
        """Images and labels of a step."""
        import tensorflow

        if self._ahead is not None and self._ahead[0] == step:
            return self._ahead[1:]
        past, at = divmod(step - 1, self.length.steps)
        epoch = past + 1
        if self._at[0] != epoch:
            self._at = epoch, self._order(epoch)
        some = self._at[1][at * self.length.batch : (at + 1) * self.length.batch]
        labels = tensorflow.gather(self._examples.labels, some).numpy()
        if isinstance(self._examples.images, PixelFile):
            return self._examples.images.read(some), labels
        with tensorflow.device("/CPU:0"):
            return tensorflow.gather(self._examples.images, some), labels

    # where it is

    def _keep(self, step: int) -> None:
        past = self._past
        told = [] if past is None else [past.epoch, past.loss, past.value]
        groups: dict[str, Mapping[str, np.ndarray]] = {"past": {"told": np.array(told, np.float64)}}
        for number, part in enumerate(self._parts):
            groups[f"weights{number}"] = part.weights()
            groups[f"state{number}"] = part.state()
            groups[f"random{number}"] = part.generators()
        if self._encoding is not None:
            groups["decoder"] = self._encoding.arrays()
        self._kept.write(step, groups)

    def _restore(self, step: int) -> None:
        groups = self._kept.read(step)
        for number, part in enumerate(self._parts):
            part.load(groups[f"weights{number}"])
            part.begin(self._seed, self.length.epochs, self.length.steps)
            part.load_state(groups[f"state{number}"], step)
            part.load_generators(groups.get(f"random{number}", {}))
        if self._encoding is not None:
            self._encoding.restore(groups["decoder"])
        told = groups["past"]["told"]
        self._past = Past(int(told[0]), float(told[1]), float(told[2])) if len(told) else None
        self._live, self._sums, self._sent = step, [0.0, 0.0], None

    # the end

    def _end(self, line: Line) -> None:
        arrays = self.state()
        body = b"" if self._agreed.policy.for_sites else write_state(arrays)
        line.send(Kind.END, body, step=self.length.of)
        hear(line, Expected(self.length.of, {Kind.ENDED: (0, 0, 0)}))


def write_state(state: Mapping[str, np.ndarray]) -> bytes:
    """An optimizer's state, as it goes over a channel: a safetensors file."""
    from safetensors.numpy import save

    return save(dict(state))


def read_state(data: bytes, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """What `write_state` was given.

    Raises:
        NotAgreedError: It is none, of other shapes, or not finite.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        state = load(data)
    except SafetensorError as error:
        raise NotAgreedError(f"the optimizer's state that came cannot be used: {error}") from None
    return _checked(state, shapes)


def _checked(state: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """An optimizer's state, whoever it is from, in one order; nothing is none.

    Raises:
        NotAgreedError: It is of other shapes, or not finite.
    """
    if not state:
        return {}
    try:
        check_state(state, shapes)
    except ValueError as error:
        raise NotAgreedError(f"the optimizer's state that came cannot be used: {error}") from None
    for name, array in state.items():
        if array.dtype != np.float32 or not np.isfinite(array).all():
            raise NotAgreedError(f"{name} of the optimizer's state that came is not of finite float32 numbers")
    return {name: state[name] for name in shapes}  # what reads safetensors has an order of its own each time
