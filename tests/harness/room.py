"""The coordinator's room without Keras: the real vault on disk, with a stand-in judge, and bundles sealed for it."""

from __future__ import annotations

import itertools
import json
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fedssh.bundle import open_bundle, pending, seal, seal_report
from fedssh.charity import enrol, genesis
from fedssh.charity.folders import Folders
from fedssh.charity.judge.client import Judge
from fedssh.charity.serve import Coordinator
from fedssh.charity.vault import Vault
from fedssh.errors import JudgeError
from fedssh.keys import PrivateKey
from fedssh.ledger import Ledger
from fedssh.manifest import Release, Report, Submission, new_id, now
from fedssh.rules.events import Local, Record
from fedssh.rules.replay import Replay
from fedssh.rules.rounds import Round
from fedssh.weights import architecture_hash, write_weights
from tests.harness.judge import COMMAND, SHAPES, SPEC, answer, ready

PLAN = {"batch_size": 8, "epochs": 3, "patience": 10, "optimizer": "adam", "learning_rate": 0.001, "metric": "accuracy"}
AGREED: dict[str, Any] = {
    "federation": "test", "spec": SPEC, "plan": PLAN, "policy": "best", "gate": "on", "margin": 0.01,
    "schedule": "free", "sessions": None,
}  # fmt: skip


@dataclass
class Room:
    """A coordinator on disk, and everything to play the sites and the door with."""

    folders: Folders
    keys: dict[str, PrivateKey]
    judge: Judge
    vault: Vault
    arrivals: Iterator[int] = field(default_factory=lambda: itertools.count(10**18))
    late: float = 0.0  # seconds by which the coordinator's clock is ahead of that of the ledger
    lies: bool = False  # whether a test records what the rules do not give

    @property
    def coordinator(self) -> Coordinator:
        return Coordinator(self.vault, self.judge, now=lambda: time.time() + self.late)

    def work(self) -> None:
        """What `charity serve` does when something arrived."""
        self.coordinator.work()

    def release(self) -> int:
        """The newest release's sequence; makes the first one if there is none."""
        self.coordinator.work()
        return self.newest.sequence

    def model(self, accuracy: float, **changes: Any) -> Path:
        """A model file that scores so; `changes` replace tensors or, as `spec`, the architecture."""
        spec = changes.pop("spec", SPEC)
        tensors = {name: np.full(shape, 0.25, np.float32) for name, shape in SHAPES.items()}
        tensors["output/bias"] = np.array([accuracy], np.float32)
        tensors = {name: array for name, array in {**tensors, **changes}.items() if array is not None}
        path = self.folders.state.parent / f"{new_id()}.safetensors"
        write_weights(path, tensors, spec)
        return path

    def opened(self, site: str = "alice-1") -> tuple[Release, Path]:
        """The newest release as a site opens it, and its model."""
        newest = max(self.folders.releases.glob("*.bundle"))
        model = self.folders.state.parent / f"opened-{new_id()}.safetensors"
        return open_bundle(newest, model, Release, self.keys["coordinator"].public, self.keys[site]), model

    def submission(self, site: str, builds_on: int, **changes: Any) -> Submission:
        """A manifest as the site's Bob writes it."""
        fields: dict[str, Any] = {
            "id": new_id(), "sender": site, "recipients": [], "model": pending(), "sealed": pending(),
            "architecture": architecture_hash(SPEC), "builds_on": builds_on, "session": 1, "epoch": 3, "examples": 10,
            "metrics": Local(0.1, 0.9), "started": now(), "created": now(),
        }  # fmt: skip
        return Submission(**(fields | changes))

    def arrive(self, site: str) -> Path:
        """Where the door would put the next bundle of a site."""
        folder = self.folders.inbox / site
        folder.mkdir(exist_ok=True)
        return folder / f"{next(self.arrivals):020}-{'0' * 8}.bundle"

    def submit(self, site: str, accuracy: float, **changes: Any) -> str:
        """Put a sealed submission into a site's inbox; returns its id."""
        signer = self.keys[changes.pop("signer", site)]
        to = self.keys[changes.pop("to", "coordinator")]
        model = changes.pop("model", None) or self.model(accuracy)
        inbox = changes.pop("inbox", site)
        if "builds_on" not in changes:
            changes["builds_on"] = self.release()
        manifest = seal(model, self.submission(site, **changes), signer, [to.public], self.arrive(inbox))
        model.unlink()
        return manifest.id

    def report(self, site: str, **changes: Any) -> str:
        """Put a site's report into its inbox; returns its id."""
        builds_on = changes.pop("builds_on", None) or self.release()
        fields: dict[str, Any] = {
            "id": new_id(), "sender": site, "builds_on": builds_on, "session": 1, "epochs": 4, "checkpoints": 1,
            "examples": 10, "metrics": Local(0.1, 0.9), "started": now(), "created": now(),
        }  # fmt: skip
        report = Report(**(fields | changes))
        seal_report(report, self.keys[site], self.arrive(site))
        return report.id

    @property
    def round(self) -> Round:
        """The open round."""
        assert self.vault.state.round is not None
        return self.vault.state.round

    @property
    def newest(self) -> Record:
        """The record of the newest release."""
        assert self.vault.state.release is not None
        return self.vault.state.release

    def copy_ledger(self) -> Path:
        """Keep the history as it is now."""
        copy = self.folders.ledger.with_name("copy.db")
        with closing(sqlite3.connect(self.folders.ledger)) as source, closing(sqlite3.connect(copy)) as target:
            source.backup(target)
        return copy

    def put_back(self, copy: Path) -> None:
        """Put a kept history where the newer one is, as somebody with the vault's rights may."""
        self.vault.ledger.close()
        for path in self.folders.vault.glob("ledger.db*"):
            path.unlink()
        copy.replace(self.folders.ledger)

    def verdict(self, site: str, submission: str) -> dict[str, Any]:
        """The published verdict's fields."""
        fields: dict[str, Any] = json.loads(json.loads(self.folders.verdict(site, submission).read_bytes())["record"])
        return fields

    def events(self) -> list[str]:
        return [record.event for record in self.vault.ledger.records()]

    def last(self) -> Record:
        record = self.vault.ledger.head()
        assert record is not None
        return record


class Rooms:
    """Begins federations in a folder; called with sites, and with what they agree on if not as usual.

    Args:
        folder: Gets coordinator/.
        keys: Of coordinator and sites, by name.
        begun: Coordinators as they stood after their beginning, by what they agreed on, to be copied; and at "" where.
    """

    def __init__(self, folder: Path, keys: dict[str, PrivateKey], begun: dict[str, Path]) -> None:
        self._folder = folder
        self._keys = keys
        self._begun = begun
        self._judges: list[Judge] = []
        self._rooms: list[Room] = []

    def __call__(self, sites: tuple[str, ...] = ("alice-1", "alice-2"), **agreement: Any) -> Room:
        folders = Folders(self._folder / "coordinator")
        judge = Judge(COMMAND, answer_seconds=2)
        self._judges.append(judge)
        known = repr((sites, agreement))
        if known in self._begun and not folders.state.exists():
            shutil.copytree(self._begun[known], folders.state)
            return self._kept(Room(folders, self._keys, judge, Vault(folders)))
        vault = self._begin(folders, judge, sites, agreement)
        self._begun[known] = self._begun[""] / str(len(self._begun))
        shutil.copytree(folders.state, self._begun[known])
        return self._kept(Room(folders, self._keys, judge, vault))

    def _begin(self, folders: Folders, judge: Judge, sites: tuple[str, ...], agreement: dict[str, Any]) -> Vault:
        folders.make()
        lay_key(folders, self._keys["coordinator"])
        genesis.begin(folders, self._folder, AGREED | agreement, 0, {"address": None}, judge)
        vault = Vault(folders)
        for site in sites:
            public = self._folder / f"{site}.pub"
            public.write_text(f"{self._keys[site].public.line} {site}\n")
            enrol.add(vault, site, public, "site")
        return vault

    def close(self) -> None:
        """Stop all judges; whatever a test did, what was recorded is what the rules give, unless it is to be a lie."""
        for judge in self._judges:
            judge.stop()
        for room in self._rooms:
            if room.folders.ledger.exists() and not room.late and not room.lies:
                hold(room.folders.ledger)

    def _kept(self, room: Room) -> Room:
        self._rooms.append(room)
        return room


def hold(path: Path) -> None:
    """Hold a history against its rules."""
    with closing(Ledger(path)) as ledger:
        replay = Replay(look_up=ledger.record)
        for record in ledger.iterate():
            replay.follow(record)


def lay_key(folders: Folders, key: PrivateKey) -> None:
    """Put a key where the coordinator's belongs, so that none has to be made."""
    folders.key.write_bytes(key.pem)
    folders.key.chmod(0o600)


class JudgeInProcess(Judge):
    """The stand-in judge without a process of its own, for tests that kill the coordinator."""

    def __init__(self) -> None:
        super().__init__(COMMAND)

    def start(self) -> dict[str, Any]:
        return ready()

    def ask(self, request: dict[str, Any], worth: int = 1) -> dict[str, Any]:
        said = answer(request)
        if "error" in said:
            raise JudgeError(f"the judge cannot do it: {said['error']}")
        return said

    def stop(self) -> None: ...
