"""`fedssh verify FILE`, as somebody runs it who has nothing of the coordinator but what she exports."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedssh.charity import operate, verify
from fedssh.charity.cli import charity
from fedssh.errors import DecisionError
from fedssh.history.text import verify_text
from fedssh.keys import PrivateKey
from fedssh.ledger import Ledger
from fedssh.manifest import new_id
from fedssh.rules.events import Accepted, Finished, Refused
from fedssh.rules.replay import JUDGE, MADE, OPERATOR, UNSOUND
from fedssh.signature import allowed_signers
from tests.harness.room import Room

Folder = Callable[..., Path]
HINT = "fedssh: hint: its operator decided otherwise than was agreed, or uses another version of fedssh; ask before you"


def fedssh(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run `fedssh verify` where nothing else lies."""
    command = [sys.executable, "-m", "fedssh.cli", "verify", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture
def export(tmp_path: Path, keys: dict[str, PrivateKey]) -> Folder:
    """Lays a room's export and its allowed_signers into a folder of their own."""
    folder = tmp_path / "elsewhere"

    def lay_out(room: Room, damage: Callable[[bytes], bytes] = lambda lines: lines) -> Path:
        folder.mkdir(exist_ok=True)
        lines = b"".join(record.line() for record in room.vault.ledger.iterate())
        (folder / "ledger.jsonl").write_bytes(damage(lines))
        (folder / "allowed_signers").write_text(allowed_signers({"charity": keys["coordinator"].public}))
        return folder

    return lay_out


def played(room: Room) -> Room:
    for site, accuracy in (("alice-1", 0.8), ("alice-2", 0.7), ("alice-1", 4)):  # 4: the judge cannot score it
        room.submit(site, accuracy)
        room.work()
    return room


def test_a_history_is_verified_without_the_coordinators_folder(
    room: Room, export: Folder, keys: dict[str, PrivateKey]
) -> None:
    folder = export(played(room))
    count, head, owner = room.last().sequence, room.last().hash, keys["coordinator"].public.fingerprint
    text = (
        f"{count} records: every hash, link, signature and decision is right; head {head}\n"
        f"taken on the coordinator's word: what models score, {OPERATOR} (2), {JUDGE} (1)\n"
    )
    for words in ([], ["--head", head], ["--head", room.vault.ledger.record(3).hash]):
        done = fedssh(folder, "ledger.jsonl", *words)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == text + f"signed by {owner}, which record 1 names: compare it with the coordinator's\n"
        done = fedssh(folder, "ledger.jsonl", "--signers", "allowed_signers", *words)
        assert (done.returncode, done.stdout, done.stderr) == (0, text, "")
    done = fedssh(folder, "ledger.jsonl", "--json")
    value = {"records": count, "head": head, "coordinator": owner, "unchecked": {OPERATOR: 2, JUDGE: 1}}
    assert (done.returncode, json.loads(done.stdout)) == (0, value)
    done = fedssh(folder, "ledger.jsonl", "--head", "ab" * 32)
    assert done.returncode == 3 and "error: no record has the hash abab" in done.stderr and not done.stdout


def test_her_own_command_says_the_same(room: Room, capsys: pytest.CaptureFixture[str]) -> None:
    played(room)
    charity.main(["verify", "--state", str(room.folders.state)], standalone_mode=False)
    first, word, models = capsys.readouterr().out.splitlines()
    records = room.last().sequence
    assert first == f"{records} records: every hash, link, signature and decision is right; head {room.last().hash}"
    assert word == f"taken on the coordinator's word: what models score, {OPERATOR} (2), {JUDGE} (1)"
    assert models == "stored models: 2, and every file has the hash that its record names"


def test_rounds_and_what_an_operator_does(new_room: Callable[..., Room], export: Folder) -> None:
    room = new_room(policy="fedavg:server=momentum", schedule="rounds")
    for accuracy in (0.7, 0.8):
        release = room.release()
        for site in ("alice-1", "alice-2"):
            room.submit(site, accuracy, builds_on=release)
        room.work()
    operate.roll_back(room.vault, 1, "it was better")
    room.work()
    operate.finish(room.vault, "it is good enough")
    room.work()
    done = fedssh(export(room), "ledger.jsonl", "--json")
    assert done.returncode == 0, done.stderr
    words = {OPERATOR: 6, MADE: 2, UNSOUND: 1}  # of one result the judge says what was conspicuous
    assert json.loads(done.stdout)["unchecked"] == verify.audit(room.folders)["unchecked"] == words


def without_record_4(lines: bytes) -> bytes:
    first = lines.splitlines(keepends=True)
    return b"".join([*first[:3], *first[4:]])


BEGIN = b"-----BEGIN SSH SIGNATURE-----\\n"
DAMAGE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "another letter": (lambda lines: lines.replace(b"alice-2", b"alice-9", 1), "record 3 hashes to"),
    "another signature": (lambda lines: lines.replace(BEGIN + b"U1", BEGIN + b"V1", 1), "record 1"),
    "a record left out": (without_record_4, "record 5"),
    "half a line": (lambda lines: lines[:-99], "has no end"),
    "nothing": (lambda lines: b"", "the history holds no record"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_history_is_refused_and_its_record_named(room: Room, export: Folder, name: str) -> None:
    damage, words = DAMAGE[name]
    done = fedssh(export(played(room), damage), "ledger.jsonl")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("fedssh: error: ") and words in done.stderr, done.stderr


def better_refused(room: Room, said: dict[str, Any]) -> Refused:
    better = said | {"metrics": {**said["current_metrics"], "accuracy": 0.9}}
    return Refused(**better | {"reason": "accuracy 0.9000 is below the current 0.8000"})


def ended_again(room: Room, said: dict[str, Any]) -> Finished:
    return Finished(reason="it is good enough")


LIES: dict[str, tuple[Callable[[Room, dict[str, Any]], Any], str]] = {
    "a worse one accepted": (
        lambda room, said: Accepted(**said), "the policy best refuses it: accuracy 0.7000 is below the current 0.8000",
    ),
    "a better one refused": (better_refused, "the policy best accepts it: accuracy 0.9000 beats 0.8000"),
    "an end after the end": (ended_again, "the federation is finished already"),
}  # fmt: skip


@pytest.mark.parametrize("name", LIES)
def test_a_lying_history_is_refused_by_whoever_reads_it(room: Room, export: Folder, name: str) -> None:
    """All hashes, links and signatures are right: it is the coordinator who lies."""
    lie, words = LIES[name]
    played(room).lies = True
    operate.finish(room.vault, "it is good enough")
    refused = next(record.said for record in room.vault.ledger.records() if isinstance(record.said, Refused))
    said = vars(refused) | {"submission": new_id(), "model": refused.model}
    event = lie(room, said)
    ledger = Ledger(room.folders.ledger)
    record = ledger.append(event.name, event.fields(), room.vault.key)
    ledger.close()
    folder = export(room)
    for flags in ([], ["--json"], ["--signers", "allowed_signers"]):
        done = fedssh(folder, "ledger.jsonl", *flags)
        assert (done.returncode, done.stdout) == (3, "")
        error, hint = done.stderr.splitlines()
        assert (
            error == f"fedssh: error: record {record.sequence} is {event.name}, by the federation's own rules {words}"
        )
        assert hint.startswith(HINT)
    with pytest.raises(DecisionError, match=f"^record {record.sequence} is {event.name}, by the"):
        verify.audit(room.folders)


def test_what_cannot_be_read_is_a_wrong_setting(room: Room, export: Folder) -> None:
    folder = export(room)
    (folder / "nobody").write_text(allowed_signers({"alice-1": room.keys["alice-1"].public}))
    (folder / "stranger").write_text(allowed_signers({"charity": room.keys["stranger"].public}))
    for words, said in (
        (["elsewhere.jsonl"], "Path 'elsewhere.jsonl' does not exist"),
        ([], "missing argument 'FILE'"),
        (["ledger.jsonl", "--signers", "gone"], "Path 'gone' does not exist"),
        (["ledger.jsonl", "--signers", "nobody"], "nobody has no line for charity"),
    ):
        done = fedssh(folder, *words)
        assert (done.returncode, done.stdout) == (2, "") and said in done.stderr, done.stderr
    done = fedssh(folder, "ledger.jsonl", "--signers", "stranger")
    assert done.returncode == 3 and "record 1" in done.stderr


def test_the_door_says_nothing_of_decisions() -> None:
    at_the_door = {"records": 3, "head": "ab" * 32}
    assert verify_text(at_the_door) == f"3 records: every hash, link and signature is right; head {'ab' * 32}\n"
