"""Where the history stands that this site has followed: so that the next records are judged, and not only linked.

    state/followed.json   {"sequence":n,"head":hex,"state":{…},"remembered":{…},"verdicts":[[n,hash],…]}, see
                          `rules.stored` and `rules.replay`

`verdicts` are the newest that the history has on this site: it may be given one after its record was followed.
It is derived: where it is missing, damaged or of another record than the newest release that was seen, the history is
followed once more from its beginning. What was followed before there was such a file is not judged afterwards.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from fedssh.chain import Seen
from fedssh.errors import LedgerError
from fedssh.files import write_whole
from fedssh.forms import canonical
from fedssh.rules.federation import Federation
from fedssh.rules.replay import REMEMBERED, LookUp, Replay
from fedssh.rules.stored import from_value, to_value


class Followed:
    """A history as far as this site has followed it.

    Args:
        path: followed.json in this site's folder.

    Attributes:
        verdicts: Hash by sequence of the newest records about this site; known with `at`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._replay: Replay | None = None
        self.verdicts: Mapping[int, str] = {}

    def at(self, seen: Seen, look_up: LookUp) -> Replay:
        """The history after the newest release that was seen, or, where that is not known, before its first record.

        Args:
            look_up: Asks for an earlier record that is not remembered any more.
        """
        if self._replay is None or not _stands_at(self._replay, seen):
            self._replay, self.verdicts = self._read()
        if not _stands_at(self._replay, seen):
            self._replay, self.verdicts = Replay(), {}
        replay, self._replay = self._replay, None  # it moves on, and may fail on its way
        replay.look_up = look_up
        return replay

    def state(self) -> Federation | None:
        """Where the federation stood when the history was followed last; None before that, or where it is damaged."""
        replay, _ = self._read()
        return replay.state

    def replay(self) -> Replay:
        """The same, to go on from."""
        return self._read()[0]

    def keep(self, replay: Replay, verdicts: Mapping[int, str]) -> None:
        """Write down how far the history was followed, and the records about this site on the way."""
        state = replay.state
        assert state is not None, "a release was followed"
        newest = [*self.verdicts.items(), *verdicts.items()][-REMEMBERED:]
        value = {
            "sequence": state.sequence,
            "head": state.head,
            "state": to_value(state),
            "remembered": replay.remembered(),
            "verdicts": newest,
        }
        write_whole(self._path, canonical(value) + b"\n")
        self.verdicts = dict(newest)
        self._replay, replay.look_up = replay, None  # the connection that it asks may be closed by then

    def _read(self) -> tuple[Replay, Mapping[int, str]]:
        try:
            value = json.loads(self._path.read_bytes())
            replay = Replay(from_value(value["state"], value["sequence"], value["head"]))
            replay.remember(value["remembered"])
            verdicts = {int(number): str(hash) for number, hash in value["verdicts"]}
        except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError, RecursionError, LedgerError):
            return Replay(), {}
        return replay, verdicts


def _stands_at(replay: Replay, seen: Seen) -> bool:
    state = replay.state
    return (state.sequence, state.head) == (seen.sequence, seen.head) if state else seen == Seen()
