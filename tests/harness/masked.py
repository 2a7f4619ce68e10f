"""A round under masks without processes: real Bobs of real folders, and a history that the rules make or a liar.

table = Table(folder, ("alice-1", "alice-2", "alice-3"), keys)
table.open()            keys, roster
table.settle_partners() shares
table.send("alice-1")   an update, masked by its Bob
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedssh import bundle, weights
from fedssh.bob import peers
from fedssh.bob.masking import Masks
from fedssh.bob.receipts import Receipts
from fedssh.bob.site import Folder, Site
from fedssh.bob.spool import Spool
from fedssh.charity.masks import open_sum
from fedssh.keys import PrivateKey
from fedssh.manifest import Claim, MaskedWord, new_id, now
from fedssh.masks.numbers import Fixed
from fedssh.rules import records
from fedssh.rules.events import Blob, RoundAccepted
from fedssh.rules.events import Masks as Said
from fedssh.rules.federation import Federation
from fedssh.rules.masking import mark
from fedssh.rules.rounds import confirmed_of
from tests.unit.test_replay_attacks import Played, begin

GENESIS = "f" * 64
SPEC = {"name": "mlp", "input": [2], "classes": 2}
DEADLINE = 100.0
POLICY = f"fedavg:seal=masks,cap=100,deadline={DEADLINE:g}"
Fields = dict[str, Any]


class Table:
    """Some sites at a coordinator's board.

    Args:
        folder: Where they live.
        names: The sites.
        keys: Of the sites and `coordinator`, by name.
        policy: With masks.
    """

    def __init__(
        self, folder: Path, names: Sequence[str], keys: Mapping[str, PrivateKey], policy: str = POLICY
    ) -> None:
        self.folder, self.names, self.keys = folder, tuple(names), keys
        self.played: Played = begin((), policy=policy, schedule="rounds", gate="off")
        for name in names:
            self.played.enrol(name)
        self.played.release()
        self.said: list[str] = []
        self.files: dict[str, Path] = {}
        self.steps = {name: np.random.default_rng(place).normal(0, 0.1, 6) for place, name in enumerate(names)}
        self.examples = {name: 20 + place for place, name in enumerate(names)}
        self.bobs: dict[str, Masks] = {}
        for name in names:
            place = self.place(name)
            place.path.mkdir(parents=True)
            Spool(place.spool).tidy()
            place.key.with_name("site_key.pub").write_text(keys[name].public.line)
        for name in names:
            for other in names:
                if other != name:
                    peers.add(self.place(name), other, self.place(other).key.with_name("site_key.pub"))
            self.restart(name)
        self.base = folder / "base.safetensors"
        tensors: dict[str, np.ndarray] = {
            "a/kernel": np.arange(4, dtype=np.float32).reshape(2, 2) / 10,
            "a/bias": np.zeros(2, np.float32),
        }
        self.header = weights.write_weights(self.base, tensors, SPEC)

    @property
    def state(self) -> Federation:
        return self.played.state

    @property
    def release(self) -> int:
        """The number of the newest release."""
        assert self.state.release
        return self.state.release.sequence

    def place(self, name: str) -> Folder:
        return Folder(self.folder / name)

    def restart(self, name: str) -> Masks:
        """A new Bob on the folder of the one before."""
        place, key = self.place(name), self.keys[name]
        site = Site(name, "charity", "localhost", 22, "ssh-ed25519 AAAA", self.keys["coordinator"].public)
        receipts = Receipts(place.receipts)
        self.bobs[name] = Masks(place, site, key, Spool(place.spool), receipts, lambda *_, **__: None)
        return self.bobs[name]

    def act(self, name: str, state: Federation | None = None) -> bool:
        """Let a Bob look at the board."""
        return self.bobs[name].act(state or self.state, GENESIS, self.release)

    def waiting(self, name: str) -> list[MaskedWord]:
        """What a Bob has laid into his spool."""
        found = []
        for path in sorted(self.place(name).spool.glob("*.bundle")):
            with bundle.read(path) as arrived:
                found.append(arrived.verify(self.keys[name].public, MaskedWord))
        return found

    def take(self, name: str) -> list[Said]:
        """Record what a Bob has laid into his spool, and give him the receipt."""
        spool, found = Spool(self.place(name).spool), []
        for word in self.waiting(name):
            parts = {part: getattr(word, part) for part in ("advert", "shares", "agreed", "answer")}
            said = Said(site=word.sender, submission=word.id, builds_on=word.builds_on, **parts)
            assert records.masks_objection(self.state, said) == ""
            record = self.played.add(records.masks(self.state, said))
            found.append(record.said)
            Receipts(self.place(name).receipts).append({"id": word.id})
            spool.remove(next(entry for entry in spool.entries() if entry.id == word.id))
        return found  # type: ignore[return-value]

    def say(self, *names: str) -> None:
        """Let these look at the board and say what is due."""
        for name in names or self.names:
            self.act(name)
            self.take(name)

    def later(self, seconds: float) -> float:
        """Let time go by; returns when it is, in seconds since 1970."""
        self.played.time += datetime.timedelta(seconds=seconds)
        return self.played.time.timestamp()

    @property
    def now(self) -> float:
        return self.played.time.timestamp()

    def open(self, *names: str) -> None:
        """A round opens with the keys of these, and is released."""
        self.say(*names)
        if names and set(names) != set(self.names):
            self.later(DEADLINE)
        self.played.add(records.opening(self.state, self.now))
        self.played.release()

    def settle_partners(self, *names: str) -> None:
        """These give shares, and it is settled who masks with whom."""
        self.say(*names)
        if names and set(names) != set(self.names):
            self.later(DEADLINE / 4)
        self.played.add(records.partners(self.state, self.now))
        self.look()

    def claim(self, name: str, **changes: Any) -> Claim:
        fields: Fields = {
            "id": new_id(), "architecture": self.header.architecture, "builds_on": self.release, "session": 1,
            "epoch": 1, "examples": 0, "metrics": None, "started": now(), "created": now(),
        }  # fmt: skip
        return Claim(**fields | changes)

    def words(self, name: str) -> Path:
        """An update as Alice leaves it."""
        path = self.folder / name / "update.safetensors"
        vector = Fixed.agreed(self.state.policy, len(self.names)).write(self.steps[name], self.examples[name])
        weights.write_words(path, vector, self.header.tensors, SPEC)
        return path

    def mask(self, name: str, **changes: Any) -> bytes:
        """What a Bob makes of it."""
        with open(self.words(name), "rb") as model, self.bobs[name].masked(self.claim(name, **changes), model) as file:
            file.seek(0)
            return file.read()

    def send(self, *names: str) -> None:
        """Updates of these arrive."""
        for name in names or self.names:
            self.files[name] = self.folder / f"{name}.safetensors"
            self.files[name].write_bytes(self.mask(name))
            sent = self.played.submission(name, claim=None, examples=0)
            self.played.add(records.counted(self.state, sent))

    def settle_sum(self, seconds: float = 0.0, signing: Sequence[str] = ()) -> None:
        """It is settled whose updates are in the sum, and these sign it; all of them unless some are named."""
        self.later(seconds)
        self.played.add(records.closing(self.state, self.now))
        self.say(*signing)
        assert self.state.round
        if any(confirmed_of(one) for one in self.state.round.groups):
            self.played.add(records.agreed(self.state, self.now))

    def look(self) -> None:
        """All look at the board, and have nothing to say."""
        for name in self.names:
            assert not self.act(name) or self.waiting(name)

    def sum(self, group: int = 0) -> tuple[np.ndarray, int]:
        """What comes out of a group: the mean step, and of how many images."""
        current = self.state.round
        assert current
        masking, out = current.groups[group], self.folder / "sum.safetensors"
        paths = [self.files[name] for name in masking.arrived or ()]
        examples = open_sum(self.state.policy, current, masking, paths, self.base, out)
        first, last = (weights.read_weights(path, self.header.tensors) for path in (self.base, out))
        return np.concatenate([(last[name].astype(np.float64) - first[name]).ravel() for name in first]), examples

    def wanted(self, *names: str) -> tuple[np.ndarray, int]:
        """What must come out."""
        total = sum(self.examples[name] for name in names)
        return np.sum([self.steps[name] * (self.examples[name] / total) for name in names], axis=0), total

    def close(self) -> None:
        """The round ends with its sum."""
        _, examples = self.sum()
        scores = {"accuracy": 0.5, "loss": 0.5}
        current = self.state.round
        assert current
        count = len(current.updates)
        decided = records.gated(self.state, count, scores)
        blob = Blob(sha256="0" * 64, size=99)
        closed = records.closed(self.state, current, decided, (), blob, [], examples=examples)
        assert isinstance(closed, RoundAccepted)
        self.played.add(closed)
        self.played.release()


def told(state: Federation) -> Mapping[str, set[str]]:
    """Of which secrets of each partner shares were told: seed or key."""
    masking = state.round.groups[0] if state.round else None
    assert masking and masking.arrived is not None
    found: dict[str, set[str]] = {name: set() for name in masking.partners or ()}
    for answer in masking.answers.values():
        for site, share in answer.shares.items():
            marks = masking.shares[site].marks[answer.site]
            found[site].add(("seed", "key")[marks.index(mark(bytes.fromhex(share)))])
    return found


def changed(state: Federation, **masking: Any) -> Federation:
    """A state whose open round says otherwise of its masks: what a liar shows."""
    current = state.round
    assert current and current.groups
    other = dataclasses.replace(current.groups[0], **masking)
    return dataclasses.replace(state, round=dataclasses.replace(current, groups=(other,)))
