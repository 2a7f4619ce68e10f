"""The vault's side of split learning: which turn is open, whom it is offered to, and when it passes.

The judge trains and keeps what is trained; here stands who may come, which the site's key proves, and that the
coordinator offers it, which her signature does. After any restart everything follows from the history again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fedssh.channel.handshake import make_offer
from fedssh.charity.judge.client import Judge, JudgeDownError
from fedssh.charity.opening import on, question
from fedssh.charity.vault import Vault
from fedssh.commands import tell
from fedssh.errors import JudgeError
from fedssh.rules.events import Invalid, TurnPassed
from fedssh.rules.federation import Federation
from fedssh.signature import CHANNEL, sign

logger = logging.getLogger("charity")


@dataclass
class _Standing:
    """What is known of the turn that is open."""

    id: str
    pid: int | None  # of the judge: another one has another key
    steps: int = 0


class Turns:
    """Keeps turns open at the judge, of one site under `split` or of several; elsewhere it does nothing.

    Args:
        vault: The history.
        judge: The judge.
        heard: Called when the site whose turn it is has taken a step.
    """

    def __init__(self, vault: Vault, judge: Judge, heard: Callable[[str], None]) -> None:
        self._vault = vault
        self._judge = judge
        self._heard = heard
        self._known: dict[str, _Standing] = {}  # by site

    def look_after(self) -> bool:
        """Open what is to be open, and look how far it is; whether a turn passes, because something was not as agreed.

        Raises:
            JudgeDownError: The judge cannot open it now.
            OSError: There can be no socket.
        """
        if not self._vault.state.policy.split:
            return False
        try:
            return self._look_after()
        except JudgeError as error:
            self._known = {}
            raise JudgeDownError(f"the turn cannot be opened: {error}") from None

    def _look_after(self) -> bool:
        state = self._vault.state
        wanted = {site: question(state, self._vault.folders, site) for site in on(state)}
        for site in [*self._known]:
            if site not in wanted or self._known[site].id != wanted[site]["id"]:
                self._judge.close_turn(self._known.pop(site).id)
        passed = False
        for site, one in wanted.items():
            known = self._known.get(site)
            found = self._judge.turned(one["id"]) if known and known.pid == self._judge.pid else None
            if known is None or found is None:
                self._open(state, one)
                continue
            if found["steps"] != known.steps:
                known.steps = found["steps"]
                self._heard(site)
            if found["fault"]:
                passed |= self._ended(site, found["fault"])
        return passed

    def _open(self, state: Federation, wanted: dict[str, Any]) -> None:
        opened = self._judge.turn(wanted)
        site, release = wanted["site"], state.release
        member = state.member(site)
        assert member is not None
        assert release is not None
        terms = {"id": wanted["id"], "base": state.current.model.sha256, "policy": state.policy.text}
        offer = make_offer(
            federation=state.genesis.federation, genesis=self._vault.ledger.record(1).hash, release=release.sequence,
            turn=state.turns, site=site, key=opened["key"], terms=terms,
        )  # fmt: skip
        welcome = {
            "id": wanted["id"],
            "site_key": member.key,
            "offer": offer.decode(),
            "signature": sign(offer, self._vault.key, CHANNEL),
            "socket": str(self._vault.folders.outbox),
        }
        self._judge.welcome(welcome)
        self._known[site] = _Standing(wanted["id"], self._judge.pid)
        tell(logger, "channel", f"the channel is open for {site}", site=site, turn=state.turns)

    def _ended(self, site: str, fault: dict[str, Any]) -> bool:
        """Write down what was wrong; a turn passes to somebody else, where there is anybody, and a round goes on."""
        reason = str(fault["reason"])[:1000]
        with self._vault.locked() as state:
            if site not in on(state):
                return False
            if fault["blame"]:
                self._vault.append(Invalid(site=site, submission=None, bundle=None, reason=reason))
            passes = state.turn == site and state.turn_after(site) != site
            if passes:
                self._vault.append(TurnPassed(site=site, reason=reason))
        self._known.pop(site, None)  # opened anew where the same site goes on
        level = logging.WARNING
        tell(logger, "turn-passed", f"the turn of {site} ends: {reason}", level, site=site, reason=reason)
        return passes
