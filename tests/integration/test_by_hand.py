"""What the coordinator leaves can be checked without a line of our Python: tar, ssh-keygen, age, sha256sum, jq."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.conftest import Room

TOOLS = ("age", "jq", "sha256sum", "ssh-keygen", "tar")
MISSING = [tool for tool in TOOLS if shutil.which(tool) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")


def shell(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sh", "-euc", script], cwd=folder, capture_output=True, text=True, check=False)


def test_the_three_lines_open_an_accepted_bundle(room: Room, tmp_path: Path) -> None:
    room.submit("alice-1", 0.8)
    room.work()
    record = room.vault.state.current
    bundle = room.folders.evidence / f"{record.of:08}.bundle"
    done = shell(
        f"""tar xf {bundle}
        ssh-keygen -Y verify -f {room.folders.outbox}/allowed_signers -I alice-1 -n submission@fedssh \
            -s manifest.json.sig < manifest.json
        age -d -i {room.folders.key} model.age > model.safetensors
        sha256sum model.safetensors""",
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith('Good "submission@fedssh" signature for alice-1 with RSA key SHA256:')
    assert done.stdout.split()[-2] == record.model["sha256"]


def test_evidence_is_kept_of_the_newest_accepted_bundles_only(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agents.charity.intake.KEPT_EVIDENCE", 2)
    kept = []
    for accuracy in (0.6, 0.55, 0.7, 0.8):
        room.submit("alice-1", accuracy)
        room.work()
        kept.append(room.vault.state.current.of)
    assert sorted(path.name for path in room.folders.evidence.iterdir()) == [f"{of:08}.bundle" for of in kept[-2:]]
    assert not list(room.folders.claimed.rglob("*.bundle"))


def exported(room: Room, folder: Path) -> Path:
    room.submit("alice-1", 0.8)
    room.submit("alice-2", 0.7)
    room.work()
    (folder / "ledger.jsonl").write_bytes(b"".join(record.line() for record in room.vault.ledger.records()))
    shutil.copy(room.folders.outbox / "allowed_signers", folder)
    return folder / "ledger.jsonl"


def verified(root: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    return shell(f"{root}/scripts/verify ledger.jsonl allowed_signers", folder)


def test_an_exported_history_verifies(room: Room, root: Path, tmp_path: Path) -> None:
    lines = exported(room, tmp_path).read_text().splitlines()
    done = verified(root, tmp_path)
    head = json.loads(lines[-1])["hash"]
    assert done.stdout == f"{len(lines)} records, every hash, link and signature is good; head {head}\n", done.stderr


def edit(change: Callable[[dict[str, str]], None]) -> Callable[[list[str]], list[str]]:
    def changed(lines: list[str]) -> list[str]:
        line = json.loads(lines[2])
        change(line)
        return [*lines[:2], json.dumps(line), *lines[3:]]

    return changed


LIES: dict[str, tuple[Callable[[list[str]], list[str]], str]] = {
    "another word": (
        edit(lambda line: line.update(record=line["record"].replace("alice", "malice"))),
        "record 3: its bytes do not have the hash it names",
    ),
    "a record left out": (lambda lines: lines[:2] + lines[3:], "record 3: it does not follow the record before it"),
    "two records swapped": (lambda lines: [lines[1], lines[0], *lines[2:]], "record 1: it does not follow"),
    "another's signature": (
        edit(lambda line: line.update(signature="-----BEGIN SSH SIGNATURE-----\nAAAA\n-----END SSH SIGNATURE-----\n")),
        "record 3: the coordinator's signature does not verify",
    ),
    "nothing": (lambda lines: [], "holds no record"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_changed_history_does_not_verify(lie: str, room: Room, root: Path, tmp_path: Path) -> None:
    path = exported(room, tmp_path)
    change, reason = LIES[lie]
    path.write_text("".join(f"{line}\n" for line in change(path.read_text().splitlines())))
    done = verified(root, tmp_path)
    assert (done.returncode, done.stdout) == (3, "")
    assert reason in done.stderr
