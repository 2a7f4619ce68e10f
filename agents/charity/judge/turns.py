"""The judge's side of split learning: turns that are open, the socket that their sites come to, and what came of them.

    {"turn": {"folder": PATH, "id": ID, "site": NAME, "policy": TEXT, "plan": {…}, "base": PATH, "state": [PATH, …]}}
    {"turn": {"key": X25519 public, "tensors": [NAME, …]}}        opens it, unless it is open
    {"welcome": {"id": ID, "site_key": LINE, "offer": TEXT, "signature": TEXT, "socket": FOLDER}}     {"welcome": true}
    {"turned": ID}    {"turned": {"steps", "of", "images", "received", "sent", "seconds", "ended", "fault"} or null}
    {"join": {"turn": {…, as above}, "head": PATH, "out": PATH}}          {"metrics", "work", "server": 2}
    {"join": {"turn": {…, as above}, "head": null, "out": PATH}}          {"metrics": null, "work", "server": 1}
    {"closed": ID}    {"closed": true}                            closes it, and lets go of what came of it

Under `split` one turn is open, under `splitfed` one of each site that trains in the round. One thread listens and one
serves each connection that shook hands; a new one of a site ends the one before. The door says which site it is, and
the site's signature shows it. All arithmetic holds the lock that the judge's answers hold, too: a step takes
milliseconds, so neither waits for long.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedssh import weights
from fedssh.channel import handshake, sockets
from fedssh.charity.judge.protocol import server_files
from fedssh.commands import tell
from fedssh.errors import AgentError, JudgeError, UnreachableError, UntrustedError
from fedssh.rules.plan import read_plan
from fedssh.rules.policies import read_policy
from fedssh.split.coordinator import CoordinatorTurn
from fedssh.split.line import FaultSaidError, NotAgreedError
from fedssh.split.turn import Agreed, Parts

if TYPE_CHECKING:
    import socket

    from fedssh.channel.sealed import Channel
    from fedssh.charity.judge.scorer import Scorer

HANDSHAKE_SECONDS = 20.0
FAULT_SECONDS = 30.0  # after something was not as agreed: how long its site is not let in again
MOST_CONNECTIONS = 64

logger = logging.getLogger("charity")


class Turns:
    """The turns that are open at the judge.

    Args:
        spec: The architecture.
        busy: Held while something is computed.
    """

    def __init__(self, spec: Mapping[str, Any], busy: threading.RLock) -> None:
        self._spec = spec
        self._busy = busy
        self._free: list[Parts] = []  # of turns that are closed: to make them takes seconds
        self._open: dict[str, _Open] = {}
        self._listener: socket.socket | None = None
        self._slots = threading.Semaphore(MOST_CONNECTIONS)

    def open(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """Answer `turn`.

        Raises:
            AgentError: The network cannot be cut so, or a file cannot be read.
        """
        turn = self._opened(wanted)
        return {"turn": {"key": turn.key.public, "tensors": list(turn.turn.site_names)}}

    def _opened(self, wanted: Mapping[str, Any]) -> _Open:
        id: str = wanted["id"]
        if id not in self._open:
            parts = self._free.pop() if self._free else Parts()
            self._open[id] = _Open(self._spec, wanted, parts, self._busy)
        return self._open[id]

    def close(self, id: str) -> dict[str, Any]:
        """Answer `closed`."""
        if turn := self._open.pop(id, None):
            turn.close()
            self._free.append(turn.parts)
        return {"closed": True}

    def welcome(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """Answer `welcome`.

        Raises:
            JudgeError: That turn is not open.
            OSError: There can be no socket.
        """
        turn = self._open.get(wanted["id"])
        if turn is None:
            raise JudgeError(f"the turn {wanted['id']} is not open")
        if self._listener is None:
            self._listener = sockets.listen(Path(wanted["socket"]))
            threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()
        turn.welcome(wanted)
        return {"welcome": True}

    def turned(self, id: str) -> dict[str, Any]:
        """Answer `turned`."""
        turn = self._open.get(id)
        return {"turned": None if turn is None else turn.standing()}

    def join(self, scorer: Scorer, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """Answer `join`: the whole network, and the optimizer's state of both parts, in files.

        Raises:
            JudgeError: The turn has not ended.
        """
        turn = self._opened(wanted["turn"]).turn
        if not turn.ended:
            raise JudgeError("its turn has not ended: the last step has not been taken at both ends")
        _, state, site_state = turn.result()
        head, out = wanted["head"], Path(wanted["out"])
        shapes = {name: scorer.shapes[name] for name in turn.site_names}
        joined = turn.whole(weights.read_weights(Path(head), shapes) if head else None)
        whole = {name: joined[name] for name in scorer.shapes}
        metrics = scorer.score_weights(whole) if head else None  # without the site's layers it is no network
        weights.write_weights(out, whole, dict(self._spec))
        sets = [one for one in (state, site_state) if one]
        for path, part in zip(server_files(out), sets, strict=False):
            weights.write_weights(path, part, dict(self._spec))
        return {"metrics": metrics, "work": turn.work().fields(), "server": len(sets)}

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return  # closed
            if self._slots.acquire(blocking=False):
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()
            else:
                connection.close()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with contextlib.suppress(UnreachableError, UntrustedError):
                site = handshake.who(connection, HANDSHAKE_SECONDS)
                turn = next((one for one in [*self._open.values()] if one.site == site), None)
                if turn is None:
                    connection.close()  # Bob says to Alice that there is no turn of hers now
                else:
                    turn.serve(connection)
        finally:
            self._slots.release()


class _Open:
    """A turn that is open."""

    def __init__(self, spec: Mapping[str, Any], wanted: Mapping[str, Any], parts: Parts, busy: threading.RLock) -> None:
        self.id: str = wanted["id"]
        self.site: str = wanted["site"]
        self.key = handshake.new_key()
        self.parts = parts
        agreed = Agreed(spec, read_plan(wanted["plan"]), read_policy(wanted["policy"]))
        state = [_read(Path(path)) for path in wanted["state"]]
        self.turn = CoordinatorTurn(
            agreed, self.id, _read(Path(wanted["base"])), (state[0], (*state, {})[1]) if state else None,
            Path(wanted["folder"]), parts, busy,
        )  # fmt: skip
        self.turn.recall()
        self._welcome: Mapping[str, Any] | None = None
        self._channel: Channel | None = None
        self._serving = threading.Lock()
        self._fault: dict[str, Any] | None = None
        self._closed_until = 0.0

    def welcome(self, wanted: Mapping[str, Any]) -> None:
        """Let the site in, from now on."""
        self._welcome, self._fault = wanted, None

    def standing(self) -> dict[str, Any]:
        """How far it is."""
        return {**self.turn.work().fields(), "ended": self.turn.ended, "fault": self._fault}

    def close(self) -> None:
        """Let nobody in any more, and let go of what was written down."""
        self._welcome = None
        with self._serving:
            if self._channel is not None:
                self._channel.close()
        self.turn.forget()

    def serve(self, connection: socket.socket) -> None:
        """Shake hands with the site, and go on with its turn."""
        welcome = self._welcome
        if welcome is None or time.monotonic() < self._closed_until:
            connection.close()
            return
        try:
            offer, signature = welcome["offer"].encode(), welcome["signature"]
            channel = handshake.welcome(
                connection, offer, signature, self.key, welcome["site_key"], HANDSHAKE_SECONDS
            )  # fmt: skip
        except UnreachableError:
            return
        except UntrustedError as error:
            self._say(f"a channel came about with nobody: {error}", logging.WARNING)
            return
        with self._serving:
            before, self._channel = self._channel, channel
        if before is not None:
            before.close()
        try:
            self.turn.serve(channel)
        except UnreachableError as error:
            self._say(f"the channel to {self.site} is cut after step {self.turn.step}: {error}")
        except (NotAgreedError, FaultSaidError) as error:
            blame = isinstance(error, NotAgreedError)
            self._closed_until = time.monotonic() + FAULT_SECONDS
            self._fault = {"reason": str(error), "blame": blame}
            self._say(f"the channel to {self.site} is closed: {error}", logging.WARNING)
        except (AgentError, OSError) as error:
            self._say(f"the channel to {self.site} is closed: {error}", logging.WARNING)

    def _say(self, text: str, level: int = logging.INFO) -> None:
        tell(logger, "channel", text, level, site=self.site, step=self.turn.step)


def _read(path: Path) -> dict[str, np.ndarray]:
    """All tensors of a file of the vault's own."""
    return weights.read_weights(path, weights.read_header(path).tensors)
