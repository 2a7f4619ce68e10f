"""`kill -9` of the coordinator before every durable step: what is judged is judged once, and nothing is lost.

Each run is killed at its n-th durable step, for n = 1, 2, 3 … until a run comes to its end. The next run is killed at
its n-th step as well; the third may finish.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fedssh.bundle import open_bundle
from fedssh.charity import enrol, genesis, snapshot
from fedssh.charity.folders import Folders
from fedssh.charity.serve import Coordinator
from fedssh.charity.vault import Vault
from fedssh.charity.verify import audit
from fedssh.files import is_part, sha256_file
from fedssh.history import totals
from fedssh.keys import PrivateKey
from fedssh.ledger import Ledger, verify
from fedssh.manifest import Release
from fedssh.rules.policies import read_policy
from tests.harness.killed import killed_at
from tests.harness.room import AGREED, JudgeInProcess, Room, Rooms, lay_key


@pytest.fixture(autouse=True)
def loaded_key(monkeypatch: pytest.MonkeyPatch, keys: dict[str, PrivateKey]) -> None:
    """Hand out the key that is loaded already: checking its primes takes an eighth of a second, each time."""
    for module in ("vault", "genesis"):
        monkeypatch.setattr(f"fedssh.charity.{module}.load_private", lambda path: keys["coordinator"])


def serve_once(folders: Folders) -> None:
    """What `charity serve` does from its start until everything is done."""
    coordinator = Coordinator(Vault(folders), JudgeInProcess())
    coordinator.recover()
    coordinator.work()


Busy = tuple[Room, dict[str, tuple[str, str]]]


@pytest.fixture
def busy(room: Room) -> Busy:
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
    volumes: int,
    stride: int,
    busy: Busy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
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
def test_killed_at_every_step_of_averaging(policy: str, accuracy: float, new_room: Rooms, tmp_path: Path) -> None:
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
    step = 0
    died = True
    while died:
        step += 1
        folders = Folders(tmp_path / f"killed-{step}")
        folders.make()
        if step > 1:  # making a key of 3072 bits takes long enough to do it only once
            lay_key(folders, keys["coordinator"])

        def begin(folders: Folders = folders) -> None:
            if not genesis.is_begun(folders):
                genesis.begin(folders, tmp_path, AGREED, 0, {}, JudgeInProcess())
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
