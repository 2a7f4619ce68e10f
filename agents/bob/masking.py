"""This site's part in sums under masks: what it says on the board, and its update under its masks.

    state/masks.json   {"rounds":[{"federation","round","site","secret","roster","partners","vector","arrived","ids"}]}

What a site has said decides what it may still say, so it is written down, durably, before it leaves; all that is random
comes from the secret that is written with it. So a Bob who is killed anywhere says the same again, and nothing else.
The rounds that are over are removed with their secrets.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, cast

from fedssh.bob import peers
from fedssh.bob.receipts import Receipts
from fedssh.bob.site import Folder, Site
from fedssh.bob.spool import Entry, Spool
from fedssh.bundle import seal_report
from fedssh.errors import BundleError, MaskError, SettingsError, SharesError
from fedssh.files import write_whole
from fedssh.forms import canonical
from fedssh.keys import PrivateKey
from fedssh.manifest import Claim, MaskedWord, SessionOver, new_id, now
from fedssh.masks import signing
from fedssh.masks.site import MaskedRound
from fedssh.rules.federation import Federation
from fedssh.rules.masking import Advert, Masking, Roster, to_agree
from fedssh.rules.rounds import Round
from fedssh.weights import MAX_BYTES, header_of


@dataclasses.dataclass(frozen=True)
class Kept:
    """A round as it is written down.

    Attributes:
        ids: Of the messages in which it was said: by `advert`, `shares`, `agreed` and `answer`.
    """

    mine: MaskedRound
    ids: Mapping[str, str]


class Waits(Exception):
    """An update cannot be masked yet: it is not settled with whom."""


class Masks:
    """What this site says and masks. From any of Bob's threads.

    Args:
        folder, site, key: Whose.
        spool: Where messages go.
        receipts: What was judged already.
        say: Called with an event, its text and its fields.

    Attributes:
        expects: Whether the open round goes on before this site has said all; else a release comes first.
    """

    def __init__(
        self, folder: Folder, site: Site, key: PrivateKey, spool: Spool, receipts: Receipts, say: Callable[..., None]
    ) -> None:
        self._folder = folder
        self._site = site
        self._key = key
        self._spool = spool
        self._receipts = receipts
        self._say = say
        self.expects = False
        self._lock = threading.Lock()
        self._state: Federation | None = None
        self._kept: list[Kept] | None = None  # what is written down, as far as this process knows
        self._lost = 0  # the round of which it was said that its secret is gone

    def act(self, state: Federation, genesis: str, release: int) -> bool:
        """Say what is due by the board; whether something was laid into the spool.

        Args:
            state: Where the federation stands.
            genesis: SHA-256 of its first record.
            release: The newest release that this site has followed.

        Raises:
            MaskError: A roster or a demand is not one that this site agrees to; nothing was said.
        """
        with self._lock:
            self._state, self.expects = None, False  # what is not agreed to masks nothing
            said = self._say_due(state, genesis, release)
            self._state = state
            return said

    def _say_due(self, state: Federation, genesis: str, release: int) -> bool:
        name, found = self._site.name, self._read()
        kept = {one.mine.round: one for one in found if one.mine.federation == genesis}
        kept = {number: one for number, one in kept.items() if number > state.rounds}
        if len(kept) < len(found):
            self._write(kept)
        if state.finished or not any(one.name == name for one in state.sites):
            return False
        current = state.round
        mine = kept.get(current.number) if current else None
        masking = current.group(name) if current else None
        if current is None or masking is None:
            return self._advertise(kept, state, genesis, release)
        if mine is None:
            return self._tell_lost(current) or self._advertise(kept, state, genesis, release)
        return self._go_on(kept, mine, masking, state, release)

    def masked(self, claim: Claim, model: BinaryIO) -> BinaryIO:
        """The update of a claim under this site's masks, in a file that has no name.

        Raises:
            Waits: It is not settled yet with whom.
            BundleError: It is no update for a sum, tells more than that, or its round is over.
        """
        header = header_of(model, MAX_BYTES)
        if not header.words:
            raise BundleError("masks are agreed, and the model file has plain weights")
        if claim.metrics is not None or claim.examples:
            raise BundleError("masks are agreed, and the claim tells of this update alone")
        with self._lock:
            current = self._round_of(claim)
            masking = current.group(self._site.name)
            kept = {one.mine.round: one for one in self._read()}
            one = kept.get(current.number)
            if one is None or one.mine.roster is None or masking is None:
                raise BundleError(f"this site has no part in round {current.number}")
            if masking.partners is None:
                raise Waits
            if self._site.name not in masking.partners or masking.arrived is not None:
                raise BundleError(f"round {current.number} goes on without this site")
            model.seek(0)
            head, vector = model.read(header.offset), model.read()
            mine, words = one.mine.mask(vector, masking.partners)
            self._write({**kept, current.number: dataclasses.replace(one, mine=mine)})
        file = cast(BinaryIO, tempfile.TemporaryFile(dir=self._folder.path))  # noqa: SIM115 - the caller closes it
        file.write(head)
        file.write(words)
        file.flush()
        return file

    def check_report(self, over: SessionOver) -> None:
        """Check that the report of a session tells nothing of its update.

        Raises:
            BundleError: It does.
        """
        if over.metrics is not None or over.examples:
            raise BundleError("masks are agreed, and the report tells of this site's update alone")

    def _round_of(self, claim: Claim) -> Round:
        """The open round that an update was trained for."""
        state = self._state
        if state is None or state.sequence < claim.builds_on:
            raise Waits
        if state.round is None or claim.builds_on < state.round.record:
            raise BundleError("the round that it was trained for is over")
        return state.round

    def _go_on(self, kept: dict[int, Kept], one: Kept, masking: Masking, state: Federation, release: int) -> bool:
        """Say what is due in a round that this site is in."""
        name, number = self._site.name, one.mine.round
        mine = one.mine
        if mine.roster != masking.roster:
            mine = mine.agree(masking.roster, peers.pinned(self._folder))
        self.expects = masking.partners is None or (name in masking.partners and name not in masking.answers)
        if masking.partners is None:
            if name in masking.shares:
                return False
            one = Kept(mine, {"shares": new_id(), **one.ids})
            self._write({**kept, number: one})
            return self._lay(one.ids["shares"], release, shares=mine.shares())
        if not masking.arrived or not self.expects:
            return False
        if masking.confirmed is None:
            return self._confirm(kept, one, masking, release)
        self.expects = False
        message = to_agree(masking.roster, masking.partners, masking.arrived)
        keys = {**peers.pinned(self._folder), name: self._key.public}
        agreed = signing.signers(message, masking.agreed, keys)
        try:
            mine, answer = mine.answer(
                masking.arrived, {site: masking.shares[site] for site in masking.partners}, agreed
            )
        except SharesError as error:
            self._say("masks-spoiled", f"{error}: round {number} gives no sum with it", round=number)
            return False
        id = one.ids.get("answer", new_id())
        following, advert = self._advert_after(kept, state, mine.federation, id)
        self._write({**kept, **following, number: Kept(mine, {**one.ids, "answer": id})})
        return self._lay(id, release, answer=answer, **advert)

    def _confirm(self, kept: dict[int, Kept], one: Kept, masking: Masking, release: int) -> bool:
        """Sign who masked and who came, where this site's update is among what came."""
        assert masking.arrived is not None
        if self._site.name not in masking.arrived or self._site.name in masking.agreed or one.mine.vector is None:
            return False
        mine, signed = one.mine.confirm(masking.arrived, self._key)
        one = Kept(mine, {"agreed": new_id(), **one.ids})
        self._write({**kept, mine.round: one})
        return self._lay(one.ids["agreed"], release, agreed=signed)

    def _advert_after(
        self, kept: Mapping[int, Kept], state: Federation, genesis: str, id: str
    ) -> tuple[dict[int, Kept], dict[str, Any]]:
        """The keys for the next round, which travel with the answer in this one, where there is one."""
        number, before = state.next_round, state.adverts.get(self._site.name)
        last = state.sessions is not None and number > state.sessions
        if last or (before is not None and before.round >= number):
            return {}, {}
        one = kept.get(number) or Kept(MaskedRound.begin(genesis, number, self._site.name), {"advert": id})
        return ({number: one}, {"advert": one.mine.advert(self._key)}) if one.ids["advert"] == id else ({}, {})

    def _advertise(self, kept: dict[int, Kept], state: Federation, genesis: str, release: int) -> bool:
        """Give keys for the next round, outside one that this site is in."""
        number, before = state.next_round, state.adverts.get(self._site.name)
        last = state.sessions is not None and number > state.sessions
        if last or (before is not None and before.round >= number):
            return False
        one = kept.get(number) or Kept(MaskedRound.begin(genesis, number, self._site.name), {})
        one = Kept(one.mine, {"advert": new_id(), **one.ids})
        self._write({**kept, number: one})
        return self._lay(one.ids["advert"], release, advert=one.mine.advert(self._key))

    def _lay(self, id: str, release: int, **parts: Any) -> bool:
        """Lay a message into the spool, unless it is there or was judged."""
        if id in self._spool or self._receipts.ids({id}):
            return False
        word = MaskedWord(id=id, sender=self._site.name, builds_on=release, created=now(), **parts)
        self._spool.describe(Entry(id, word.kind, 0, None, word.created, time.time()))
        seal_report(word, self._key, self._spool.bundle(id))
        words = {"advert": "keys", "shares": "shares", "agreed": "its signature on who came", "answer": "an answer"}
        what = " and ".join(words[part] for part in parts)
        self._say("masks", f"gives {what} for sums under masks", id=id)
        return True

    def _tell_lost(self, current: Round) -> bool:
        if self._lost != current.number:
            self._lost = current.number
            text = f"round {current.number} goes on without this site: its secret for it is not in {self._folder.masks}"
            self._say("masks-lost", text, round=current.number)
        return False

    def _read(self) -> list[Kept]:
        if self._kept is None:
            self._kept = self._from_file()
        return self._kept

    def _from_file(self) -> list[Kept]:
        try:
            value = json.loads(self._folder.masks.read_bytes())
            return [_from_value(one) for one in value["rounds"]]
        except FileNotFoundError:
            return []
        except (ValueError, KeyError, TypeError, AttributeError, MaskError) as error:
            raise SettingsError(
                f"{self._folder.masks} is damaged: {error}",
                "remove it: this site then has no part in the open round, and takes part in the next",
            ) from None

    def _write(self, kept: Mapping[int, Kept]) -> None:
        self._kept = None  # until it is written
        value = {"rounds": [_to_value(one) for _, one in sorted(kept.items())]}
        write_whole(self._folder.masks, canonical(value) + b"\n")
        self._kept = list(kept.values())


def _to_value(one: Kept) -> dict[str, Any]:
    mine = one.mine
    roster = None if mine.roster is None else [advert.fields() for advert in mine.roster.adverts]
    value = {field.name: getattr(mine, field.name) for field in dataclasses.fields(mine)}
    return {**value, "secret": mine.secret.hex(), "roster": roster, "ids": dict(one.ids)}


def _from_value(value: Mapping[str, Any]) -> Kept:
    adverts = value["roster"]
    roster = None if adverts is None else Roster(tuple(Advert.read(one, "an advert") for one in adverts))
    some = {name: None if value[name] is None else tuple(value[name]) for name in ("partners", "arrived")}
    own = {name: one for name, one in value.items() if name != "ids"}
    return Kept(
        MaskedRound(**{**own, **some, "secret": bytes.fromhex(value["secret"]), "roster": roster}), dict(value["ids"])
    )
