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
from fedssh.charity.opening import question
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
    """Keeps the turn at hand open at the judge, under `split`; under every other policy it does nothing.

    Args:
        vault: The history.
        judge: The judge.
        heard: Called when the site whose turn it is has taken a step.
    """

    def __init__(self, vault: Vault, judge: Judge, heard: Callable[[str], None]) -> None:
        self._vault = vault
        self._judge = judge
        self._heard = heard
        self._known: _Standing | None = None

    def look_after(self) -> bool:
        """Open the turn at hand, or look how far it is; whether it passes, because something was not as agreed.

        Raises:
            JudgeDownError: The judge cannot open it now.
            OSError: There can be no socket.
        """
        try:
            return self._look_after()
        except JudgeError as error:
            self._known = None
            raise JudgeDownError(f"the turn cannot be opened: {error}") from None

    def _look_after(self) -> bool:
        state = self._vault.state
        if not state.policy.split:
            return False
        wanted = None if state.finished else question(state, self._vault.folders)
        if wanted is None:
            self._close()
            return False
        known = self._known
        found = self._judge.turned(wanted["id"]) if known else None
        if known is None or found is None or (known.id, known.pid) != (wanted["id"], self._judge.pid):
            self._open(state, wanted)
            return False
        if found["steps"] != known.steps:
            known.steps = found["steps"]
            self._heard(wanted["site"])
        return bool(found["fault"]) and self._ended(wanted["site"], found["fault"])

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
        self._known = _Standing(wanted["id"], self._judge.pid)
        tell(logger, "channel", f"the channel is open for {site}", site=site, turn=state.turns)

    def _close(self) -> None:
        if self._known is not None:
            self._judge.turn(None)
            self._known = None

    def _ended(self, site: str, fault: dict[str, Any]) -> bool:
        """Write down what was wrong; the turn passes to somebody else, where there is anybody."""
        reason = str(fault["reason"])[:1000]
        with self._vault.locked() as state:
            if state.turn != site:
                return False
            if fault["blame"]:
                self._vault.append(Invalid(site=site, submission=None, bundle=None, reason=reason))
            alone = state.turn_after(site) == site
            if not alone:
                self._vault.append(TurnPassed(site=site, reason=reason))
        self._known = None  # opened anew where the same site goes on
        level = logging.WARNING
        tell(logger, "turn-passed", f"the turn of {site} ends: {reason}", level, site=site, reason=reason)
        return not alone
