"""Split learning in memory: both sides of a turn are the rooms' own, `fedssh.split`, with queues between them.

So the weights are those of the real rooms, bit for bit. What would have gone through a channel is counted as there.
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
from experiments.engines.memory.simulation import Checkpoint, Session
from experiments.engines.memory.trainers import divided
from experiments.engines.memory.turned import Turned
from fedssh.alice.fitting import epoch_order
from fedssh.alice.session import session_seed
from fedssh.channel.frames import HEADER_BYTES, Header
from fedssh.channel.sealed import TAG_BYTES
from fedssh.errors import UnreachableError
from fedssh.models.training import resident
from fedssh.rules.events import Local
from fedssh.rules.plan import read_plan
from fedssh.rules.policies import read_policy
from fedssh.split.coordinator import CoordinatorTurn
from fedssh.split.site import SiteTurn
from fedssh.split.turn import Agreed, Parts

_parts: list[tuple[Agreed, Parts, Parts]] = []  # of the run before: to make them takes longer than a short turn


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
        if not _parts or _parts[0][0] != self._agreed:
            _parts[:] = [(self._agreed, Parts(), Parts())]
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
        examples, seed = self._images[site], session_seed(self._seeds[site], session)
        agreed, (_, ours, hers) = self._agreed, _parts[0]
        server = () if agreed.policy.rounds else self.server()  # there it is a server optimizer's
        begun = time.perf_counter()
        state = (server[0], server[1]) if server else None
        coordinator = CoordinatorTurn(agreed, "", weights, state, None, hers)
        turn = SiteTurn(
            agreed, "", weights, examples, lambda epoch: epoch_order(seed, epoch, len(examples)), session, seed, None,
            ours, decoder=self._decoders.get(site), unlabelled=self._unlabelled.get(site),
        )  # fmt: skip
        take_turn(turn, coordinator)
        self._decoders[site] = turn.decoder()
        own, *sets = coordinator.result()
        self._turned[site] = Turned(own, sets, coordinator.work())
        self.bytes += self._turned[site].work.received + self._turned[site].work.sent
        past, trained = turn.past, turn.weights()
        assert past is not None
        self._files = self._files or ModelFiles(trained, dict(agreed.spec))
        claim = Local.of(hers.of(agreed, 1).measure, past.loss, past.value)
        checkpoint = Checkpoint(agreed.plan.epochs, claim, trained, self._files.blob(trained))
        return Session((checkpoint,), agreed.plan.epochs, time.perf_counter() - begun)
