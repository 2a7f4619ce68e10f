"""What the coordinator leaves can be checked without a line of our Python: tar, ssh-keygen, age, sha256sum, jq."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedssh.charity.cli import charity
from fedssh.errors import AgentError
from fedssh.forms import canonical
from fedssh.history import published
from fedssh.keys import PrivateKey
from fedssh.rules.events import Blob, Genesis
from fedssh.signature import LEDGER, allowed_signers, sign
from fedssh.verify import check_export
from tests.harness.room import Room

TIME = "2026-01-31T12:00:00.123Z"
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
    assert done.stdout.split()[-2] == record.model.sha256


def test_evidence_is_kept_of_the_newest_accepted_bundles_only(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedssh.charity.intake.KEPT_EVIDENCE", 2)
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


# Exports that are not what they must be: scripts/verify and `charity verify FILE` refuse the same.


class Forger:
    """Somebody who has the coordinator's key, and makes lines with it that no coordinator makes.

    Decisions are as they must be: a federation begins, and two auditors are enrolled, with words that nobody knows.
    """

    def __init__(self, key: PrivateKey) -> None:
        self.key = key
        self.texts = [canonical(self.fields(number)) for number in (1, 2, 3)]

    def fields(self, number: int) -> dict[str, Any]:
        if number == 1:
            begun = Genesis(
                federation="test", spec={}, plan={"metric": "accuracy"}, policy="best", schedule="free", sessions=None,
                coordinator=self.key.public.line, model=Blob(sha256="ab" * 32, size=9), metrics={"accuracy": 0.5},
                examples=1, seed=0,
            )  # fmt: skip
            return begun.fields() | {"event": "genesis", "sequence": 1, "previous": "", "time": TIME}
        said = {
            "event": "site-added",
            "sequence": number,
            "previous": "",
            "time": TIME,
            "site": f"alice-{number - 1}",
            "role": "auditor",
            "key": f"a key of alice-{number - 1}",
            "reason": 'é " \\ \n \x7f \U0001f600',
        }
        numbers = [0, -1, 0.0, 0.1, -2.5, 1e-7, 1e16, 123456789012345680.0, 0.8836, 1e300, 2**60, 100, 20.0, 5e-324]
        return said | {"numbers": numbers, "deep": {"b": [[], {}, None, True, False, ""], "a": {"": 1}}}

    def lines(self, change: Callable[[int, bytes], bytes] = lambda number, text: text) -> list[dict[str, Any]]:
        """The lines of a chain whose texts were changed before they were signed."""
        previous, lines = "0" * 64, []
        for number in (1, 2, 3):
            text = change(number, canonical(self.fields(number) | {"previous": previous}))
            previous = hashlib.sha256(text).hexdigest()
            lines += [{"hash": previous, "record": text.decode(), "sequence": number, "signature": self.sign(text)}]
        return lines

    def sign(self, text: bytes) -> str:
        return sign(text, self.key, LEDGER)

    def text(self, *words: tuple[bytes, bytes]) -> bytes:
        """An export whose second record says something in other words."""

        def change(number: int, text: bytes) -> bytes:
            for old, new in words if number == 2 else ():
                assert old in text
                text = text.replace(old, new, 1)
            return text

        return plain(self.lines(change))

    def line(self, change: Callable[[dict[str, Any]], Any]) -> bytes:
        """An export whose second line was changed after it was signed."""
        lines = self.lines()
        change(lines[1])
        return plain(lines)

    def bytes(self, old: bytes, new: bytes) -> bytes:
        """An export in whose second line some bytes are others."""
        lines = plain(self.lines()).splitlines(keepends=True)
        assert old in lines[1]
        return b"".join([lines[0], lines[1].replace(old, new, 1), lines[2]])


def plain(lines: list[dict[str, Any]]) -> bytes:
    return b"".join(canonical(line) + b"\n" for line in lines)


def keygen(text: bytes, key: PrivateKey, folder: Path, *flags: str, namespace: str = LEDGER) -> str:
    """A signature as ssh-keygen makes it."""
    path, message = folder / "signing_key", folder / "message"
    path.write_bytes(key.pem)
    path.chmod(0o600)
    message.write_bytes(text)
    (folder / "message.sig").unlink(missing_ok=True)
    words = ["ssh-keygen", "-Y", "sign", "-q", "-f", str(path), "-n", namespace, *flags, str(message)]
    subprocess.run(words, check=True, capture_output=True)
    return (folder / "message.sig").read_text()


def signed_otherwise(forger: Forger, folder: Path, *flags: str, namespace: str = LEDGER) -> bytes:
    return forger.line(
        lambda line: line.update(
            signature=keygen(line["record"].encode(), forger.key, folder, *flags, namespace=namespace)
        )
    )


Export = Callable[[Forger, Path], bytes]
GOOD: dict[str, Export] = {
    "as the ledger has it": lambda forger, folder: plain(forger.lines()),
    "as the door prints it": lambda forger, folder: b"".join(published.export(plain(forger.lines()).splitlines(True))),
    "as ssh-keygen signs it": lambda forger, folder: signed_otherwise(forger, folder),
}
SEQUENCE = b'"sequence":2'
BAD: dict[str, tuple[Export, str]] = {
    # What was true of the tools before: jq takes the last of two members, 2.0 and "2" for 2, and NaN for null.
    "a member twice in the record": (lambda f, _: f.text((b'"site":', b'"site":"eve","site":')), "twice|canonical"),
    "a member twice in the line": (lambda f, _: f.bytes(b'{"hash"', b'{"hash":"x","hash"'), "not a ledger line"),
    "a record twice in the line": (lambda f, _: f.bytes(b',"record"', b',"record":"{}","record"'), "not a ledger line"),
    "a member more in the line": (lambda f, _: f.bytes(b'{"hash"', b'{"aa":1,"hash"'), "not a ledger line"),
    "NaN": (lambda f, _: f.text((b"[0,", b"[NaN,")), "canonical"),
    "nan": (lambda f, _: f.text((b"[0,", b"[nan,")), "canonical"),
    "infinity": (lambda f, _: f.text((b"[0,", b"[-Infinity,")), "canonical"),
    "1e999": (lambda f, _: f.text((b"[0,", b"[1e999,")), "canonical"),
    "a sequence in quotes": (lambda f, _: f.text((SEQUENCE, b'"sequence":"2"')), "sequence is not 2|calls itself"),
    "a sequence with a point": (lambda f, _: f.text((SEQUENCE, SEQUENCE + b".0")), "sequence is not 2|calls itself"),
    "a sequence with an exponent": (lambda f, _: f.text((SEQUENCE, b'"sequence":2e0')), "canonical"),
    "another sequence": (lambda f, _: f.text((SEQUENCE, b'"sequence":7')), "sequence is not 2|calls itself"),
    "no sequence": (lambda f, _: f.text((SEQUENCE + b",", b"")), "sequence is not 2|calls itself None"),
    "a sequence one level down": (
        lambda f, _: f.text((SEQUENCE, b'"sequencf":{"sequence":2}')), "sequence is not 2|calls itself None"
    ),
    "a lying line": (lambda f, _: f.line(lambda line: line.update(sequence=7)), "calls it 7|record 7 stands where"),
    "a line in quotes": (lambda f, _: f.line(lambda line: line.update(sequence="2")), "not a ledger line"),
    "a line with a point": (lambda f, _: f.line(lambda line: line.update(sequence=2.0)), "not a ledger line"),
    "spaces in the record": (lambda f, _: f.text((b'"site":', b'"site": ')), "canonical"),
    "spaces in the line": (lambda f, _: f.bytes(b'{"hash"', b'{ "hash"'), "not a ledger line"),
    "members not sorted": (lambda f, _: f.text((b'{"deep":', b'{"zeep":')), "sorted|canonical"),
    "a comma too many": (lambda f, _: f.text((b"[[],", b"[[,],")), "canonical"),
    "a bracket that closes another": (lambda f, _: f.text((b"[[],", b"[[},")), "canonical"),
    "no object": (lambda f, _: f.text((b'{"deep"', b'[{"deep"'), (b'"}', b'"}]')), "canonical|sequence"),
    "two objects": (lambda f, _: f.text((b'{"deep"', b'{}{"deep"')), "canonical"),
    "an escape that is none": (lambda f, _: f.text((b"alice-1", b"\\u0061lice-1")), "canonical"),
    "zeros before a number": (lambda f, _: f.text((b"[0,", b"[00,")), "canonical"),
    "zeros after a number": (lambda f, _: f.text((b"0.8836", b"0.88360")), "canonical"),
    "a minus before zero": (lambda f, _: f.text((b"[0,", b"[-0,")), "canonical"),
    "an exponent that needs not be": (lambda f, _: f.text((b"0.8836", b"8.836e-1")), "canonical"),
    "nested too deep": (lambda f, _: f.text((b"[[],", b"[" * 21 + b"]" * 20 + b",")), "deeper than 16 levels"),
    "65,537 bytes": (lambda f, _: f.text((b"alice-1", b"a" * 66_000)), "65,53[67]"),
    "a letter escaped": (lambda f, _: f.bytes(b"alice-1", b"\\u0061lice-1"), "not a ledger line"),
    "a zero that a shell drops": (lambda f, _: f.bytes(b"alice-1", b"alice-1\\u0000"), "not a ledger line"),
    "half a surrogate": (lambda f, _: f.bytes("é".encode(), b"\\ud800"), "not a ledger line"),
    "no UTF-8": (lambda f, _: f.bytes("é".encode(), b"\xe9"), "not UTF-8|not a ledger line"),
    "another word": (lambda f, _: f.bytes(b"alice-1", b"malice-1"), "bytes do not have the hash|hashes to"),
    "another hash": (lambda f, _: f.line(lambda line: line.update(hash="ab" * 32)), "do not have the hash|hashes to"),
    "a record left out": (lambda f, _: plain([f.lines()[0], f.lines()[2]]), "record [23]"),
    "two records swapped": (lambda f, _: plain([f.lines()[1], f.lines()[0]]), "is not 1|stands where record 1"),
    "no beginning": (lambda f, _: plain(f.lines()[1:]), "is not 1|stands where record 1"),
    "another's signature": (
        lambda f, _: f.line(lambda line: line.update(signature=f.lines()[2]["signature"])), "signature"
    ),
    "no signature": (lambda f, _: f.line(lambda line: line.update(signature="")), "not a ledger line"),
    "a signature with more": (
        lambda f, _: f.line(lambda line: line.update(signature=line["signature"] + "\n")), "not a ledger line"
    ),
    "sha256 in the signature": (lambda f, d: signed_otherwise(f, d, "-O", "hashalg=sha256"), "signature|sha512"),
    "another purpose": (lambda f, d: signed_otherwise(f, d, namespace="release@fedssh"), "signature|signed for"),
    "nothing": (lambda f, _: b"", "holds no record"),
    "a newline": (lambda f, _: b"\n", "not a ledger line"),
    "an empty line": (lambda f, _: b"\n".join([*plain(f.lines()).splitlines()[:2], b"", b""]), "not a ledger line"),
    "a last line without its end": (lambda f, _: plain(f.lines())[:-1], "no end"),
    "half a last line": (lambda f, _: plain(f.lines())[:-400], "no end"),
    "bytes of zero": (lambda f, _: plain(f.lines()) + bytes(20) + b"\n", "not a ledger line"),
}  # fmt: skip


@pytest.fixture
def forger(keys: dict[str, PrivateKey], tmp_path: Path) -> Forger:
    (tmp_path / "allowed_signers").write_text(allowed_signers({"charity": keys["coordinator"].public}))
    return Forger(keys["coordinator"])


def both(root: Path, folder: Path, *head: str) -> list[tuple[int, str]]:
    """What the shell script and the command say of an export: exit code and one line."""
    script = shell(f"{root}/scripts/verify {' '.join(head)} ledger.jsonl allowed_signers", folder)
    told = [(script.returncode, script.stdout + script.stderr)]
    try:
        value = check_export(folder / "ledger.jsonl", folder / "allowed_signers", *head[1:])
        told += [(0, f"{value['records']} records; head {value['head']}")]
    except AgentError as error:
        told += [(error.exit_code, str(error))]
    return told


@pytest.mark.parametrize("name", GOOD)
def test_both_accept_what_is_well_signed(name: str, forger: Forger, root: Path, tmp_path: Path) -> None:
    (tmp_path / "ledger.jsonl").write_bytes(GOOD[name](forger, tmp_path))
    for code, text in both(root, tmp_path):
        assert (code, text.split()[0]) == (0, "3"), text


@pytest.mark.parametrize("name", BAD)
def test_both_refuse_the_same(name: str, forger: Forger, root: Path, tmp_path: Path) -> None:
    make, reason = BAD[name]
    (tmp_path / "ledger.jsonl").write_bytes(make(forger, tmp_path))
    for code, text in both(root, tmp_path):
        assert code == 3, text
        assert re.search(reason, text), text


def test_a_head_noted_earlier_shows_that_the_tail_is_gone(forger: Forger, root: Path, tmp_path: Path) -> None:
    lines = forger.lines()
    (tmp_path / "ledger.jsonl").write_bytes(plain(lines[:2]))
    for line, code in zip(lines, (0, 0, 3), strict=True):
        for found, text in both(root, tmp_path, "--head", line["hash"]):
            assert found == code, text
            assert code == 0 or f"no record has the hash {line['hash']}" in text
    assert shell(f"{root}/scripts/verify --head xyz ledger.jsonl allowed_signers", tmp_path).returncode == 2


def test_a_head_that_a_site_signed_serves_as_one_noted_earlier(
    room: Room, root: Path, tmp_path: Path, keys: dict[str, PrivateKey]
) -> None:
    lines = exported(room, tmp_path).read_text().splitlines(keepends=True)
    (tmp_path / "site_key").write_bytes(keys["alice-1"].pem)
    (tmp_path / "site_key").chmod(0o600)
    (tmp_path / "head").write_text(json.loads(lines[-1])["hash"] + "\n")
    script = f"""
    ssh-keygen -Y sign -q -f site_key -n head@fedssh head
    ssh-keygen -Y verify -q -f allowed_signers -I alice-1 -n head@fedssh -s head.sig < head
    {root}/scripts/verify --head "$(cat head)" ledger.jsonl allowed_signers
    """
    assert shell(script, tmp_path).returncode == 0
    (tmp_path / "ledger.jsonl").write_text("".join(lines[:-1]))
    (tmp_path / "head.sig").unlink()
    assert shell(script, tmp_path).returncode == 3


def test_the_command_takes_a_file_or_the_folder(room: Room, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = exported(room, tmp_path)
    head, state = room.last().hash, ["--state", str(room.folders.state)]
    for words in ([str(path), *state], [str(path), "--signers", str(tmp_path / "allowed_signers")], state):
        for noted in ([], ["--head", head]):
            charity.main(["verify", *words, *noted], standalone_mode=False)
            assert f"head {head}\n" in capsys.readouterr().out
        with pytest.raises(AgentError, match="no record has the hash abab"):
            charity.main(["verify", *words, "--head", "ab" * 32], standalone_mode=False)
