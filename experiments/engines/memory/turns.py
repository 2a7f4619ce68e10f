"""Split learning in memory: all parts of the network in one graph, see `fedssh.models.together`.

The weights are those of the real rooms, bit for bit, and what would have gone through a channel is counted frame by
frame. `take_turn` is the rooms' own code over queues, half as fast: what a turn in one graph is held against.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any

from experiments.definition.config import Prepared, Run
from experiments.engines.memory.models import ModelFiles, Weights
from experiments.engines.memory.passing import passing
from experiments.engines.memory.simulation import Checkpoint, Session
from experiments.engines.memory.trainers import divided
from experiments.engines.memory.turned import Turned
from fedssh.alice.fitting import epoch_order
from fedssh.alice.session import session_seed
from fedssh.channel.frames import HEADER_BYTES, Header
from fedssh.channel.sealed import TAG_BYTES
from fedssh.errors import UnreachableError
from fedssh.forms import canonical
from fedssh.models import tasks
from fedssh.models.parts import Part
from fedssh.models.together import Together
from fedssh.models.training import resident
from fedssh.rules.events import Local, Work
from fedssh.rules.plan import read_plan
from fedssh.rules.policies import read_policy
from fedssh.rules.turns import START
from fedssh.split.coordinator import CoordinatorTurn
from fedssh.split.site import Past, SiteTurn, write_state
from fedssh.split.talk import SCORES, Hello, Stand
from fedssh.split.turn import Agreed, Length, Parts, labels_size
from fedssh.split.wire import size

_made: list[tuple[Agreed, Parts, Parts, Together | None]] = []  # of the run before: to make them takes seconds


class Queued:
    """One end of a channel that is two queues."""

    def __init__(self, out: queue.SimpleQueue[Any], into: queue.SimpleQueue[Any]) -> None:
        self._out, self._into = out, into
        self.sent = self.received = 0

    def send(self, kind: int, *body: Any, dtype: int = 0, rows: int = 0, step: int = 0) -> None:
        """Put one frame into the queue."""
        plain = body[0] if len(body) == 1 else b"".join(body)
        self._out.put((Header(kind, int(dtype), rows, step, len(plain)), plain))
        self.sent += HEADER_BYTES + len(plain) + TAG_BYTES

    def receive(self, fits: Callable[[Header], None], timeout: float) -> tuple[Header, Any]:
        """Wait for one."""
        found = self._into.get()
        if found is None:
            raise UnreachableError("the other side has gone")
        header, body = found
        fits(header)
        self.received += HEADER_BYTES + len(body) + TAG_BYTES
        return header, body

    def close(self) -> None:
        """Let the other side know."""
        self._out.put(None)


def queued() -> tuple[Queued, Queued]:
    """Both ends of a channel."""
    there, back = queue.SimpleQueue[Any](), queue.SimpleQueue[Any]()
    return Queued(there, back), Queued(back, there)


def take_turn(site: SiteTurn, coordinator: CoordinatorTurn) -> None:
    """Run both sides of a turn to its end."""
    ours, theirs = queued()
    with ThreadPoolExecutor(1) as other:
        serving = other.submit(coordinator.serve, theirs)
        try:
            site.run(ours)
        finally:
            ours.close()
            serving.result()


class TurnCrew:
    """Trains turns of a run's sites, one after the other. A context manager.

    Args:
        terms: As agreed.

    Attributes:
        server: Of the current model: the optimizer's state of both parts, as the coordinator has it.
        bytes: That went through channels so far.
    """

    def __init__(self, run: Run, prepared: Prepared, terms: Mapping[str, Any]) -> None:
        self._agreed = Agreed(prepared.spec, read_plan(terms["plan"]), read_policy(terms["policy"]))
        self._seeds = {name: run.site_seed(number) for number, name in enumerate(run.site_names, 1)}
        self._images = {
            name: resident(divided(prepared.parts[name], run.validation, seed)[0], prepared.spec)
            for name, seed in self._seeds.items()
        }
        if not _made or _made[0][0] != self._agreed:
            _made[:] = [_make(self._agreed)]
        _, self._ours, self._hers, self._together = _made[0]
        self._unlabelled = prepared.unlabelled if self._agreed.alpha is not None else {}
        self._decoders: dict[str, Weights] = {}  # stay at their sites
        self._files: ModelFiles | None = None
        self._asked = ThreadPoolExecutor(1)
        self.server: Callable[[], Sequence[Weights]] = tuple
        self._turned: dict[str, Turned] = {}  # by site, of its newest turn
        self.bytes = 0

    def __enter__(self) -> TurnCrew:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._asked.shutdown(cancel_futures=True)

    @property
    def layer_bytes(self) -> int:
        """The size of a file of a site's layers."""
        return self._files.size if self._files else 0

    def turned(self, site: str) -> Turned:
        """What came of a site's newest turn."""
        return self._turned[site]

    def examples(self, site: str) -> int:
        """How many images a site trains on."""
        return len(self._images[site])

    def train(self, site: str, session: int, weights: Weights) -> Future[Session]:
        """Take a turn of a site from a release's weights."""
        return self._asked.submit(self._turn, site, session, weights)

    def _turn(self, site: str, session: int, weights: Weights) -> Session:
        agreed, begun = self._agreed, time.perf_counter()
        server = () if agreed.policy.rounds else self.server()  # there it is a server optimizer's
        done = (self._in_rooms if self._together is None else self._in_one_graph)(site, session, weights, server)
        turned, trained, past = done
        self._turned[site] = turned
        self.bytes += turned.work.received + turned.work.sent
        self._files = self._files or ModelFiles(trained, dict(agreed.spec))
        claim = Local.of(tasks.measure_of(agreed.spec), past.loss, past.value)
        checkpoint = Checkpoint(past.epoch, claim, trained, self._files.blob(trained))
        return Session((checkpoint,), past.epoch, time.perf_counter() - begun)

    def _in_rooms(
        self, site: str, session: int, weights: Weights, server: Sequence[Weights]
    ) -> tuple[Turned, Weights, Past]:
        """A turn by the rooms' own code, over queues: where the site has more to train than its part of the network."""
        agreed, examples, seed = self._agreed, self._images[site], session_seed(self._seeds[site], session)
        state = (server[0], server[1]) if server else None
        coordinator = CoordinatorTurn(agreed, "", weights, state, None, self._hers)
        turn = SiteTurn(
            agreed, "", weights, examples, lambda epoch: epoch_order(seed, epoch, len(examples)), session, seed, None,
            self._ours, decoder=self._decoders.get(site), unlabelled=self._unlabelled.get(site),
        )  # fmt: skip
        take_turn(turn, coordinator)
        self._decoders[site] = turn.decoder()
        own, *sets = coordinator.result()
        assert turn.past is not None
        return Turned(own, sets, coordinator.work()), turn.weights(), turn.past

    def _in_one_graph(
        self, site: str, session: int, weights: Weights, server: Sequence[Weights]
    ) -> tuple[Turned, Weights, Past]:
        assert self._together is not None
        agreed, examples, seed = self._agreed, self._images[site], session_seed(self._seeds[site], session)
        begun, past = time.perf_counter(), Past(0, 0.0, 0.0)
        parts = [self._ours.of(agreed, number) for number in range(len(agreed.after) + 1)]
        of_site, coordinator = parts[::2], parts[1]
        length = Length(len(examples), agreed.plan.batch_size, agreed.plan.epochs)
        _begin(parts, weights, server, seed, length)
        for epoch in range(1, length.epochs + 1):
            order = epoch_order(seed, epoch, len(examples))
            past = Past(epoch, *self._together.epoch(examples, order, length.batch))
        trained = {name: array for part in of_site for name, array in part.weights().items()}
        state = {f"{place}/{name}": one for place, part in enumerate(of_site) for name, one in part.state().items()}
        received, sent = traffic(agreed, length, parts, session, seed, server[1] if server else None, state)
        seconds, images = round(time.perf_counter() - begun, 3), len(examples) * length.epochs
        work = Work(steps=length.of, images=images, received=received, sent=sent, seconds=seconds)
        return Turned(coordinator.weights(), (coordinator.state(), state), work), trained, past


def _make(agreed: Agreed) -> tuple[Agreed, Parts, Parts, Together | None]:
    """What the turns of a run need."""
    ours, together = Parts(), None
    if agreed.alpha is None:
        parts = [ours.of(agreed, number) for number in range(len(agreed.after) + 1)]
        together = Together(parts, passing(agreed.wire))
    return agreed, ours, Parts(), together


def _begin(parts: Sequence[Part], weights: Weights, server: Sequence[Weights], seed: int, length: Length) -> None:
    """All parts as both rooms begin a turn: with a release's weights, and the optimizers of the turn before."""
    for part in parts:
        part.load(weights)
        part.fresh(seed, length.epochs, length.steps)
    if server:
        parts[1].load_state(server[0])
        for place, part in enumerate(parts[::2]):
            own = f"{place}/"
            part.load_state({name.removeprefix(own): one for name, one in server[1].items() if name.startswith(own)})


def traffic(
    agreed: Agreed, length: Length, parts: Sequence[Part], session: int, seed: int, state: Weights | None, ends: Weights
) -> tuple[int, int]:
    """How many bytes the coordinator receives and sends in a turn that nothing interrupts, see `split.talk`.

    Args:
        parts: Of the network: two, or where labels stay at the site three.
        state: The optimizer's state of the site's parts at the beginning; None where it begins anew.
        ends: At the end.
    """
    frame, wire = HEADER_BYTES + TAG_BYTES, agreed.wire
    hello = Hello(
        session=session, seed=seed, examples=length.examples, epochs=length.epochs, steps=length.steps, live=None,
        kept=(),
    )  # fmt: skip
    stand = Stand(step=0, how=START, again=False)
    received = frame + len(canonical(hello.fields())) + frame + len(write_state(ends))
    sent = frame + len(canonical(stand.fields())) + frame + (0 if state is None else len(write_state(state))) + frame
    for step in range(1, length.steps + 1):
        rows = length.rows(step)
        cut = size(wire, rows, parts[0].after)
        up, down = frame + cut, frame + SCORES.size + cut
        if agreed.labels_stay:
            second = frame + size(wire, rows, parts[1].after)
            up, down = up + second, down + second
        else:
            up += rows * labels_size(agreed.spec)
        received, sent = received + up * length.epochs, sent + down * length.epochs
    keeps = sum(length.ends(epoch * length.steps, agreed.every) for epoch in range(1, length.epochs + 1))
    return received + keeps * frame, sent + keeps * frame
