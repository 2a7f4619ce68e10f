"""A session under `split`: find the way to the coordinator through Bob, train over it, and come back after any cut.

Nothing is believed of who is at the other end but what she signed: Alice holds the offer against the coordinator's key
that her site has agreed to, and against the release that she trains from. Who lies in between sees sealed frames.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedssh.alice.incoming import Received
from fedssh.alice.learner import Stopped
from fedssh.alice.terms import Terms
from fedssh.channel import sockets
from fedssh.channel.handshake import Offer, greet
from fedssh.errors import AgentError, ChannelError, SettingsError, UnreachableError, UntrustedError
from fedssh.files import write_whole
from fedssh.forms import canonical
from fedssh.manifest import Claim
from fedssh.models.training import Interrupted
from fedssh.rules.turns import turn_id
from fedssh.split.line import FaultSaidError, NotAgreedError
from fedssh.weights import read_header, read_weights, write_weights

if TYPE_CHECKING:
    import numpy as np

    from fedssh.split.site import SiteTurn

GREETING_SECONDS = 30.0
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 5.0
Say = Callable[..., None]


class TurnLost(Exception):
    """The turn has passed to somebody else; the text says so."""


class NotOursError(UnreachableError):
    """What is offered is a turn of somebody else, or one that is over: the release that says so is on its way."""


class Outbound:
    """What a turn sends at its end, written down before it is laid out for Bob.

    So a kill in between, or right after, sends the same again under the same id, which is judged once: without it the
    turn, which is open until its report is there, would be trained and judged twice.

    Args:
        folder: Where, in Alice's own.
        genesis: The hash of the federation's first record.
    """

    def __init__(self, folder: Path, genesis: str) -> None:
        self._note, self._layers = folder / "claim.json", folder / "layers.safetensors"
        self._genesis = genesis

    def write(self, turns: int, claim: Claim, weights: Mapping[str, np.ndarray], spec: dict[str, Any]) -> None:
        """Write it down.

        Args:
            turns: Of the release that the turn began with.

        Raises:
            OSError: The disk is full or read-only.
        """
        self._note.parent.mkdir(parents=True, exist_ok=True)
        write_weights(self._layers, weights, spec)
        note = {"genesis": self._genesis, "turns": turns, "claim": claim.to_bytes().decode()}
        write_whole(self._note, canonical(note))

    def read(self, turns: int | None) -> tuple[Claim, dict[str, np.ndarray]] | None:
        """What the turn at hand was about to send; None where nothing was."""
        try:
            note = json.loads(self._note.read_bytes())
            if (note["genesis"], note["turns"]) != (self._genesis, turns):
                return None
            claim = Claim.from_bytes(note["claim"].encode())
            return claim, read_weights(self._layers, read_header(self._layers).tensors)
        except (FileNotFoundError, ValueError, KeyError, TypeError, AgentError):
            return None  # of a write that was cut short: nothing was laid out then

    def forget(self) -> None:
        """The report is there, which ends the turn."""
        for path in (self._note, self._layers):
            path.unlink(missing_ok=True)


@dataclass(frozen=True)
class Way:
    """What leads to the coordinator.

    Args:
        exchange: The folder shared with Bob.
        terms: What this site has agreed to.
        received: The release that the turn begins with.
        lost: Whether a newer release says that the turn has passed.
        say: Tells people.
        stop: When set, waiting ends.
    """

    exchange: Path
    terms: Terms
    received: Received
    lost: Callable[[], bool]
    say: Say
    stop: threading.Event

    @property
    def turn(self) -> str:
        """The name of the turn."""
        first = str(self.terms.record.fields["model"]["sha256"])
        received = self.received
        turns, base = received.standing.started.turns or 0, received.release.model.sha256
        return turn_id(first, turns, base, received.site)

    def follow(self, turn: SiteTurn) -> None:
        """Train until the turn is over at both ends.

        Raises:
            Stopped: `stop` was set.
            TurnLost: The turn has passed.
            UntrustedError: Somebody must look at it: the offer is not the coordinator's, or she sends, or says, what
                was not agreed.
            OSError: The disk is full or read-only.
        """
        pause, said = FIRST_PAUSE, ""
        while True:
            before = turn.step
            try:
                self._once(turn)
                return
            except (NotAgreedError, FaultSaidError):
                raise
            except Interrupted:
                raise Stopped(f"stopped in step {turn.step}; the turn goes on at the next start") from None
            except (UnreachableError, ChannelError, SettingsError) as error:  # that a site is refused may pass, too
                reason = str(error)
            if self.lost():
                raise TurnLost("the turn, or the round, is over without this site, or begins from another model")
            pause = FIRST_PAUSE if turn.step > before else min(2 * pause, LONGEST_PAUSE)
            if reason != said or turn.step > before:
                text = f"no channel to the coordinator: {reason}; trying again, at step {turn.step}"
                self.say("no-channel", text, logging.WARNING, site=self.received.site, reason=reason, step=turn.step)
                said = reason
            if self.stop.wait(pause):
                raise Stopped(f"stopped in step {turn.step}; the turn goes on at the next start")

    def _once(self, turn: SiteTurn) -> None:
        try:
            connection = sockets.connect(self.exchange)
        except OSError as error:
            raise UnreachableError(f"{self.exchange / sockets.NAME}: {error.strerror or error}") from None
        coordinator = self.terms.coordinator.line
        begun = time.monotonic()
        _, channel = greet(connection, coordinator, self._expect, GREETING_SECONDS)
        text = f"a channel to the coordinator stands after {time.monotonic() - begun:.2f} s, sealed end to end"
        self.say("channel", text, site=self.received.site, step=turn.step)
        turn.run(channel, self.stop)

    def _expect(self, offer: Offer) -> None:
        """Whether it is the turn that this site has, of the federation that it agreed to, from the release at hand.

        Raises:
            UntrustedError: Of another federation, or on other terms: nothing that an honest coordinator signs.
            NotOursError: It is, but not now.
        """
        received = self.received
        if offer.genesis != self.terms.hash or offer.federation != received.standing.name:
            raise UntrustedError(
                f"the channel is offered for the federation {offer.federation} with the genesis {offer.genesis}",
                "bob is in another federation than this site has agreed to",
            )
        wanted: dict[str, Any] = {"site": received.site, "turn": received.standing.started.turns}
        for name, value in wanted.items():
            if (found := getattr(offer, name)) != value:
                raise NotOursError(f"the channel is offered for the {name} {found}, ours is {value}")
        base, ours = offer.terms.get("base"), received.release
        if base != ours.model.sha256 and offer.release != ours.sequence:  # rolled back in the midst of it
            raise NotOursError(f"the channel is offered from release {offer.release}, ours is {ours.sequence}")
        terms = {"base": ours.model.sha256, "policy": received.standing.policy, "id": self.turn}
        for name, value in terms.items():
            if offer.terms.get(name) != value:
                raise UntrustedError(f"the channel is offered with the {name} {offer.terms.get(name)!r}, not {value!r}")
