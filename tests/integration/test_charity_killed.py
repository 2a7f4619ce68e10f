"""`kill -9` of the coordinator before every durable step: what is judged is judged once, and nothing is lost.

Each run is a forked child that kills itself when it is about to do its n-th durable step, for n = 1, 2, 3 … until
a run comes to its end. The next run is killed at its n-th step as well; the third may finish.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fedssh.bundle import open_bundle
from fedssh.charity import enrol, genesis, snapshot
from fedssh.charity.folders import Folders
from fedssh.charity.judge import combining
from fedssh.charity.serve import Coordinator
from fedssh.charity.vault import Vault
from fedssh.charity.verify import audit
from fedssh.files import is_part, sha256_file
from fedssh.history import totals
from fedssh.keys import PrivateKey
from fedssh.ledger import Ledger, verify
from fedssh.manifest import Release
from fedssh.rules.policies import read_policy
from fedssh.weights import read_weights, write_weights

Room = Any  # tests/integration/conftest.py

SPEC = {"name": "mlp", "depth": 1, "width": 2, "input": [2, 2, 1], "classes": 2}  # those of the room
SHAPES = {"dense1/kernel": (4, 2), "output/bias": (1,)}
STEPS = ("replace", "rename", "link", "unlink", "fsync", "ftruncate", "sendfile")


@pytest.fixture(autouse=True)
def loaded_key(monkeypatch: pytest.MonkeyPatch, keys: dict[str, PrivateKey]) -> None:
    """Hand out the key that is loaded already: checking its primes takes an eighth of a second, each time."""
    for module in ("vault", "genesis"):
        monkeypatch.setattr(f"fedssh.charity.{module}.load_private", lambda path: keys["coordinator"])


class Scores:
    """Reads the score out of the model file, as the stand-in judge does, without a process."""

    pid = None

    def score(self, model: Path) -> dict[str, Any]:
        import struct

        value = round(struct.unpack("<f", model.read_bytes()[-4:])[0], 4)
        return {"accuracy": value, "loss": 1 - value}

    spec = SPEC
    statistics: frozenset[str] = frozenset()

    def read(self, path: Path) -> Mapping[str, Any]:
        return read_weights(path, SHAPES)

    def score_weights(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
        value = round(float(tensors["output/bias"][0]), 4)
        return {"accuracy": value, "loss": 1 - value}

    def mix(
        self, current: Path, candidate: Path, shares: Sequence[float], out: Path | None = None
    ) -> list[dict[str, Any]]:
        wanted = {"current": current, "candidate": candidate, "shares": shares, "out": out}
        metrics: list[dict[str, Any]] = combining.mix(self, wanted)["metrics"]
        return metrics

    def combine(
        self, policy: str, base: Path, updates: Sequence[tuple[Path, int]], server: Sequence[Path], out: Path
    ) -> dict[str, Any]:
        wanted = {"policy": policy, "base": base, "updates": updates, "server": server, "out": out}
        return combining.combine(self, wanted)

    def start(self) -> dict[str, Any]:
        return {"holdout": {"sha256": "ab" * 32, "examples": 2}}

    def check(self, *models: Any) -> dict[str, Any]:
        return {"sound": True, "text": ""}

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        import numpy as np

        out = Path(request["genesis"]["out"])
        write_weights(out, {"w": np.full((2,), 0.5, np.float32)}, {"name": "x"})
        return {"metrics": self.score(out), "examples": 1}

    def stop(self) -> None: ...


def die_at(step: int) -> None:
    """Kill this process when it is about to do its n-th durable step."""
    left = [step]

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        return call

    for name in STEPS:
        setattr(os, name, counted(getattr(os, name)))

    class Connection(sqlite3.Connection):
        commit = counted(sqlite3.Connection.commit)

    connect = sqlite3.connect
    sqlite3.connect = lambda *arguments, **options: connect(*arguments, factory=Connection, **options)  # type: ignore


def killed_at(step: int, act: Callable[[], None]) -> bool:
    """Run `act` in a child that dies at its n-th step; returns whether it came to that."""
    child = os.fork()
    if child == 0:
        try:
            die_at(step)
            act()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0, "the run failed instead of being killed; see above"
    return False


def serve_once(folders: Folders) -> None:
    """What `charity serve` does from its start until everything is done."""
    coordinator = Coordinator(Vault(folders), Scores())  # type: ignore[arg-type]
    coordinator.recover()
    coordinator.work()


@pytest.fixture
def busy(room: Room, tmp_path: Path) -> tuple[Room, dict[str, tuple[str, str]]]:
    """A coordinator whose inbox holds one of everything; what must come of each, by site and id."""
    release = room.release()
    room.judge.stop()
    wanted = {
        room.submit("alice-1", 0.6, builds_on=release): ("alice-1", "accepted"),
        room.submit("alice-2", 0.4, builds_on=release): ("alice-2", "refused"),
        room.submit("alice-2", 0.8, builds_on=release): ("alice-2", "accepted"),
        room.submit("alice-1", 0.9, builds_on=release, signer="stranger"): ("alice-1", "invalid"),
        room.report("alice-1", builds_on=release): ("alice-1", "report"),
    }
    room.arrive("alice-2").write_bytes(b"garbage")
    room.vault.ledger.close()
    return room, wanted


def separate_volumes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every step from the inbox into the vault one between file systems, as with two container volumes."""
    link, replace = os.link, os.replace

    def crossing(function: Callable[..., Any], source: Any, target: Any, **options: Any) -> None:
        if "/inbox/" in str(source) and "/vault/" in str(target):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        function(source, target, **options)

    monkeypatch.setattr(os, "link", partial(crossing, link))
    monkeypatch.setattr(os, "replace", partial(crossing, replace))


@pytest.mark.parametrize(("volumes", "stride"), [(1, 1), (2, 3)])
def test_killed_at_every_step_of_its_work(
    volumes: int, stride: int, busy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room, wanted = busy
    monkeypatch.setattr(snapshot, "EVERY", 4)  # also between the steps of a snapshot and a summary
    monkeypatch.setattr(totals, "EVERY", 3)
    prepared = room.folders.state
    step = 0
    if volumes == 2:  # only what differs is new; every third step is enough
        separate_volumes(monkeypatch)
    while True:
        step += stride
        state = tmp_path / f"killed-{step}"
        shutil.copytree(prepared, state)
        folders = Folders(state)
        died = killed_at(step, partial(serve_once, folders))
        if died:
            killed_at(step, partial(serve_once, folders))
            serve_once(folders)
        check(folders, room.keys, wanted)
        shutil.rmtree(state)
        if not died:
            break
    assert step > 60, "the steps were not counted"


@pytest.mark.parametrize(
    ("policy", "accuracy"),
    [
        ("fedavg:server=momentum", 0.7),  # a round closes, and the server optimizer's state lies beside the model
        ("merge:steps=2,staleness=0", 0.8),
    ],
)
def test_killed_at_every_step_of_averaging(
    policy: str, accuracy: float, new_room: Callable[..., Room], tmp_path: Path
) -> None:
    agreed = read_policy(policy)
    schedule = "rounds" if agreed.rounds else "free"
    room = new_room(policy=agreed.text, schedule=schedule, gate="on", margin=0.01)
    release = room.release()
    room.judge.stop()
    wanted = {
        room.submit("alice-1", 0.6, builds_on=release): "counted" if agreed.rounds else "accepted",
        room.submit("alice-2", 0.8, builds_on=release): "counted" if agreed.rounds else "accepted",
    }
    room.vault.ledger.close()
    step, died = 0, True
    while died:
        step += 1
        folders = Folders(tmp_path / f"killed-{step}")
        shutil.copytree(room.folders.state, folders.state)
        died = killed_at(step, partial(serve_once, folders))
        if died:
            killed_at(step, partial(serve_once, folders))
            serve_once(folders)
        check_averaged(folders, wanted, accuracy)
        shutil.rmtree(folders.state)
    assert step > 30, "the steps were not counted"


def check_averaged(folders: Folders, wanted: dict[str, str], accuracy: float) -> None:
    """Every update judged once, one new model from them, released; nothing left over."""
    audit(folders)
    vault = Vault(folders)
    assert {record.fields["submission"]: record.event for record in vault.ledger.judged()} == wanted
    assert vault.state.current.metrics["accuracy"] == pytest.approx(accuracy)
    assert vault.state.due_release() is None
    events = [record.event for record in vault.ledger.records()]
    in_rounds = vault.state.policy.rounds
    assert (events.count("round-accepted"), events.count("round-opened")) == ((1, 2) if in_rounds else (0, 0))
    assert len(list(folders.server.iterdir())) == (1 if in_rounds else 0)
    for folder in (folders.inbox, folders.claimed, folders.opened, folders.updates):
        assert not [path for path in folder.rglob("*") if path.is_file()]
    assert not [path for path in folders.state.rglob("*") if is_part(path)]
    vault.ledger.close()


def check(folders: Folders, keys: dict[str, PrivateKey], wanted: dict[str, tuple[str, str]]) -> None:
    """Everything judged once, verified, published; the best model current; nothing left over."""
    ledger = Ledger(folders.ledger)
    records = ledger.records()
    verify(records, keys["coordinator"].public)
    audit(folders)
    judged = ledger.judged()
    assert {(r.fields["submission"]): (r.fields["site"], r.event) for r in judged if r.fields["submission"]} == wanted
    assert len(judged) == len(wanted) + 1
    for record in judged:
        if submission := record.fields["submission"]:
            assert folders.verdict(record.fields["site"], submission).read_bytes() == record.line()
    published = (folders.outbox / "ledger.jsonl").read_bytes()
    assert published == b"".join(record.line() for record in records)
    vault = Vault(folders)
    assert vault.state.current.metrics["accuracy"] == 0.8
    newest = max(folders.releases.glob("*.bundle"))
    model = folders.state / "opened.safetensors"
    release = open_bundle(newest, model, Release, keys["coordinator"].public, keys["alice-2"])
    assert sha256_file(model) == vault.state.current.model.sha256
    recorded = next(record for record in reversed(records) if record.event == "release")
    assert (release.sequence, release.head) == (recorded.sequence, recorded.hash)
    assert vault.state.due_release() is None
    assert len(list(folders.models.iterdir())) == 3
    for folder in (folders.inbox, folders.claimed):
        assert not [path for path in folder.rglob("*") if path.is_file()]
    assert not list(folders.opened.iterdir())
    assert not [path for path in folders.state.rglob("*") if is_part(path)]
    ledger.close()


def test_init_killed_at_every_step_can_be_given_again(tmp_path: Path, keys: dict[str, PrivateKey]) -> None:
    terms: dict[str, Any] = {"federation": "test", "spec": {"name": "x"}, "plan": {"metric": "accuracy"}}
    terms |= {"policy": "best", "gate": "on", "margin": 0.01, "schedule": "free", "sessions": None}
    step = 0
    died = True
    while died:
        step += 1
        folders = Folders(tmp_path / f"killed-{step}")
        folders.make()
        if step > 1:  # making a key of 3072 bits takes long enough to do it only once
            folders.key.write_bytes(keys["coordinator"].pem)
            folders.key.chmod(0o600)

        def begin(folders: Folders = folders) -> None:
            if not genesis.is_begun(folders):
                genesis.begin(folders, tmp_path, terms, 0, {}, Scores())  # type: ignore[arg-type]
            Vault(folders).repair()

        died = killed_at(step, begin)
        begin()
        assert [record.event for record in Ledger(folders.ledger).records()] == ["genesis"]
        assert audit(folders)["models"] == 1
        assert (folders.outbox / "ledger.jsonl").read_bytes().count(b"\n") == 1
        assert folders.host_key.with_name("host_key.pub").exists()
        shutil.rmtree(folders.state)
    assert step > 10


@pytest.mark.parametrize("command", ["add", "revoke"])
def test_enrolling_and_revoking_killed_at_every_step(command: str, room: Room, tmp_path: Path) -> None:
    room.release()
    room.judge.stop()
    room.vault.ledger.close()
    public = tmp_path / "alice-3.pub"
    public.write_text(room.keys["stranger"].public.line)
    step = 0
    died = True
    while died:
        step += 1
        folders = Folders(tmp_path / f"killed-{step}")
        shutil.copytree(room.folders.state, folders.state)

        def act(folders: Folders = folders) -> None:
            vault = Vault(folders)
            if command == "add":
                enrol.add(vault, "alice-3", public, "site")
            else:
                enrol.revoke(vault, "alice-2", "key lost")

        died = killed_at(step, act)
        serve_once(folders)
        audit(folders)
        state = Vault(folders).state
        sites = [site.name for site in state.sites]
        assert sites in (["alice-1", "alice-2"], ["alice-1", "alice-2", "alice-3"] if command == "add" else ["alice-1"])
        if not died:
            assert len(sites) != 2
        assert state.release is not None and state.release.fields["federation"]["sites"] == sites
        published = (folders.outbox / "sites.json").read_text()
        assert all((f'"{name}"' in published) == (name in sites) for name in ("alice-1", "alice-2", "alice-3"))
        shutil.rmtree(folders.state)
    assert step > 4


def test_two_vaults_on_one_state_are_refused(room: Room) -> None:
    script = f"""
import sys, threading
from pathlib import Path
from fedssh.files import locked
with locked(Path({str(room.folders.vault)!r}) / "serve.lock", "busy"):
    print("holds", flush=True)
    sys.stdin.read()
"""
    holder = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).resolve().parents[2],
    )
    assert holder.stdout and holder.stdout.readline() == b"holds\n"
    from threading import Event

    from fedssh.charity.serve import serve
    from fedssh.errors import SettingsError

    try:
        with pytest.raises(SettingsError, match="another `charity serve` works on"):
            serve(room.folders, room.judge, Event())
    finally:
        holder.communicate()
