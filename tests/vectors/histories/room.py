"""A coordinator in a folder, and everything to play the sites and the door with; see make.py."""

from __future__ import annotations

import datetime
import itertools
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fedssh import ledger
from fedssh.bundle import pending, seal, seal_report
from fedssh.charity import enrol, genesis, snapshot
from fedssh.charity.cli import InitSettings
from fedssh.charity.folders import Folders
from fedssh.charity.judge import own_images
from fedssh.charity.judge.client import Judge
from fedssh.charity.serve import Coordinator
from fedssh.charity.vault import Vault, publish_summary
from fedssh.manifest import Report, Submission, new_id, now
from fedssh.models.data.images import Images
from fedssh.models.training import Trainer, resident
from fedssh.rules.events import Local
from fedssh.rules.terms import agree
from fedssh.weights import architecture_hash, read_header, read_weights, write_weights

from .kept import HOLDOUT, private_keys

SITES = [f"alice-{number}" for number in range(1, 6)]
SETTINGS: dict[str, Any] = {
    "architecture": '{"name":"mlp","depth":1,"width":2}', "name": "golden", "batch_size": 16, "epochs": 3,
    "learning_rate": 0.03, "seed": 3, "address": "charity@charity.example:2222",
}  # fmt: skip
Weights = dict[str, np.ndarray]
Change = Callable[[Weights, Weights], Weights]  # what a site sends, of what it started from and what it trained


class KeptJudge(Judge):
    """The judge's process, whoever lets it go: the federations of all folders have one architecture and one plan."""

    def stop(self) -> None:
        """Go on."""


def images(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise of 6 x 6 pixels, in class 1 brighter on the right."""
    labels = np.arange(count) % 2
    pixels = np.random.default_rng(seed).integers(0, 186, (count, 6, 6, 1))
    pixels[labels == 1, :, 3:] += 70
    return pixels.astype(np.uint8), labels.astype(np.uint8)


def worse(start: Weights, trained: Weights) -> Weights:
    return trained | {"output/kernel": -trained["output/kernel"], "output/bias": -trained["output/bias"]}


def same(start: Weights, trained: Weights) -> Weights:
    return start


def nan(start: Weights, trained: Weights) -> Weights:
    return trained | {"output/bias": np.full_like(trained["output/bias"], np.nan)}


def endless(start: Weights, trained: Weights) -> Weights:
    """Finite, but two infinities meet in what it predicts."""
    return {name: np.where(array < 0, -3e38, 3e38).astype(np.float32) for name, array in trained.items()} | {
        "output/kernel": np.array([[1.0], [-1.0]], np.float32), "dense1/kernel": np.full((36, 2), 3e38, np.float32),
    }  # fmt: skip


def dead(start: Weights, trained: Weights) -> Weights:
    """No unit of its first layer ever answers."""
    return trained | {"dense1/bias": np.full_like(trained["dense1/bias"], -40)}


def scaled(by: float) -> Change:
    """The first layer so many times as large, the second as many times as small: it scores as before."""

    def change(start: Weights, trained: Weights) -> Weights:
        first = {name: trained[name] * np.float32(by) for name in ("dense1/kernel", "dense1/bias")}
        return trained | first | {"output/kernel": trained["output/kernel"] / np.float32(by)}

    return change


class Room:
    """A coordinator in a folder, and everything to play the sites and the door with."""

    arrivals = itertools.count(10**18)

    def __init__(self, folders: Folders, keys: Path, judge: Judge, trainer: Trainer, sites: int, **terms: Any) -> None:
        self.folders, self.judge, self.trainer = folders, judge, trainer
        self.keys, self.public = private_keys(keys), keys
        folders.make()
        shutil.copy2(keys / "coordinator_key", folders.key)  # `init` goes on with it, as after being killed
        folders.host_key.parent.mkdir(mode=0o700)
        for name in ("host_key", "host_key.pub"):
            shutil.copy2(keys / name, folders.host_key.parent / name)
        settings = vars(InitSettings(data=HOLDOUT, **SETTINGS | terms))
        taken = own_images.take(HOLDOUT, settings["architecture"])
        agreement = agree(settings, taken.spec, genesis.loss_of(taken.spec), taken.class_names)
        private = {"address": settings["address"], "classes": None, "max_value": None}
        genesis.begin(folders, HOLDOUT, agreement, settings["seed"], private, judge)
        folders.settings.write_text(json.dumps(private | {"data": HOLDOUT.name}, indent=2) + "\n")
        self.vault = Vault(folders)
        self.late = 0.0
        ledger.now = self.clock  # type: ignore[attr-defined] # hers and that of her records are one
        for site in SITES[:sites]:
            self.add(site)
        self.work()

    def add(self, name: str, key: str | None = None, role: str = "site") -> None:
        enrol.add(self.vault, name, self.public / f"{key or name}.pub", role)

    def work(self, late: float = 0) -> None:
        """What `charity serve` does when something arrived; from here on her clock is so many seconds ahead."""
        self.late = max(self.late, late)
        Coordinator(self.vault, self.judge, now=lambda: time.time() + self.late).work()

    def clock(self) -> str:
        """The time that her records bear."""
        moment = datetime.datetime.fromtimestamp(time.time() + self.late, datetime.UTC)
        return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")

    def overdue(self, deadline: float) -> None:
        """The open round's deadline has just passed."""
        assert self.vault.state.round is not None
        self.work(late=self.vault.state.round.opened + deadline + 0.01 - time.time())

    def grown_old(self) -> None:
        """What she writes when the last snapshot and summary are 1,000 and 100 records old."""
        snapshot.write(self.folders.snapshot, self.vault.state, self.vault.key)
        publish_summary(self.folders, self.vault.ledger)

    def recover(self) -> None:
        """What `charity serve` does when it starts."""
        Coordinator(self.vault, self.judge).recover()

    def silence(self) -> None:
        """Nothing is heard in a turn until its time is up."""
        clock = [0.0]
        coordinator = Coordinator(self.vault, self.judge, turn_seconds=10, clock=lambda: clock[0])
        coordinator.work()
        clock[0] = 10
        coordinator.work()

    @property
    def release(self) -> int:
        """The newest release."""
        assert self.vault.state.release is not None
        return self.vault.state.release.sequence

    def arrive(self, site: str, claimed: bool = False) -> Path:
        """Where the door would put the next bundle of a site; or where it lies when it was taken and not settled."""
        folder = (self.folders.claimed if claimed else self.folders.inbox) / site
        folder.mkdir(exist_ok=True)
        return folder / f"{next(self.arrivals):020}-{'0' * 8}.bundle"

    def newest(self, site: str) -> Path:
        """The bundle of a site that came last and was not looked at yet."""
        folders = (self.folders.inbox / site, self.folders.claimed / site)
        return max((path for folder in folders for path in folder.glob("*.bundle")), key=lambda path: path.name)

    def tried(self, site: str, tries: int) -> None:
        """The coordinator was killed so many times while she worked on a site's newest bundle."""
        self.newest(site).with_suffix(".tries").write_bytes(b"." * tries)

    def send(self, site: str, change: Change | None = None, **said: Any) -> None:
        """Train a session from a release, and put what came of it into the site's inbox."""
        signer, claimed = said.pop("signer", site), said.pop("claimed", False)
        builds_on = said.pop("builds_on", self.release)
        model = self.folders.model(self.vault.ledger.record(builds_on).fields["model"]["sha256"])
        start, trainer = read_weights(model, read_header(model).tensors), self.trainer
        count = 32 + 8 * SITES.index(site)
        pixels, labels = images(100 + SITES.index(site), count)
        examples = resident(Images((pixels / 255).astype(np.float32), labels.astype(np.int64)))
        trainer.load(start)
        trainer.fresh(0)
        for epoch in range(3):
            trainer.epoch(examples, np.random.default_rng(epoch).permutation(count), 16)
        loss, accuracy = trainer.evaluate(examples)
        trained = trainer.weights()
        fields: dict[str, Any] = {
            "id": new_id(), "sender": site, "recipients": [], "model": pending(), "sealed": pending(),
            "architecture": architecture_hash(trainer.spec), "builds_on": builds_on, "session": 1, "epoch": 3,
            "examples": count, "metrics": Local(loss, accuracy), "started": now(), "created": now(),
        }  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            sent = Path(folder, "sent.safetensors")
            write_weights(sent, change(start, trained) if change else trained, trainer.spec)
            to = [self.vault.key.public]
            seal(sent, Submission(**fields | said), self.keys[signer], to, self.arrive(site, claimed))

    def report(self, site: str, **said: Any) -> None:
        """Put the end of a session into the site's inbox; without checkpoints, as after a training that diverged."""
        signer = said.pop("signer", site)
        metrics = Local(0.5, 0.75) if said.get("checkpoints", 1) else None
        fields: dict[str, Any] = {
            "id": new_id(), "sender": site, "builds_on": self.release, "session": 1, "epochs": 3, "checkpoints": 1,
            "examples": 32 + 8 * SITES.index(site), "metrics": metrics, "started": now(), "created": now(),
        }  # fmt: skip
        seal_report(Report(**fields | said), self.keys[signer], self.arrive(site))

    def round(self, sites: list[str], change: Change | None = None, **said: Any) -> None:
        """An update of each, and what comes of them."""
        for site in sites:
            self.send(site, change, **said)
        self.work()
