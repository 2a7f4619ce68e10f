"""`bob watch` as it runs: against both doors, a real vault, and what can happen to them."""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from fedssh.charity import enrol
from fedssh.manifest import Claim, SessionOver, new_id, now
from fedssh.rules.events import Finished, Local
from fedssh.weights import read_header
from scripts.demo.federation import free_port
from tests.harness.host import stock_host
from tests.harness.proxies import Proxy, running
from tests.harness.room import Room, Rooms
from tests.harness.waiting import last_words, until

DOORS = ["embedded", pytest.param("sshd", marks=pytest.mark.sshd)]
GATE = {"gate": "on", "margin": 0.01}
ROUNDS = {"policy": "fedavg:fraction=1,minimum=0.5,deadline=600,sites=1", "schedule": "rounds", **GATE}
ONE_DOOR = pytest.mark.parametrize("stage", ["embedded"], indirect=True)  # where the kind of door does not matter
QUICK = ("--retry", "0.2", "--retry-max", "1", "--rescan", "0.5", "--timeout", "5")


@dataclass
class Stage:
    """A coordinator with a door, and a site with a Bob; Alice is played by the test."""

    room: Room
    kind: str
    folder: Path
    port: int
    processes: list[subprocess.Popen[str]] = field(default_factory=list)
    door: subprocess.Popen[str] | None = None
    bobs: int = 0
    over: threading.Event = field(default_factory=threading.Event)
    busy: threading.Lock = field(default_factory=threading.Lock)

    @property
    def state(self) -> Path:
        return self.folder / "site"

    @property
    def exchange(self) -> Path:
        return self.folder / "exchange"

    def open_door(self) -> None:
        embedded = ["--embedded"] if self.kind == "embedded" else []
        words = ["fedssh.charity.cli", "door", "--state", str(self.room.folders.state), *embedded]
        self.door = self.start([*words, "--listen", f"127.0.0.1:{self.port}"], self.folder / "door.log")
        self.wait(lambda: bool(self.banner()))

    def banner(self) -> bytes:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as client:
            return client.recv(4)
        return b""

    def close_door(self) -> None:
        assert self.door
        self.door.terminate()
        self.door.wait(10)

    def start(self, words: list[str], log: Path) -> subprocess.Popen[str]:
        with log.open("a") as out:
            process = subprocess.Popen([sys.executable, "-m", *words], stderr=out, stdout=out, text=True)
        self.processes.append(process)
        return process

    def join(self) -> None:
        user = getpass.getuser() if self.kind == "sshd" else "charity"
        self.state.mkdir()
        for name in ("site_key", "site_key.pub"):
            key = self.room.keys["alice-1"].path
            shutil.copy(key.with_name(name.replace("site_key", key.name)), self.state / name)
        invitation = enrol.invitation(self.room.vault, "alice-1", f"{user}@127.0.0.1:{self.port}")
        (self.folder / "invitation.json").write_text(json.dumps(invitation))
        done = self.run("join", "--state", self.state, self.folder / "invitation.json")
        assert done.returncode == 0, done.stderr
        assert "the door lets this site in" in done.stdout

    def join_by(self, *words: str) -> str:
        """Join once more, in another way."""
        done = self.run("join", "--state", self.state, self.folder / "invitation.json", *words)
        assert done.returncode == 0 and "the door lets this site in" in done.stdout, done.stderr
        return done.stdout

    def status(self, *words: str) -> str:
        return self.run("status", "--state", self.state, "--exchange", self.exchange, *words).stdout

    def a_day(self, bob: Bob) -> None:
        """Ship what is better, and fetch what comes of it."""
        bob.says("release", sequence=4)
        better = self.publish(0.75)
        assert bob.says("verdict", id=better)["verdict"] == "accepted"
        bob.says("release", accuracy=0.75)

    def run(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "fedssh.bob.cli", *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    def watch(self, *words: str) -> Bob:
        self.bobs += 1
        log = self.folder / f"bob-{self.bobs}.log"
        places = ["--state", str(self.state), "--exchange", str(self.exchange)]
        return Bob(
            self, log, self.start(["fedssh.bob.cli", "--log-format", "json", "watch", *places, *QUICK, *words], log)
        )

    def publish(self, accuracy: float, session: int = 1, epoch: int = 1) -> str:
        """A checkpoint of Alice's that the stand-in judge scores so."""
        id, outgoing = new_id(), self.exchange / "outgoing"
        outgoing.mkdir(parents=True, exist_ok=True)
        model = self.room.model(accuracy)
        claim = Claim(
            id=id, architecture=read_header(model).architecture, builds_on=self.room.release(), session=session,
            epoch=epoch, examples=9, metrics=Local(0.5, accuracy), started=now(), created=now(),
        )  # fmt: skip
        os.rename(model, outgoing / f"{id}.safetensors")
        self.put(outgoing / f"{id}.json", claim.to_bytes())
        return id

    def report(self, session: int = 1) -> str:
        over = SessionOver(
            id=new_id(), builds_on=self.room.release(), session=session, epochs=3, checkpoints=1, examples=9,
            metrics=None, started=now(), created=now(),
        )  # fmt: skip
        self.put(self.exchange / "outgoing" / f"{over.id}.json", over.to_bytes())
        return over.id

    def put(self, path: Path, data: bytes) -> None:
        part = path.with_name(f".{path.name}.part")
        part.write_bytes(data)
        part.rename(path)

    def judging(self) -> None:
        """What `charity serve` does, in a thread."""
        while not self.over.wait(0.02):
            with self.busy:
                self.room.work()

    def receipts(self) -> dict[str, str]:
        path = self.state / "receipts.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return {receipt["id"]: receipt["verdict"] for receipt in map(json.loads, lines)}

    def heard(self) -> dict[str, Any]:
        """What Alice is told about the door."""
        with contextlib.suppress(FileNotFoundError):
            value: dict[str, Any] = json.loads((self.exchange / "incoming" / "status.json").read_bytes())
            return value
        return dict.fromkeys(("newest", "confirmed", "refused_since", "reason"))

    def wait(self, condition: Callable[[], object], seconds: float = 15) -> None:
        until(condition, seconds, lambda: last_words(self.folder))


@dataclass
class Bob:
    """A running `bob watch`."""

    stage: Stage
    log: Path
    process: subprocess.Popen[str]

    def events(self, *kinds: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [event for event in lines if not kinds or event["event"] in kinds]

    def says(self, kind: str, **fields: Any) -> dict[str, Any]:
        """Wait for an event of this kind and these fields."""
        found: list[dict[str, Any]] = []

        def look() -> bool:
            found[:] = [event for event in self.events(kind) if fields.items() <= event.items()]
            return bool(found)

        self.stage.wait(look)
        return found[-1]

    def ends(self, code: int) -> str:
        self.stage.wait(lambda: self.process.poll() is not None)
        assert self.process.returncode == code, self.log.read_text()
        return self.log.read_text()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.ends(0)


@pytest.fixture(params=DOORS)
def stage(request: pytest.FixtureRequest, new_room: Rooms, tmp_path: Path) -> Iterator[Stage]:
    """A stage with a door of the kind that the parameter names, and what else it says is agreed."""
    kind, agreement = request.param if isinstance(request.param, tuple) else (request.param, {})
    room = new_room(**agreement)
    stage = Stage(room, kind, tmp_path, free_port())
    room.release()
    stage.open_door()
    judging = threading.Thread(target=stage.judging)
    try:
        stage.join()
        judging.start()
        yield stage
    finally:
        stage.over.set()
        if judging.ident:
            judging.join()
        for process in stage.processes:
            process.terminate()  # a door that is killed leaves its sshd behind
        for process in stage.processes:
            process.wait(30)


def test_a_day_at_a_site(stage: Stage) -> None:
    bob = stage.watch()
    first = bob.says("release", sequence=4)
    assert first["accuracy"] == 0.5 and (stage.exchange / "incoming" / "00000004.json").exists()
    better = stage.publish(0.75)
    verdict = bob.says("verdict", id=better)
    assert verdict["verdict"] == "accepted" and "accepted session 1 epoch 1: accuracy 0.75" in verdict["text"]
    assert verdict["return_ms"] < 5000 and verdict["ship_ms"] > 0 and verdict["total_ms"] >= verdict["ship_ms"]
    sealed = bob.says("sealed", id=better)
    assert 0 <= sealed["detect_ms"] < 400 and sealed["seal_ms"] > 0
    bob.says("release", accuracy=0.75)
    worse, report = stage.publish(0.6, 2), stage.report(2)
    refused = bob.says("verdict", id=worse)
    assert refused["verdict"] == "refused" and refused["reason"]
    assert bob.says("verdict", id=report)["verdict"] == "report"
    assert stage.receipts() == {better: "accepted", worse: "refused", report: "report"}
    status = json.loads(stage.run("status", "--state", stage.state, "--exchange", stage.exchange, "--json").stdout)
    assert status["running"] and status["spool"] == [] and status["totals"]["sent"] == 3
    assert status["last_verdict"]["id"] == worse and status["release"]["metrics"]["accuracy"] == 0.75
    second = stage.run("watch", "--state", stage.state, "--exchange", stage.exchange)
    assert second.returncode == 2 and "bob: error: another bob works in" in second.stderr
    with open(f"/proc/{bob.process.pid}/status") as file:
        peak = next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))
    assert peak < 64e6
    loaded = Path(f"/proc/{bob.process.pid}/maps").read_text()
    assert "numpy" not in loaded and "tensorflow" not in loaded
    bob.stop()
    assert list((stage.exchange / "outgoing").iterdir()) == []


@ONE_DOOR
def test_without_a_door_the_newest_waits(stage: Stage) -> None:
    bob = stage.watch()
    bob.says("release")
    stage.close_door()
    old = stage.publish(0.6, 1, 1)
    bob.says("sealed", id=old)
    newest = stage.publish(0.7, 1, 2)
    bob.says("superseded", id=old)
    waiting = bob.says("unreachable", waiting=1)
    assert (
        f"127.0.0.1:{stage.port} " in waiting["text"] and "1 bundle waits in the spool, next try in" in waiting["text"]
    )
    stage.open_door()
    bob.says("verdict", id=newest)
    assert stage.receipts() == {old: "superseded", newest: "accepted"}
    bob.says("release", accuracy=0.7)
    bob.stop()


@ONE_DOOR
def test_killed_and_started_again(stage: Stage) -> None:
    bob = stage.watch()
    bob.says("release")
    with stage.busy:  # nothing is judged meanwhile
        id = stage.publish(0.8)
        bob.says("shipped", id=id)
        bob.process.kill()
        bob.process.wait()
    again = stage.watch()
    again.says("verdict", id=id, verdict="accepted")
    assert not again.events("sealed", "shipped")  # the door had it
    again.says("release", accuracy=0.8)
    again.stop()


def test_a_revoked_site_is_told_so_and_goes_on_when_it_is_enrolled_again(stage: Stage) -> None:
    bob = stage.watch("--wait", "60")
    bob.says("release")
    stage.wait(lambda: stage.heard()["confirmed"])
    with stage.busy:
        enrol.revoke(stage.room.vault, "alice-1", "left the federation")
    said = bob.says("refused")
    assert "ask the coordinator's operator" in said["text"] and "next try in" in said["text"]
    stage.wait(lambda: len(bob.events("refused")) > 2)
    heard = stage.heard()
    assert heard["reason"].endswith(
        "refused: alice-1 is not enrolled with this key any more"
    )  # and not only: no log-in
    assert heard["refused_since"] <= said["time"].replace("+00:00", "Z")
    status = stage.run("status", "--state", stage.state, "--exchange", stage.exchange).stdout
    assert f"refused      since {heard['refused_since']}: " in status
    id = stage.publish(0.75)
    bob.says("sealed", id=id)
    with stage.busy:
        enrol.add(stage.room.vault, "alice-1", stage.state / "site_key.pub", "site")
    bob.says("verdict", id=id, verdict="accepted")
    stage.wait(lambda: stage.heard()["refused_since"] is None)
    bob.stop()


@ONE_DOOR
def test_a_drain_that_is_refused_ends(stage: Stage) -> None:
    with stage.busy:
        enrol.revoke(stage.room.vault, "alice-1", "left the federation")
    stage.publish(0.75)
    said = stage.watch("--drain").ends(2)
    assert "bob: error: " in said and "revoked" in said and said.count('"event": "refused"') == 4
    assert len(list((stage.state / "spool").glob("*.bundle"))) == 1


def test_what_an_older_bob_followed_is_completed(stage: Stage) -> None:
    bob = stage.watch()
    bob.says("release", sequence=4)
    stage.wait(lambda: stage.heard()["confirmed"])
    bob.stop()
    incoming = stage.exchange / "incoming"
    note = json.loads((incoming / "00000004.json").read_bytes())
    genesis = (incoming / "genesis.json").read_bytes()
    (incoming / "00000004.json").write_text(json.dumps({name: note[name] for name in ("site", "manifest")}))
    for path in (incoming / "genesis.json", incoming / "status.json", stage.state / "genesis.json"):
        path.unlink()
    bob = stage.watch()
    bob.says("release", sequence=4)
    again = json.loads((incoming / "00000004.json").read_bytes())
    assert again.keys() == {"site", "manifest", "signature", "record"}
    assert again["manifest"] == note["manifest"] and again["record"] == note["record"]
    assert (incoming / "genesis.json").read_bytes() == genesis
    bob.stop()


def test_another_host_key_ends_bob_at_once(stage: Stage) -> None:
    bob = stage.watch()
    bob.says("release")
    stage.close_door()
    host_key = stage.room.folders.host_key
    for path in (host_key, host_key.with_name("host_key.pub")):
        path.unlink()
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", host_key], check=True)
    stage.open_door()
    said = bob.ends(3)
    assert "answered with host key SHA256:" in said and "bob: hint: if the host was rebuilt" in said


@ONE_DOOR
@pytest.mark.parametrize(
    ("followed", "words"),
    [(True, "does not follow record 4 as"), (False, "record 4 is not the one that this site has seen")],
)
def test_a_coordinator_that_goes_back_ends_bob(stage: Stage, followed: bool, words: str) -> None:
    bob = stage.watch()
    bob.says("release", sequence=4)
    bob.stop()
    seen = stage.state / "seen.json"
    before = json.loads(seen.read_bytes())["head"]
    seen.write_text(json.dumps({"sequence": 4, "head": "c" * 64}))
    if followed:  # else the history is followed once more from its beginning
        path = stage.state / "followed.json"
        path.write_text(path.read_text().replace(f'"head":"{before}"', f'"head":"{"c" * 64}"'))
    stage.publish(0.9)
    bob = stage.watch()
    said = bob.ends(3)
    assert words in said and "its operator" in said
    assert len(list((stage.exchange / "incoming").glob("0*.json"))) == 1


@ONE_DOOR
def test_a_decision_that_was_not_agreed_ends_bob_unless_he_shall_only_tell(stage: Stage) -> None:
    bob = stage.watch()
    bob.says("release", sequence=4)
    stage.room.lies = True
    with stage.busy:
        lie = Finished(reason="it is good enough")
        number = stage.room.vault.append(lie).sequence
        assert stage.room.vault.append(lie).sequence == number + 1  # an end after the end
    said = bob.ends(3)
    why = f"record {number + 1} is finished, by the federation's own rules the federation is finished already"
    assert f"bob: error: {why}" in said and "bob: hint: its operator decided otherwise than was agreed" in said
    assert said.count(why) == 2  # as the reason of `stopped`, too
    assert [path.name for path in (stage.exchange / "incoming").glob("0*.json")] == ["00000004.json"]
    bob = stage.watch("--decisions", "tell")
    assert bob.says("decision")["text"] == why
    assert bob.says("release", sequence=number + 2)["state"] == "finished"
    bob.stop()
    assert len(bob.events("decision")) == 1
    bob = stage.watch()  # what was brought in is not judged once more
    bob.says("connected")
    stage.wait(lambda: stage.heard()["confirmed"])
    bob.stop()
    wrong = stage.run("watch", "--state", stage.state, "--exchange", stage.exchange, "--decisions", "ignore")
    assert wrong.returncode == 2 and "refuse" in wrong.stderr


@pytest.mark.parametrize("stage", [("embedded", ROUNDS)], indirect=True)
def test_an_update_is_counted_and_the_round_closes(stage: Stage) -> None:
    bob = stage.watch()
    bob.says("release", accuracy=0.5)
    with stage.busy:
        update = stage.publish(0.75)
    assert bob.says("verdict", id=update)["verdict"] == "counted"
    status = [str(stage.state), "--exchange", str(stage.exchange)]
    assert ", round 1 is open" in stage.run("status", "--state", *status).stdout
    with stage.busy:
        stage.room.submit("alice-2", 0.95, examples=9)  # as many as alice-1
    told = bob.says("round", round=1)
    assert told["verdict"] == "round-accepted" and "round 1 accepted: fedavg of 2 updates: " in told["text"]
    bob.says("release", accuracy=0.85)
    assert stage.receipts() == {update: "counted"}
    assert "counted session 1 epoch 1" in stage.run("status", "--state", *status).stdout
    bob.stop()


@pytest.mark.parametrize("stage", [("embedded", {"policy": "polyak:keep=0.5", **GATE})], indirect=True)
def test_a_verdict_on_a_mix_is_about_what_was_sent(stage: Stage) -> None:
    bob = stage.watch()
    bob.says("release", accuracy=0.5)
    better = stage.publish(0.9)
    assert bob.says("verdict", id=better)["verdict"] == "accepted"
    bob.says("release", accuracy=0.7)
    assert stage.receipts() == {better: "accepted"}
    bob.stop()


@ONE_DOOR
def test_drain_ships_waits_and_ends(stage: Stage) -> None:
    checkpoint, report = stage.publish(0.65), stage.report()
    stage.watch("--drain").ends(0)
    assert stage.receipts() == {checkpoint: "accepted", report: "report"}
    stage.watch("--drain").ends(0)  # nothing to do
    stage.close_door()
    stage.publish(0.7, 2)
    said = stage.watch("--drain").ends(4)
    assert "bob: error: 127.0.0.1" in said


@ONE_DOOR
@pytest.mark.parametrize("kind", ["socks5", "http"])
def test_a_day_through_a_proxy(stage: Stage, kind: str) -> None:
    """The door stands at another address and port than in the invitation, and only the proxy knows its name."""
    names = {"door.invalid": ("127.0.0.1", stage.port)}
    with running(Proxy(kind, ("site", "s3cret"), names)) as proxy:
        shown = f"{kind}://127.0.0.1:{proxy.port}"
        told = stage.join_by("--address", "door.invalid:443", "--via", proxy.url)
        assert f"alice-1 works with charity@door.invalid:443 through {shown}\n" in told
        bob = stage.watch()  # which is not told again
        stage.a_day(bob)
        assert bob.says("started")["via"] == shown
        assert set(proxy.asked) == {("door.invalid", 443)} and len(proxy.asked) == 2
        said = stage.status() + stage.status("--json") + bob.log.read_text() + told
        assert f"via          {shown}\n" in said and "s3cret" not in said
    bob.process.kill()
    bob.process.wait()
    waits = stage.watch()
    assert waits.says("unreachable")["reason"].startswith(f"the proxy {shown} cannot be reached")
    waits.stop()
    holders = [path for path in stage.state.rglob("*") if path.is_file() and b"s3cret" in path.read_bytes()]
    assert holders == [stage.state / "via.json"] and holders[0].stat().st_mode & 0o77 == 0


@ONE_DOOR
def test_a_flag_or_a_variable_beats_the_way_that_was_kept(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.join_by("--via", "direct")
    (stage.folder / "way").write_text("socks5://127.0.0.1:1\n")
    done = stage.run("join", "--state", stage.state, stage.folder / "invitation.json", "--via", f"@{stage.folder}/way")
    assert done.returncode == 4 and "this site has joined all the same" in done.stderr
    assert "the proxy socks5://127.0.0.1:1 cannot be reached" in done.stderr
    assert f"via          @{stage.folder}/way\n" in stage.status()
    with running(Proxy("http")) as proxy:
        bob = stage.watch("--via", proxy.url)
        stage.a_day(bob)
        bob.stop()
        assert len(proxy.asked) == 1
        monkeypatch.setenv("BOB_VIA", proxy.url)
        bob = stage.watch("--drain")
        assert bob.says("connected") and bob.ends(0)
        assert len(proxy.asked) == 2
    bob = stage.watch("--via", "direct")
    bob.says("connected")
    bob.stop()
    monkeypatch.setenv("BOB_VIA", "socks5://site:s3cret/@proxy.example:1080")
    wrong = stage.run("watch", "--state", stage.state, "--exchange", stage.exchange)
    assert wrong.returncode == 2 and "BOB_VIA: expected socks5://host:port" in wrong.stderr
    assert "s3cret" not in wrong.stderr + wrong.stdout


@ONE_DOOR
@pytest.mark.sshd
def test_a_day_over_a_jump_host(stage: Stage, tmp_path: Path) -> None:
    options = f'restrict,port-forwarding,permitopen="127.0.0.1:{stage.port}"'
    with stock_host(tmp_path / "jump", stage.room.keys["alice-1"], options) as jump:
        via = f"ssh://{getpass.getuser()}@127.0.0.1:{jump.port}"
        public = " ".join((jump.folder / "host.pub").read_text().split()[:2])
        unpinned = stage.run("join", "--state", stage.state, stage.folder / "invitation.json", "--via", via)
        assert unpinned.returncode == 2 and f"the host key of {via} is not pinned" in unpinned.stderr
        assert "works with" not in unpinned.stdout
        assert f" through {via}\n" in stage.join_by("--via", via, "--via-host-key", f"{public} a comment")
        bob = stage.watch()
        stage.a_day(bob)
        jump.stop()
        jump.make_host_key()
        jump.start()
        bob.stop()
        said = stage.watch().ends(3)
        assert f"bob: error: the jump host 127.0.0.1:{jump.port} answered with host key SHA256:" in said
        public = " ".join((jump.folder / "host.pub").read_text().split()[:2])
        words: list[str | Path] = [
            "join",
            "--state",
            stage.state,
            stage.folder / "invitation.json",
            "--via-host-key",
            public,
        ]
        changed = stage.run(*words)
        assert changed.returncode == 3 and "this site has pinned SHA256:" in changed.stderr
        assert stage.run(*words, "--again").returncode == 0
        known = tmp_path / "known"
        (stage.state / "via_known_hosts").rename(known)
        stage.join_by("--via-known-hosts", str(known))
        bob = stage.watch()
        bob.says("connected")
        bob.stop()
