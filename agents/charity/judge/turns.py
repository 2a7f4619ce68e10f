"""The judge's side of split learning: a turn that is open, the socket that its site comes to, and what came of it.

    {"turn": {"folder": PATH, "id": ID, "site": NAME, "policy": TEXT, "plan": {…}, "base": PATH, "state": [PATH, …]}}
    {"turn": {"key": X25519 public, "tensors": [NAME, …]}}        opens it, unless it is open
    {"welcome": {"id": ID, "site_key": LINE, "offer": TEXT, "signature": TEXT, "socket": FOLDER}}     {"welcome": true}
    {"turned": ID}    {"turned": {"steps", "of", "images", "received", "sent", "seconds", "ended", "fault"} or null}
    {"join": {"turn": {…, as above}, "head": PATH, "out": PATH}}          {"metrics", "work", "server": 2}
    {"turn": null}    {"turn": null}                              closes it

One thread listens and one serves each connection that shook hands; a new one of the site ends the one before. All
arithmetic holds the lock that the judge's answers hold, too. A step takes milliseconds, so neither waits for long.
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
MOST_CONNECTIONS = 4

logger = logging.getLogger("charity")


class Turns:
    """What the judge knows of turns: one at a time.

    Args:
        spec: The architecture.
        busy: Held while something is computed.
    """

    def __init__(self, spec: Mapping[str, Any], busy: threading.RLock) -> None:
        self._spec = spec
        self._busy = busy
        self._parts = Parts()
        self._open: _Open | None = None

    def open(self, wanted: Mapping[str, Any] | None) -> dict[str, Any]:
        """Answer `turn`.

        Raises:
            AgentError: The network cannot be cut so, or a file cannot be read.
        """
        if self._open is not None and (wanted is None or wanted["id"] != self._open.id):
            self._open.close()
            self._open = None
        if wanted is None:
            return {"turn": None}
        if self._open is None:
            self._open = _Open(self._spec, wanted, self._parts, self._busy)
        return {"turn": {"key": self._open.key.public, "tensors": list(self._open.turn.site_names)}}

    def welcome(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """Answer `welcome`.

        Raises:
            JudgeError: That turn is not open.
            OSError: There can be no socket.
        """
        if self._open is None or self._open.id != wanted["id"]:
            raise JudgeError(f"the turn {wanted['id']} is not open")
        self._open.listen(wanted)
        return {"welcome": True}

    def turned(self, id: str) -> dict[str, Any]:
        """Answer `turned`."""
        if self._open is None or self._open.id != id:
            return {"turned": None}
        return {"turned": self._open.standing()}

    def join(self, scorer: Scorer, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """Answer `join`: the whole network, and the optimizer's state of both parts, in files.

        Raises:
            JudgeError: The turn has not ended.
        """
        self.open(wanted["turn"])
        assert self._open is not None
        turn = self._open.turn
        if not turn.ended:
            raise JudgeError("its turn has not ended: the last step has not been taken at both ends")
        own, state, site_state = turn.result()
        shapes = {name: scorer.shapes[name] for name in turn.site_names}
        joined = {**own, **weights.read_weights(Path(wanted["head"]), shapes)}
        whole = {name: joined[name] for name in scorer.shapes}
        metrics, out = scorer.score_weights(whole), Path(wanted["out"])
        weights.write_weights(out, whole, dict(self._spec))
        for path, part in zip(server_files(out), (state, site_state), strict=True):
            weights.write_weights(path, part, dict(self._spec))
        return {"metrics": metrics, "work": turn.work().fields(), "server": 2}


class _Open:
    """A turn that is open."""

    def __init__(self, spec: Mapping[str, Any], wanted: Mapping[str, Any], parts: Parts, busy: threading.RLock) -> None:
        self.id: str = wanted["id"]
        self.site: str = wanted["site"]
        self.key = handshake.new_key()
        agreed = Agreed(spec, read_plan(wanted["plan"]), read_policy(wanted["policy"]))
        state = [_read(Path(path)) for path in wanted["state"]]
        folder = Path(wanted["folder"])
        self.turn = CoordinatorTurn(
            agreed, self.id, _read(Path(wanted["base"])), (state[0], state[1]) if state else None, folder, parts, busy
        )
        self.turn.recall()
        self._welcome: Mapping[str, Any] = {}
        self._listener: socket.socket | None = None
        self._channel: Channel | None = None
        self._serving = threading.Lock()
        self._slots = threading.Semaphore(MOST_CONNECTIONS)
        self._fault: dict[str, Any] | None = None
        self._closed_until = 0.0
        self._over = False

    def listen(self, wanted: Mapping[str, Any]) -> None:
        """Let the site in, from now on."""
        self._welcome = wanted
        self._fault = None
        if self._listener is None:
            self._listener = sockets.listen(Path(wanted["socket"]))
            threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def standing(self) -> dict[str, Any]:
        """How far it is."""
        return {**self.turn.work().fields(), "ended": self.turn.ended, "fault": self._fault}

    def close(self) -> None:
        """Let nobody in any more, and let go of what was written down."""
        self._over = True
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(2)
            self._listener.close()
            sockets.forget(Path(self._welcome["socket"]))
        if self._channel is not None:
            self._channel.close()
        self.turn.forget()

    def _accept(self, listener: socket.socket) -> None:
        while not self._over:
            try:
                connection, _ = listener.accept()
            except OSError:
                return  # closed
            if time.monotonic() < self._closed_until or not self._slots.acquire(blocking=False):
                connection.close()
                continue
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            self._shake_hands_and_serve(connection)
        finally:
            self._slots.release()

    def _shake_hands_and_serve(self, connection: socket.socket) -> None:
        welcome = self._welcome
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
