"""The coordinator's side of a turn: her layers take every batch that comes over the channel, once.

What she says and hears stands in `talk`. A site that was cut off comes back on a new channel and both go on; after she
was killed she goes on from what she wrote down. What comes is looked at before anything is computed from it.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np

from fedssh.channel.frames import Header
from fedssh.errors import ChannelError, LedgerError, UnreachableError
from fedssh.files import write_whole
from fedssh.forms import canonical
from fedssh.rules.events import Work
from fedssh.rules.turns import ENDED, KEPT, START, Position, go_on
from fedssh.split.kept import Kept
from fedssh.split.line import Expected, Line, NotAgreedError, complain, hear, read, say
from fedssh.split.site import MAX_STATE_BYTES, read_state, write_state
from fedssh.split.talk import SCORES, Hello, Kind, Stand
from fedssh.split.turn import MAX_EXAMPLES, Agreed, Length, Parts, kept_id, labels_size, read_labels
from fedssh.split.wire import decode, encode, size

_NOTHING = {"nothing": np.zeros(1, np.float32)}  # what stands for a state that is for sites alone
_HELLO = "hello.json"  # what a site began its turn with
Arrays = Mapping[str, np.ndarray]


class CoordinatorTurn:
    """The coordinator's part in one turn of a site.

    Args:
        agreed: What it is about.
        turn: Its name, see `turn.turn_id`.
        weights: Of the whole network, that the turn begins with.
        state: The optimizer's state of the coordinator's layers, and of the site's; None where it begins anew.
        kept: The folder where this room writes down where it is; None writes nothing.
        parts: Has the parts, perhaps from the turn before.
        busy: Held while something is computed; what else computes in this process holds it, too.
        now: Seconds.

    Raises:
        SettingsError: The network cannot be cut so.
    """

    def __init__(
        self,
        agreed: Agreed,
        turn: str,
        weights: Arrays,
        state: tuple[Arrays, Arrays] | None,
        kept: Path | None,
        parts: Parts | None = None,
        busy: AbstractContextManager[Any] | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._agreed, self._turn, self._weights, self._begins = agreed, turn, weights, state
        self._folder = kept
        self._busy = busy if busy is not None else contextlib.nullcontext()
        self._now = now
        self._parts = parts or Parts()
        self._part = self._parts.of(agreed, 1)
        own = set(self._part.names)
        self.site_names = tuple(name for name in self._names() if name not in own)
        self._lock = threading.Lock()
        self._length: Length | None = None
        self._kept: Kept | None = None
        self._hello: Hello | None = None
        self._live: int | None = None
        self._last: tuple[bytes, int] | None = None  # what the step at hand was answered, and its rows
        self._counts = [0, 0, 0, 0]  # steps, images, bytes in and out
        self._seconds, self._resumed = 0.0, 0.0
        self._on_line = [0, 0]
        self._site_state: dict[str, np.ndarray] | None = None
        self._shapes: dict[str, tuple[int, ...]] | None = None
        self._over = False

    @property
    def step(self) -> int:
        """How many steps are done."""
        return self._live or 0

    @property
    def ended(self) -> bool:
        """Whether the site has said that it is over."""
        return self._site_state is not None

    def work(self) -> Work:
        """What went through the channel so far."""
        steps, images, received, sent = self._counts
        return Work(steps=steps, images=images, received=received, sent=sent, seconds=round(self._seconds, 3))

    def result(self) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Of a turn that has ended: the weights of the coordinator's layers, their optimizer's state, and the site's.

        Raises:
            ValueError: It has not.
        """
        if self._site_state is None:
            raise ValueError("the turn has not ended")
        return self._part.weights(), self._part.state(), self._site_state

    def recall(self) -> None:
        """After a start: what a process before this one wrote down of the turn's end, if it came so far."""
        if self._folder is None:
            return
        try:
            written = json.loads((self._folder / _HELLO).read_bytes())
            hello = Hello.read(written["hello"], str(self._folder / _HELLO))
            if written["turn"] != self._turn:
                return
            length, kept = self._checked(hello)
        except (FileNotFoundError, ValueError, KeyError, TypeError, ChannelError, LedgerError):
            return  # it was never written whole, or by an older program: the site begins again
        self._hello, self._length, self._kept = hello, length, kept
        if length.of in kept.steps():
            self._recall_end(length)

    def forget(self) -> None:
        """Let go of what was written down, and compute nothing more: the parts may serve another turn from now on.

        The caller holds `busy`.
        """
        self._over = True
        Kept(self._folder, "").clear()
        if self._folder is not None:
            (self._folder / _HELLO).unlink(missing_ok=True)

    def whole(self, layers: Arrays | None) -> dict[str, np.ndarray]:
        """Of a turn that has ended, the weights of the network, in no order.

        Args:
            layers: The site's; None leaves there what the turn began with.
        """
        own, _, _ = self.result()
        return {**self._weights, **(layers or {}), **own}

    def serve(self, line: Line) -> None:
        """Go on with a site on a new channel until the turn is over, or the channel.

        Args:
            line: Is closed when this returns or raises.

        Raises:
            UnreachableError: It was cut; the site will come back.
            ChannelError: What came is not as agreed; the site was told so.
            OSError: Where this room is cannot be written down.
        """
        with self._lock:
            try:
                self._on_line = [line.received, line.sent]  # what shook hands is no part of the turn
                length = self._greet(line)
                while not self.ended:
                    self._next(line, length)
            except ChannelError as error:
                complain(line, str(error))
                raise
            except ValueError as error:
                complain(line, str(error))
                raise NotAgreedError(str(error)) from None
            finally:
                line.close()

    @contextlib.contextmanager
    def _computing(self) -> Iterator[None]:
        """The parts are this turn's while the block runs.

        Raises:
            UnreachableError: They are not any more: the turn was closed meanwhile.
        """
        with self._busy:
            if self._over:
                raise UnreachableError("the turn is closed")
            yield

    # the beginning

    def _greet(self, line: Line) -> Length:
        _, body = hear(line, Expected(0, {Kind.HELLO: (0, 0, -4096)}))
        hello = read(Hello, body)
        length, kept = self._checked(hello)
        same = self._hello is not None and _who(self._hello) == _who(hello)
        if not same:
            self._live, self._last, self._site_state = None, None, None
        if not same and self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_whole(self._folder / _HELLO, canonical({"turn": self._turn, "hello": hello.fields()}))
        self._hello, self._length, self._kept = hello, length, kept
        if self._live is None and length.of in kept.steps():
            self._recall_end(length)
        site, mine = Position(hello.live, hello.kept), Position(self._live, kept.steps())
        stand = go_on(site, mine, length.of, ended=self.ended)
        if not self.ended or stand.how != ENDED:
            self._site_state = None
        if stand.how == START:
            self._begin(hello, length)
        elif stand.how == KEPT:
            self._restore(stand.step)
        say(line, Kind.STAND, Stand(step=stand.step, how=stand.how, again=stand.again))
        if stand.how == START:
            begins = {} if self._begins is None else self._begins[1]
            line.send(Kind.STATE, write_state(begins) if begins else b"")
        self._resumed = self._now()
        return length

    def _checked(self, hello: Hello) -> tuple[Length, Kept]:
        """How long the site's turn is, as it must be by the plan."""
        plan = self._agreed.plan
        length = Length(hello.examples, plan.batch_size, plan.epochs)
        if not 1 <= hello.examples < MAX_EXAMPLES:
            raise NotAgreedError(f"the site trains on {hello.examples} images")
        if (hello.epochs, hello.steps) != (plan.epochs, length.steps):
            agreed = f"{plan.epochs} epochs of {length.steps} steps"
            raise NotAgreedError(f"the site wants {hello.epochs} epochs of {hello.steps} steps, by the plan {agreed}")
        return length, Kept(self._folder, kept_id(self._turn, hello.seed, length))

    def _begin(self, hello: Hello, length: Length) -> None:
        assert self._kept is not None
        self._kept.clear()
        with self._computing():
            self._part.load(self._weights)
            self._part.fresh(hello.seed, length.epochs, length.steps)
            if self._begins is not None:
                self._part.load_state(self._begins[0])
        self._live, self._last = 0, None
        self._counts, self._seconds = [0, 0, 0, 0], 0.0

    # steps

    def _next(self, line: Line, length: Length) -> None:
        """One frame of the site, and the answer."""
        assert self._live is not None
        step = self._live + 1
        agreed, part = self._agreed, self._part
        possible: dict[int, tuple[int, int, int]] = {}
        rows = length.rows(step) if step <= length.of else 0
        labels = 0 if agreed.labels_stay else rows * labels_size(agreed.spec)
        if rows:
            possible[Kind.FORWARD] = (rows, agreed.wire, size(agreed.wire, rows, part.before) + labels)
        header, body = hear(line, self._expected(step, possible, length))
        if header.kind == Kind.KEEP:
            self._keep()
            say(line, Kind.KEPT, step=header.step)
        elif header.kind == Kind.END:
            self._end(bytes(body))
            say(line, Kind.ENDED, step=header.step)
        elif header.step == self._live:
            assert self._last is not None
            line.send(Kind.GRADIENT, self._last[0], dtype=agreed.wire, rows=self._last[1], step=header.step)
        else:
            self._take(line, step, rows, body)
        self._count(line)

    def _expected(
        self, step: int, possible: dict[int, tuple[int, int, int]], length: Length
    ) -> Callable[[Header], None]:
        """The next batch, the last one again, or what follows it."""
        again = dict(possible)
        if self._last is not None:
            before = self._last[1]
            labels = 0 if self._agreed.labels_stay else before * labels_size(self._agreed.spec)
            forward = size(self._agreed.wire, before, self._part.before) + labels
            again = {Kind.FORWARD: (before, int(self._agreed.wire), forward)}
        follows: dict[int, tuple[int, int, int]] = {}
        if step > 1:
            follows[Kind.KEEP] = (0, 0, 0)
        if step > length.of:
            follows[Kind.END] = (0, 0, -MAX_STATE_BYTES)
        next_one, last_one = (
            Expected(step, possible),
            Expected(step - 1, {**again, **follows} if self._last else follows),
        )

        def fits(header: Header) -> None:
            (last_one if header.step == step - 1 else next_one)(header)

        return fits

    def _take(self, line: Line, step: int, rows: int, body: Any) -> None:
        agreed, part = self._agreed, self._part
        long = size(agreed.wire, rows, part.before)
        features = decode(body[:long], agreed.wire, rows, part.before)
        if not np.isfinite(features).all():
            raise NotAgreedError(f"what came in step {step} is not finite")
        if agreed.labels_stay:
            gradient, scores = self._between(line, step, rows, features), (0.0, 0.0)
        else:
            labels = read_labels(body[long:], rows, agreed.spec)
            with self._computing():
                found, loss, right = part.step(features, labels)
            if not np.isfinite(loss):
                raise NotAgreedError(f"the loss of step {step} is not finite")
            gradient, scores = found.numpy(), (loss, right)
        answer = SCORES.pack(*scores) + encode(gradient, agreed.wire, gradient=True)
        self._live, self._last = step, (answer, rows)
        self._counts[0] += 1
        self._counts[1] += rows
        line.send(Kind.GRADIENT, answer, dtype=agreed.wire, rows=rows, step=step)

    def _between(self, line: Line, step: int, rows: int, features: np.ndarray) -> np.ndarray:
        """The gradient of a batch whose labels stay at the site."""
        agreed, part = self._agreed, self._part
        with self._computing():
            outputs = part.forward(features).numpy()
        line.send(Kind.OUTPUTS, encode(outputs, agreed.wire), dtype=agreed.wire, rows=rows, step=step)
        length = size(agreed.wire, rows, part.after)
        _, body = hear(line, Expected(step, {Kind.BACKWARD: (rows, agreed.wire, length)}))
        gradient = decode(body, agreed.wire, rows, part.after, gradient=True)
        if not np.isfinite(gradient).all():
            raise NotAgreedError(f"the gradient that came in step {step} is not finite")
        with self._computing():
            found: np.ndarray = part.backward(features, gradient).numpy()
        return found

    def _count(self, line: Line) -> None:
        received, sent = line.received - self._on_line[0], line.sent - self._on_line[1]
        self._on_line = [line.received, line.sent]
        self._counts[2] += received
        self._counts[3] += sent
        now = self._now()
        self._seconds, self._resumed = self._seconds + now - self._resumed, now

    # where it is

    def _keep(self, more: Arrays | None = None) -> None:
        assert self._kept is not None and self._live is not None
        if self._live in self._kept.steps() and more is None:
            return
        with self._computing():
            groups: dict[str, Arrays] = {
                "weights": self._part.weights(), "state": self._part.state(), "random": self._part.generators(),
                "work": {"counts": np.array(self._counts, np.int64), "seconds": np.array([self._seconds])},
            }  # fmt: skip
            self._kept.write(self._live, groups if more is None else {**groups, "site": more})

    def _restore(self, step: int) -> dict[str, dict[str, np.ndarray]]:
        assert self._kept is not None and self._hello is not None and self._length is not None
        groups = self._kept.read(step)
        with self._computing():
            self._part.load(groups["weights"])
            self._part.begin(self._hello.seed, self._length.epochs, self._length.steps)
            self._part.load_state(groups["state"], step)
            self._part.load_generators(groups.get("random", {}))
        self._live, self._last = step, None
        self._counts = [int(one) for one in groups["work"]["counts"]]
        self._seconds = float(groups["work"]["seconds"][0])
        return groups

    # the end

    def _end(self, body: bytes) -> None:
        assert self._length is not None
        state = read_state(body, self._site_shapes()) if self._site_shapes() else {}
        self._keep(state or _NOTHING)
        self._site_state = state

    def _recall_end(self, length: Length) -> None:
        """What was written down at the end, by a process before this one; nothing of it where that never came."""
        groups = self._restore(length.of)
        site = groups.get("site")
        self._site_state = {} if site is not None and not self._site_shapes() else site

    def _site_shapes(self) -> dict[str, tuple[int, ...]]:
        if self._agreed.policy.for_sites:
            return {}
        if self._shapes is None:
            numbers = (0, 2) if self._agreed.labels_stay else (0,)
            with self._busy:
                self._shapes = {
                    f"{place}/{name}": shape
                    for place, number in enumerate(numbers)
                    for name, shape in self._parts.of(self._agreed, number).state_shapes().items()
                }
        return self._shapes

    def _names(self) -> list[str]:
        return [variable.path for variable in self._part.network.weights]


def _who(hello: Hello) -> tuple[int, ...]:
    """What a turn that goes on has in common with itself."""
    return hello.session, hello.seed, hello.examples, hello.epochs
