"""Sites come and go, as plain processes: one is killed in the middle of its work and comes back, another joins late."""

from __future__ import annotations

import datetime
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

Records = list[dict[str, Any]]
CLOSING = ("round-accepted", "round-refused")
DEADLINE_SECONDS = 10
FEDAVG, MERGE = f"fedavg:deadline={DEADLINE_SECONDS}", "merge"


@dataclass
class Federation:
    """A coordinator and its sites in one folder, each agent a process of its own.

    Attributes:
        marks: Where the history stood at what happened to the sites: number of the newest record then.
    """

    folder: Path
    port: int
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    marks: dict[str, int] = field(default_factory=dict)

    @property
    def coordinator(self) -> str:
        return f"--state={self.folder / 'coordinator'}"

    @property
    def address(self) -> str:
        return f"charity@127.0.0.1:{self.port}"

    @property
    def part(self) -> str:
        """The event that says that a site took part."""
        return "counted" if self.records()[0]["schedule"] == "rounds" else "report"

    def records(self) -> Records:
        path = self.folder / "coordinator/outbox/ledger.jsonl"
        lines = path.read_text().splitlines(keepends=True)
        return [json.loads(json.loads(line)["record"]) for line in lines if line.endswith("\n")]

    def run(self, *words: str) -> str:
        """A command of an agent, to its end."""
        command = [str(Path(sys.executable).with_name(words[0])), *words[1:]]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    def start(self, name: str, *words: str) -> None:
        """An agent that stays, in a process group of its own."""
        command = [str(Path(sys.executable).with_name(words[0])), *words[1:]]
        threads = dict.fromkeys(("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"), "1")
        with self.log(name).open("ab") as log:
            self.processes[name] = subprocess.Popen(
                command, stdout=log, stderr=log, env=os.environ | threads, start_new_session=True
            )

    def start_site(self, site: str) -> None:
        folder = self.folder / "sites" / site
        exchange, data = f"--exchange={folder / 'exchange'}", f"--data={folder / 'data/site.npz'}"
        self.start(f"bob-{site}", "bob", "watch", f"--state={folder / 'bob'}", exchange, "--retry-max=1")
        invitation = f"--invitation={folder / 'data/invitation.json'}"
        self.start(f"alice-{site}", "alice", "train", f"--state={folder / 'alice'}", exchange, data, invitation)

    def kill_site(self, site: str) -> None:
        for name in (f"alice-{site}", f"bob-{site}"):
            os.killpg(self.processes[name].pid, signal.SIGKILL)
            self.processes.pop(name).wait(timeout=10)

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def until(self, condition: Callable[[], object], seconds: float = 120) -> None:
        end = time.monotonic() + seconds
        while not condition():
            gone = [name for name, process in self.processes.items() if process.poll() not in (None, 0)]
            logs = "\n".join(f"{path.name}:\n{path.read_text()[-2500:]}" for path in self.folder.glob("*.log"))
            assert not gone and time.monotonic() < end, f"it did not happen; ended: {gone}\n{logs}"
            time.sleep(0.05)

    def on_the_way(self) -> bool:
        """Whether something waits in the exchange or spool of a site whose bob is there."""
        sites = [name.removeprefix("bob-") for name in self.processes if name.startswith("bob-")]
        patterns = [f"{site}/{inner}" for site in sites for inner in ("exchange/outgoing/*.json", "bob/spool/*.bundle")]
        return any(next((self.folder / "sites").glob(pattern), None) for pattern in patterns)

    def mark(self, name: str) -> None:
        self.marks[name] = self.records()[-1]["sequence"]

    def since(self, mark: str, *events: str, **fields: Any) -> Records:
        """The records after a mark of these events and with these fields."""
        later = self.records()[self.marks[mark] :]
        return [record for record in later if record["event"] in events and fields.items() <= record.items()]


@pytest.fixture(scope="module")
def federation(request: pytest.FixtureRequest, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The whole story: two sites; alice-2 is killed while it trains and comes back; alice-3 joins and goes; the end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        federation = Federation(tmp_path_factory.mktemp("federation"), probe.getsockname()[1])
    try:
        begin(federation, root, request.param)
        lose_a_site(federation)
        gain_sites(federation)
        revoke_a_site(federation)
        federation.run("charity", "finish", federation.coordinator)
        trainers = [process for name, process in federation.processes.items() if name.startswith("alice-")]
        federation.until(lambda: all(process.poll() == 0 for process in trainers) and not federation.on_the_way())
        yield federation
    finally:
        for process in federation.processes.values():
            process.send_signal(signal.SIGTERM)
        for process in federation.processes.values():
            process.wait(timeout=30)


def begin(federation: Federation, root: Path, policy: str) -> None:
    folder = federation.folder
    words = [
        "--sites=2", f"--data-dir={folder}", "--dataset=digits", f"--policy={policy}", "--sessions=1000", "--epochs=3",
        f"{federation.coordinator.replace('--state', '--coordinator')}", f"--holdout={folder / 'holdout.npz'}",
        f"--sites-folder={folder / 'sites'}", f"--keys={folder / 'keys'}", f"--address={federation.address}",
    ]  # fmt: skip
    federation.run("python", str(root / "scripts/setup"), *words)
    listen = f"--listen=127.0.0.1:{federation.port}"
    federation.start("charity", "charity", "serve", federation.coordinator, "--door=embedded", listen)
    for site in ("alice-1", "alice-2"):
        federation.start_site(site)


def lose_a_site(federation: Federation) -> None:
    """Kill alice-2 in its second session, and wait until the others have gone on without it."""
    log = federation.log("alice-alice-2")
    federation.until(lambda: log.exists() and "session 2" in log.read_text())
    federation.kill_site("alice-2")
    federation.mark("killed")
    federation.until(lambda: went_on(federation))


def went_on(federation: Federation) -> bool:
    """Whether alice-1 did a session, or a round closed, without alice-2.

    The update of alice-2 may have been on its way; then it is the round after that which waits for it.
    """
    if federation.records()[0]["schedule"] == "rounds":
        return any("alice-2" in record["missing"] for record in federation.since("killed", *CLOSING))
    return bool(federation.since("killed", "report", site="alice-1"))


def gain_sites(federation: Federation) -> None:
    """Start alice-2 again, let alice-3 join, and wait until both have taken part."""
    federation.mark("restarted")
    federation.start_site("alice-2")
    folder = federation.folder / "sites/alice-3"
    shutil.copytree(federation.folder / "sites/alice-1/data", folder / "data")
    state = f"--state={folder / 'bob'}"
    federation.run("bob", "keygen", state)
    invitation = federation.folder / "alice-3.json"
    key = str(folder / "bob/site_key.pub")
    federation.run(
        "charity", "nodes", "add", federation.coordinator, "alice-3", key, f"--address={federation.address}",
        f"--out={invitation}",
    )  # fmt: skip
    federation.mark("joined")
    federation.run("bob", "join", state, str(invitation))
    shutil.copy(invitation, folder / "data/invitation.json")
    federation.start_site("alice-3")
    federation.until(lambda: federation.since("restarted", federation.part, site="alice-2"))
    federation.until(lambda: federation.since("joined", federation.part, site="alice-3"))


def revoke_a_site(federation: Federation) -> None:
    """Take alice-3 out again, and wait until its trainer has gone home; its bob would go on asking."""
    federation.mark("revoked")
    federation.run("charity", "nodes", "revoke", federation.coordinator, "alice-3")
    trainer = federation.processes["alice-alice-3"]
    federation.until(lambda: trainer.poll() == 0)
    os.killpg(federation.processes["bob-alice-3"].pid, signal.SIGKILL)
    federation.processes.pop("bob-alice-3").wait(timeout=10)


def seconds_between(one: dict[str, Any], two: dict[str, Any]) -> float:
    first, second = (datetime.datetime.fromisoformat(record["time"]) for record in (one, two))
    return (second - first).total_seconds()


def told_with(*policies: str) -> pytest.MarkDecorator:
    """With which policies the story is told; once each, whatever looks at it."""
    return pytest.mark.parametrize("federation", policies, indirect=True, scope="module")


@told_with(FEDAVG, MERGE)
def test_it_ends_with_a_sound_history_and_a_better_model(federation: Federation) -> None:
    federation.run("charity", "verify", federation.coordinator)
    records = federation.records()
    assert [record["event"] for record in records].count("finished") == 1
    best = json.loads(federation.run("charity", "best", federation.coordinator, "--json"))
    assert best["event"] in ("accepted", "round-accepted")
    assert best["metrics"]["accuracy"] > best["genesis"]["accuracy"]


@told_with(FEDAVG)
def test_a_round_closes_at_its_deadline_without_a_killed_site(federation: Federation) -> None:
    (first, *_) = [record for record in federation.since("killed", *CLOSING) if "alice-2" in record["missing"]]
    assert [part["site"] for part in first["updates"]] == ["alice-1"]
    opened = next(r for r in federation.records() if r["event"] == "round-opened" and r["round"] == first["round"])
    assert "alice-2" in opened["sites"]
    assert seconds_between(opened, first) >= DEADLINE_SECONDS


@told_with(MERGE)
def test_nobody_waits_for_a_killed_site_without_rounds(federation: Federation) -> None:
    assert federation.since("killed", "report", site="alice-1")
    events = [record["event"] for record in federation.records()]
    assert not [event for event in events if event.startswith("round-") or event == "counted"]


@told_with(FEDAVG, MERGE)
def test_a_killed_site_takes_part_again(federation: Federation) -> None:
    assert federation.since("restarted", federation.part, site="alice-2")
    told = [json.loads(line) for line in (federation.folder / "sites/alice-2/bob/receipts.jsonl").open()]
    judged = {record.get("submission") for record in federation.records() if record.get("site") == "alice-2"}
    assert {receipt["id"] for receipt in told if receipt["record"]} == judged - {None}


@told_with(FEDAVG)
def test_a_late_site_takes_part_from_the_next_round_on(federation: Federation) -> None:
    records = federation.records()
    opened = [record for record in records if record["event"] == "round-opened"]
    joined, revoked = federation.marks["joined"], federation.marks["revoked"]
    before = [record for record in opened if record["sequence"] <= revoked]
    assert all(("alice-3" in record["sites"]) == (record["sequence"] > joined) for record in before)
    first = next(record for record in opened if record["sequence"] > joined)
    counted = [record for record in records if record["event"] == "counted" and record["site"] == "alice-3"]
    assert counted and all(record["round"] >= first["round"] for record in counted)


@told_with(FEDAVG, MERGE)
def test_a_late_site_begins_from_the_newest_model(federation: Federation) -> None:
    (first, *_) = federation.since("joined", federation.part, site="alice-3")
    assert first["builds_on"] > federation.marks["joined"]


@told_with(FEDAVG, MERGE)
def test_a_revoked_site_goes_home_and_says_why(federation: Federation) -> None:
    said = federation.log("alice-alice-3").read_text()
    assert "alice: the coordinator does not let this site in any more, since " in said
    assert "not enrolled with this key any more" in said.splitlines()[-1]
    assert said.splitlines()[-1].endswith("trained here")


@told_with(MERGE)
def test_mixes_tell_their_share(federation: Federation) -> None:
    for record in federation.records():
        if record["event"] == "accepted":
            assert 0 < record["share"] <= 1 and record["staleness"] >= 0
            assert (record["candidate"] == record["model"]) == (record["share"] == 1)
