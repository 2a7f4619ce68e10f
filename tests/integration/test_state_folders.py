"""A state folder made before is served, verified and continued; with the real judge, one process for all of them.

For every folder of tests/vectors/histories: it is what it was, what was left unfinished in it is finished, its sites
can open what is released, and go on where they were.
"""

from __future__ import annotations

import datetime
import itertools
import json
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from fedssh.bundle import open_bundle, pending, seal, seal_report
from fedssh.charity import operate, snapshot
from fedssh.charity.cli import charity
from fedssh.charity.folders import Folders
from fedssh.charity.judge.client import Judge, judge_command
from fedssh.charity.release import path_of
from fedssh.charity.serve import Coordinator, serve
from fedssh.charity.vault import Vault
from fedssh.files import sha256_file
from fedssh.forms import canonical
from fedssh.keys import PrivateKey
from fedssh.manifest import Release, Report, Submission, new_id, now
from fedssh.rules.events import HEAD, Local, Record, Released
from fedssh.rules.stored import to_value
from fedssh.weights import write_weights
from tests.vectors.histories import kept

LATER = 7200  # seconds that passed since, for her clock: what a site had used of its rates is over
CLOSES = {"fedavg-yogi": "round-refused"}  # what its server optimizer keeps of earlier rounds leads past a good model


class SharedJudge(Judge):
    """The judge's process, whoever lets it go: all folders have one architecture and one holdout."""

    def stop(self) -> None:
        """Go on."""


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    spec = kept.records("best-free")[0].fields["spec"]
    shared = SharedJudge(judge_command(kept.HOLDOUT, spec, reading=kept.READING))
    yield shared
    Judge.stop(shared)


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> dict[str, PrivateKey]:
    """Everybody's private key by the public one."""
    found = kept.private_keys(kept.unpack_keys(tmp_path_factory.mktemp("keys")))
    return {key.public.line: key for key in found.values()}


class Continued:
    """A folder that somebody goes on with, and its sites.

    Args:
        name: Which.
        home: Where it is unpacked.
    """

    arrivals = itertools.count(2 * 10**18)

    def __init__(
        self, name: str, home: Path, judge: Judge, private: dict[str, PrivateKey], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.folders = Folders(kept.unpack(name, home))
        self.vault = Vault(self.folders)
        self._home, self._judge, self._private, self._monkeypatch = home, judge, private, monkeypatch
        self._coordinator: Coordinator | None = None

    def start(self) -> None:
        """Start her: she finishes what is unfinished, and settles what waits. The second time is another start."""
        if self._coordinator is not None:
            self.vault.ledger.close()
            self.vault = Vault(self.folders)
        newest = datetime.datetime.fromisoformat(self.vault.ledger.record(self.vault.state.sequence).time).timestamp()

        def clock() -> float:
            return max(newest, time.time()) + LATER

        def told() -> str:
            moment = datetime.datetime.fromtimestamp(clock(), datetime.UTC)
            return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")

        self._monkeypatch.setattr("fedssh.ledger.now", told)  # her clock and that of her records are one
        self._coordinator = Coordinator(self.vault, self._judge, now=clock)
        self._coordinator.recover()
        self.work()

    def work(self) -> None:
        """Let her settle what came since."""
        assert self._coordinator is not None
        self._coordinator.work()

    def verify(self) -> None:
        """Have `charity verify` go through everything."""
        done = CliRunner().invoke(charity, ["verify", "--json", "--state", str(self.folders.state)])
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)["records"] == self.vault.refresh().sequence

    def added(self, after: int) -> list[str]:
        """The events of the records above a number."""
        return [record.event for record in self.vault.ledger.iterate(after)]

    def contents(self) -> dict[str, bytes]:
        """Every file but the ledger's, and its records."""
        paths = [path for path in self.folders.state.rglob("*") if path.is_file()]
        files = {str(path): path.read_bytes() for path in paths if not path.name.startswith("ledger.db")}
        return files | {f"record {record.sequence}": record.line() for record in self.vault.ledger.iterate()}

    def waiting(self) -> list[Path]:
        """The bundles that are not settled, and the counts of tries."""
        return [path for folder in (self.folders.inbox, self.folders.claimed) for path in folder.glob("*/*")]

    def submit(self, site: str) -> str:
        """A good model, trained from the newest release; returns its id."""
        state = self.vault.refresh()
        model = self._home / f"{new_id()}.safetensors"
        write_weights(model, good(), dict(state.genesis.spec))
        fields: dict[str, Any] = {
            "recipients": [], "model": pending(), "sealed": pending(), "architecture": state.genesis.architecture,
            "epoch": 3, "metrics": Local(0.2, 0.9),
        }  # fmt: skip
        manifest = Submission(**self._said(site) | fields)
        seal(model, manifest, self._key(site), [self.vault.key.public], self._arrive(site))
        return manifest.id

    def report(self, site: str) -> str:
        """The end of a session; returns the report's id."""
        fields = {"epochs": 3, "checkpoints": 1, "metrics": Local(0.2, 0.9)}
        report = Report(**self._said(site) | fields)
        seal_report(report, self._key(site), self._arrive(site))
        return report.id

    def verdict(self, site: str, submission: str) -> Record:
        """The verdict on a submission or a report, as the door shows it."""
        record = self.vault.ledger.find(site, submission)
        assert record is not None
        assert self.folders.verdict(site, submission).read_bytes() == record.line()
        return record

    def open_release(self) -> None:
        """Every site opens the newest release, and finds in it what its record says."""
        state = self.vault.refresh()
        assert state.release is not None and state.due_release() is None
        said = state.release.said
        assert isinstance(said, Released) and said.model == state.current.model
        for site in state.sites:
            opened = self._home / f"{new_id()}.safetensors"
            bundle = path_of(self.folders, state.release.sequence)
            manifest = open_bundle(bundle, opened, Release, self.vault.key.public, self._key(site.name))
            assert (manifest.sequence, manifest.head) == (state.release.sequence, state.release.hash)
            assert sha256_file(opened) == manifest.model.sha256 == said.model.sha256
            assert canonical(manifest.federation) == canonical(said.federation.fields())

    def _said(self, site: str) -> dict[str, Any]:
        release = self.vault.refresh().release
        assert release is not None
        return {
            "id": new_id(), "sender": site, "builds_on": release.sequence, "session": 3, "examples": 40,
            "started": now(), "created": now(),
        }  # fmt: skip

    def _key(self, site: str) -> PrivateKey:
        member = self.vault.state.member(site)
        assert member is not None
        return self._private[member.key]

    def _arrive(self, site: str) -> Path:
        return self.folders.inbox / site / f"{next(self.arrivals):020}-{'0' * 8}.bundle"


def good() -> dict[str, np.ndarray]:
    """A model that tells the classes apart: which side is brighter, and by how much."""
    side = np.where(np.arange(36) % 6 < 3, -1, 1).astype(np.float32) * 10 / 18
    return {
        "dense1/kernel": np.stack([side, -side], axis=1),
        "dense1/bias": np.array([-1.35, 1.35], np.float32),
        "output/kernel": np.array([[1], [-1]], np.float32),
        "output/bias": np.zeros(1, np.float32),
    }


def shape_of(record: Record) -> tuple[str, ...]:
    """The names of a record's members, and of those of the federation in a release."""
    fields = record.fields
    return (record.event, *sorted(fields), *sorted(fields.get("federation", ()) if record.event == "release" else ()))


def go_on_free(room: Continued) -> None:
    """A submission of every site gets its verdict; the first one is better than anything before."""
    sent = {site.name: room.submit(site.name) for site in room.vault.state.sites}
    room.work()
    first, *others = [room.verdict(site, submission).event for site, submission in sent.items()]
    assert first == "accepted" and set(others) <= {"accepted", "refused"}


def go_on_in_turn(room: Continued) -> None:
    """Whose turn it is sends a model and its report, and the turn is passed on; nothing is taken from another site."""
    before = room.vault.state
    assert before.turn is not None
    other = next(site.name for site in before.sites if site.name != before.turn)
    late, sent, over = room.submit(other), room.submit(before.turn), room.report(before.turn)
    room.work()
    refused = room.verdict(other, late)
    assert refused.event == "refused" and refused.fields["reason"].endswith(f"it is {before.turn}'s turn")
    assert room.verdict(before.turn, sent).event == "accepted"
    assert room.verdict(before.turn, over).event == "report"
    after = room.vault.state
    assert (after.turn, after.turns) == (before.turn_after(before.turn), before.turns + 1)


def go_on_in_rounds(room: Continued, closes: str) -> None:
    """Of whom the open round still waits for send their updates; it closes, and the next one opens."""
    current = room.vault.state.round
    assert current is not None
    missing = [site for site in current.sites if site not in {update.site for update in current.updates}]
    sent = {site: room.submit(site) for site in missing}
    room.work()
    assert {room.verdict(site, submission).event for site, submission in sent.items()} == {"counted"}
    state = room.vault.state
    assert state.last is not None and state.last.round == current.number
    assert state.last.event == closes, state.last.reason
    assert state.round is not None and state.round.number == current.number + 1


@pytest.mark.parametrize("name", kept.FOLDERS)
def test_a_state_folder_made_before_is_verified_and_continued(
    name: str, tmp_path: Path, judge: Judge, private: dict[str, PrivateKey], monkeypatch: pytest.MonkeyPatch
) -> None:
    room = Continued(name, tmp_path, judge, private, monkeypatch)
    history, stored, count = room.folders.published.read_bytes(), kept.state(name), len(kept.records(name))
    stored["genesis"] = {member: value for member, value in stored["genesis"].items() if member not in HEAD}

    # It is what it was.
    assert room.folders.snapshot.exists() == (room.vault.covered[0] > 0)
    assert canonical(to_value(room.vault.state)) == canonical(stored)
    room.verify()
    assert room.contents()[str(room.folders.published)] == history

    # What was left unfinished is finished, once.
    room.start()
    assert room.added(count) == kept.unfinished(name)
    assert room.waiting() == []
    once = room.contents()
    room.start()
    assert room.contents() == once
    room.open_release()

    # It goes on, after what ended it.
    if room.vault.state.finished:
        operate.reopen(room.vault, None, "another session")
        room.work()
    if room.vault.state.policy.rounds:
        go_on_in_rounds(room, CLOSES.get(name, "round-accepted"))
    elif room.vault.state.turn:
        go_on_in_turn(room)
    else:
        go_on_free(room)
    assert room.waiting() == []
    room.open_release()
    assert room.folders.published.read_bytes().startswith(history)
    room.verify()

    # Nothing in it is of a form that was not there before, and from its snapshot the next start changes nothing.
    shapes = {shape_of(record) for other in kept.NAMES for record in kept.records(other)}
    assert {shape_of(record) for record in room.vault.ledger.iterate(count)} <= shapes
    snapshot.write(room.folders.snapshot, room.vault.state, room.vault.key)
    value = json.loads(json.loads(room.folders.snapshot.read_bytes())["snapshot"])
    assert (value["format"], value["state"].keys()) == (1, stored.keys())
    twice, state = room.contents(), room.vault.state
    room.start()
    assert (room.contents(), room.vault.state) == (twice, state)
    assert room.vault.covered == (state.sequence, state.head)


def test_a_state_folder_made_before_is_served(
    tmp_path: Path,
    judge: Judge,
    private: dict[str, PrivateKey],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By what `charity serve` runs, until nothing waits any more."""
    room = Continued("merge-relay", tmp_path, judge, private, monkeypatch)
    begun, stop = room.vault.state.sequence, threading.Event()

    def check() -> None:
        if not room.waiting():
            stop.set()

    with caplog.at_level(logging.INFO, "charity"):
        serve(room.folders, judge, stop, rescan_seconds=0.05, check=check)
    told = [record.getMessage() for record in caplog.records if getattr(record, "event", "") == "start"]
    assert told == ["serving golden from record 16"]
    assert room.added(begun) == kept.unfinished("merge-relay")
    room.open_release()
    room.verify()


def test_another_folder_can_be_made_with_the_program_that_made_them(root: Path, tmp_path: Path) -> None:
    """With the same events as the one that is kept; ids and times are others."""
    command = [sys.executable, "-m", "tests.vectors.histories.make", "--out", str(tmp_path / "out")]
    done = subprocess.run([*command, "merge-ladder"], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    _, *cells, _ = (cell.strip() for cell in done.stdout.splitlines()[-1].split("|"))
    assert cells == ["`merge-ladder`", *kept.table()["merge-ladder"]]
    made = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert made == ["merge-ladder.state.json", "merge-ladder.tar.gz", "merge-ladder.views.json.gz"]
