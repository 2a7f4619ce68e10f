"""A coordinator without Keras: the real vault with a judge that reads the score out of the model file."""

from __future__ import annotations

import itertools
import json
import shutil
import struct
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedssh.bundle import pending, seal, seal_report
from fedssh.charity import enrol, genesis
from fedssh.charity.folders import Folders
from fedssh.charity.judge.client import Judge
from fedssh.charity.serve import Coordinator
from fedssh.charity.vault import Vault
from fedssh.keys import PrivateKey
from fedssh.manifest import Local, Report, Submission, new_id, now
from fedssh.rules.events import Record
from fedssh.weights import architecture_hash, write_weights

SPEC = {"name": "mlp", "depth": 1, "width": 2, "input": [2, 2, 1], "classes": 2}
SHAPES = {"dense1/kernel": (4, 2), "output/bias": (1,)}
PLAN = {"batch_size": 8, "epochs": 3, "patience": 10, "optimizer": "adam", "learning_rate": 0.001, "metric": "accuracy"}
GENESIS_ACCURACY = 0.5

# The whole protocol of agents/charity/judge/process.py, and its own arithmetic, without Keras. The last weight is the
# accuracy, as far as 1; some weights make it misbehave.
STAND_IN = """
import json, os, struct, sys, time
from pathlib import Path
sys.path.insert(0, {root!r})
def say(value): print(json.dumps(value), flush=True)
def measured(value):
    if value == 2: time.sleep(60)
    if value == 3: os.kill(os.getpid(), 9)
    if value == 5: raise OSError(28, "No space left on device")
    if value == 4: raise ValueError("3 of the predictions are not finite numbers")
    value = min(value, 2 - value)  # beyond 1 is too far
    return {{"loss": round(1 - value, 4), "accuracy": round(value, 4), "auc": None, "confusion": [[1, 0], [0, 1]]}}
def metrics(path): return measured(struct.unpack("<f", open(path, "rb").read()[-4:])[0])
class Scorer:
    spec = {spec!r}
    statistics = frozenset()
    def read(self, path):
        from fedssh.weights import read_weights
        return read_weights(path, {shapes!r})
    def score_weights(self, tensors): return measured(float(tensors["output/bias"][0]))
say({{"ready": True, "holdout": {{"sha256": "ab" * 32, "examples": 2}}}})
for line in sys.stdin:
    request = json.loads(line)
    try:
        if wanted := request.get("genesis"):
            import numpy as np
            from fedssh.weights import write_weights
            tensors = {{name: np.full(shape, {accuracy}, np.float32) for name, shape in {shapes!r}.items()}}
            write_weights(Path(wanted["out"]), tensors, {spec!r})
            say({{"metrics": metrics(wanted["out"]), "examples": 1}})
        elif wanted := request.get("check"):  # where nothing can be trained
            from fedssh.charity.judge.probe import Probe
            models = [Scorer().read(Path(wanted[whose])) for whose in ("model", "current", "first")]
            found = Probe({spec!r}, wanted["plan"], lambda: None).check(models[0], ("c", models[1]), ("f", models[2]))
            say(vars(found))
        elif "mix" in request or "round" in request:
            from fedssh.charity.judge import combining
            work = combining.mix if "mix" in request else combining.combine
            say(work(Scorer(), request["mix" if "mix" in request else "round"]))
        else:
            say({{"metrics": metrics(request["model"])}})
    except ValueError as error:
        say({{"error": str(error)}})
    except OSError as error:
        say({{"error": str(error), "errno": error.errno}})
"""


def accuracy_of(path: Path) -> float:
    """What the stand-in judge measures."""
    value: float = struct.unpack("<f", path.read_bytes()[-4:])[0]
    return round(value, 4)


@dataclass
class Room:
    """A coordinator on disk, and everything to play the sites and the door with."""

    folders: Folders
    keys: dict[str, PrivateKey]
    judge: Judge
    vault: Vault
    arrivals: Iterator[int] = field(default_factory=lambda: itertools.count(10**18))
    late: float = 0.0  # seconds by which the coordinator's clock is ahead

    @property
    def coordinator(self) -> Coordinator:
        return Coordinator(self.vault, self.judge, now=lambda: time.time() + self.late)

    def work(self) -> None:
        """What `charity serve` does when something arrived."""
        self.coordinator.work()

    def release(self) -> int:
        """The newest release's sequence; makes the first one if there is none."""
        self.coordinator.work()
        assert self.vault.state.release is not None
        return self.vault.state.release.sequence

    def model(self, accuracy: float, **changes: Any) -> Path:
        """A model file that scores so; `changes` replace tensors or, as `spec`, the architecture."""
        spec = changes.pop("spec", SPEC)
        tensors = {name: np.full(shape, 0.25, np.float32) for name, shape in SHAPES.items()}
        tensors["output/bias"] = np.array([accuracy], np.float32)
        tensors = {name: array for name, array in {**tensors, **changes}.items() if array is not None}
        path = self.folders.state.parent / f"{new_id()}.safetensors"
        write_weights(path, tensors, spec)
        return path

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


@pytest.fixture(scope="session")
def begun(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Coordinators as they stand after their beginning, by what they agreed on: made once, copied for each test."""
    return {"": tmp_path_factory.mktemp("begun")}


@pytest.fixture
def new_room(tmp_path: Path, keys: dict[str, PrivateKey], begun: dict[str, Path]) -> Iterator[Callable[..., Room]]:
    """Begins federations; keyword arguments change what they agree on."""
    script = tmp_path / "judge.py"
    root = str(Path(__file__).resolve().parents[2])
    script.write_text(STAND_IN.format(root=root, shapes=SHAPES, spec=SPEC, accuracy=GENESIS_ACCURACY))
    judges = []

    def begin(sites: tuple[str, ...] = ("alice-1", "alice-2"), **agreement: Any) -> Room:
        folders = Folders(tmp_path / "coordinator")
        judge = Judge([sys.executable, str(script)], answer_seconds=2)
        judges.append(judge)
        if (known := repr((sites, agreement))) in begun and not folders.state.exists():
            shutil.copytree(begun[known], folders.state)
            return Room(folders, keys, judge, Vault(folders))
        folders.make()
        folders.key.write_bytes(keys["coordinator"].pem)
        folders.key.chmod(0o600)
        terms = {
            "federation": "test",
            "spec": SPEC,
            "plan": PLAN,
            "policy": "best",
            "gate": "on",
            "margin": 0.01,
            "schedule": "free",
            "sessions": None,
        }
        genesis.begin(folders, tmp_path, terms | agreement, 0, {"address": None}, judge)
        vault = Vault(folders)
        for site in sites:
            public = tmp_path / f"{site}.pub"
            public.write_text(f"{keys[site].public.line} {site}\n")
            enrol.add(vault, site, public, "site")
        begun[known] = begun[""] / str(len(begun))
        shutil.copytree(folders.state, begun[known])
        return Room(folders, keys, judge, vault)

    yield begin
    for judge in judges:
        judge.stop()


@pytest.fixture
def room(new_room: Callable[..., Room]) -> Room:
    """A federation of alice-1 and alice-2 whose genesis scores 0.5."""
    return new_room()


def members(bundle: Path) -> dict[str, bytes]:
    """A bundle's members by name."""
    with tarfile.open(bundle) as tar:
        return {entry.name: tar.extractfile(entry).read() for entry in tar}  # type: ignore[union-attr]


def wait_until(condition: Callable[[], bool], seconds: float = 10) -> None:
    """Wait for something another process or thread does."""
    pause = threading.Event()
    for _ in range(int(seconds / 0.02)):
        if condition():
            return
        pause.wait(0.02)
    raise AssertionError("it did not happen in time")
