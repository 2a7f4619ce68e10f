"""What a hostile site can sign and send: the coordinator records what is wrong with it and goes on with the others."""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pyrage
import pytest

from fedssh import bundle, files
from fedssh.charity import enrol
from fedssh.charity.cli import charity
from fedssh.charity.genesis import _check_room
from fedssh.charity.vault import Vault
from fedssh.commands import entry, log_events, new_group, print_json, print_table, tell
from fedssh.errors import LedgerError, SettingsError
from fedssh.forms import canonical
from fedssh.keys import PublicKey
from fedssh.rules.events import SiteRevoked
from fedssh.signature import SUBMISSION, sign
from tests.harness.room import Room


def rebuild(
    room: Room, change: Callable[[dict[str, Any]], None] = lambda manifest: None, body: bytes | None = None
) -> None:
    """Put a submission into alice-1's inbox whose manifest or sealed model is changed, then signed by her again."""
    room.submit("alice-1", 0.9)
    path = max((room.folders.inbox / "alice-1").iterdir())
    with bundle.read(path) as arrived:
        manifest = arrived.said
    with tarfile.open(path) as tar:
        sealed = tar.extractfile("model.age").read() if body is None else body  # type: ignore[union-attr]
    path.write_bytes(sealed)
    manifest["sealed"] = {"sha256": files.sha256_file(path), "size": len(sealed)}
    change(manifest)
    message = re.sub(rb'"deep (\d+)"', lambda found: b"[" * int(found[1]) + b"]" * int(found[1]), canonical(manifest))
    signature = sign(message, room.keys["alice-1"], SUBMISSION).encode()
    with tarfile.open(path, "w") as tar:
        for name, content in [("manifest.json", message), ("manifest.json.sig", signature), ("model.age", sealed)]:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def put(*fields: str, value: Any) -> Callable[[Room], None]:
    """Set a field of the manifest."""

    def change(manifest: dict[str, Any]) -> None:
        for name in fields[:-1]:
            manifest = manifest[name]
        manifest[fields[-1]] = value

    return lambda room: rebuild(room, change)


def sealed_for(key: PublicKey, plain: bytes) -> bytes:
    """A model.age with any content."""
    found: bytes = pyrage.encrypt(plain, [pyrage.ssh.Recipient.from_str(key.line)])
    return found


def with_size(size: int) -> Callable[[dict[str, Any]], None]:
    return lambda manifest: manifest["model"].update(size=size)


def cut_payload(from_end: int) -> Callable[[Room], None]:
    def act(room: Room) -> None:
        body = sealed_for(room.keys["coordinator"].public, b"x" * 200_000)[:-from_end]
        rebuild(room, with_size(200_000 - from_end), body)

    return act


def flipped_payload(room: Room) -> None:
    body = bytearray(sealed_for(room.keys["coordinator"].public, b"x" * 200_000))
    body[-50] ^= 1
    rebuild(room, with_size(200_000), bytes(body))


def many_stanzas(room: Room) -> None:
    """106 kB with which age alone would be busy for the better part of a minute."""
    body = sealed_for(room.keys["coordinator"].public, b"x" * 100)
    start = body.index(b"-> ")
    stanza = body[start : body.index(b"\n-> ", start) + 1]
    body = body[:start] + stanza * 170 + body[start:]
    rebuild(room, with_size(len(body) - 1000), body)


def large_payload(room: Room) -> None:
    rebuild(room, body=sealed_for(room.keys["coordinator"].public, bytes(3 << 20)))


def header(text: bytes, **changes: Any) -> Callable[[Room], None]:
    """A well sealed model file with this header."""

    def act(room: Room) -> None:
        plain = len(text).to_bytes(8, "little") + text + bytes(36)
        path = room.folders.state.parent / "plain"
        path.write_bytes(plain)
        model = {"sha256": files.sha256_file(path), "size": len(plain)}
        rebuild(
            room,
            lambda manifest: manifest.update({"model": model, **changes}),
            sealed_for(room.keys["coordinator"].public, plain),
        )

    return act


def spec(value: str) -> bytes:
    tensor = {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}
    return json.dumps({"__metadata__": {"format": "fedssh 1", "spec": value}, "w": tensor}).encode()


HOSTILE: dict[str, tuple[Callable[[Room], None], str]] = {
    "a loss that is no float": (put("metrics", "loss", value=10**400), "'loss' of the manifest is 1000000000"),
    "a negative one": (put("metrics", "loss", value=-(10**400)), "'loss' of the manifest is -1000000000"),
    "an epoch that is no number": (put("epoch", value=10**400), "'epoch' of the manifest is 1000000000"),
    "an id that is a list": (put("id", value=[1]), "'id' is a list, which is not of its form"),
    "a kind that is an object": (put("kind", value={"kind": "submission"}), "the manifest is of kind a NoneType"),
    "a deep manifest": (put("id", value="deep 40"), "nested deeper than 16 levels"),
    # Near the interpreter's own limit, where reading it may still work and walking it again may not.
    **{
        f"{depth} levels": (put("id", value=f"deep {depth}"), "the manifest is not canonical JSON")
        for depth in (880, 930, 980)
    },
    "a cut age payload": (cut_payload(20), "model.age cannot be opened with SHA256:"),
    "an age payload cut at a chunk": (cut_payload(200_000 % 65536 + 16), "model.age cannot be opened with SHA256:"),
    "a flipped age payload": (flipped_payload, "model.age cannot be opened with SHA256:"),
    "no age file": (lambda room: rebuild(room, body=b"age\n--- " * 99), "model.age does not begin as an age file does"),
    "an age header of many stanzas": (many_stanzas, "the header of model.age is malformed, or longer than 2,048 bytes"),
    "far more than it says": (large_payload, "too many for a plain one of its size"),
    "a spec with half a character": (header(spec("\ud800")), "the model file's spec is not canonical JSON"),
    "a deep spec": (header(spec("[" * 500 + "]" * 500)), "the model file's spec is not canonical JSON"),
    "a header in another encoding": (header(spec("{}").decode().encode("utf-16")), "header is not JSON: 'utf-8'"),
    "a deep header": (header(b'{"a":' + b"[" * 990 + b"]" * 990 + b"}"), "model file"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_a_site_signs_cannot_stop_the_coordinator(case: str, room: Room) -> None:
    act, reason = HOSTILE[case]
    room.release()
    act(room)
    good = room.submit("alice-2", 0.6)
    room.work()
    invalid = [record for record in room.vault.ledger.judged() if record.event == "invalid"]
    assert [reason in record.fields["reason"] for record in invalid] == [True], [r.fields["reason"] for r in invalid]
    assert "\n" not in invalid[0].fields["reason"]
    assert room.verdict("alice-2", good)["event"] == "accepted"
    assert not list(room.folders.opened.iterdir())
    assert not [path for path in room.folders.claimed.rglob("*") if path.is_file()]


def test_what_a_revoked_site_left_behind_is_not_opened(room: Room) -> None:
    builds_on = room.release()
    many_stanzas(room)
    room.report("alice-1", builds_on=builds_on)
    good = room.submit("alice-2", 0.6, builds_on=builds_on)
    enrol.revoke(Vault(room.folders), "alice-1", "sends what takes an hour to open")
    room.work()
    verdicts = [record.fields for record in room.vault.ledger.judged() if record.fields["site"] == "alice-1"]
    assert [(one["event"], one["reason"]) for one in verdicts] == [("refused", "revoked")] * 2
    assert room.verdict("alice-2", good)["event"] == "accepted"


def test_what_a_site_says_cannot_act_on_the_operators_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    tell(log_events("probe"), "invalid", 'the architecture is {"name":"\x9b2J\u202e\x7f\nprobe: all is well"}')
    assert capfd.readouterr().err == (
        'probe: the architecture is {"name":"\\u009b2J\\u202e\\u007f\\u000aprobe: all is well"}\n'
    )


def test_what_a_peer_says_cannot_act_on_a_terminal_in_errors_tables_and_json(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    evil = "\x1b]0;owned\x07\x9b31m\u202e\x7f"

    group = new_group("probe", "Test.")

    @group.command()
    def fail() -> None:
        raise LedgerError(f"the door said {evil}", f"ask {evil}")

    monkeypatch.setattr("sys.argv", ["probe", "fail"])
    with pytest.raises(SystemExit):
        entry(group, "probe")
    print_table(("reason",), [(evil,)])
    print_json({"reason": evil})
    shown = capfd.readouterr()
    assert (shown.out + shown.err).replace("\n", "").isprintable()
    assert shown.err.count("\\u001b]0;owned\\u0007\\u009b31m\\u202e\\u007f") == 2


@pytest.mark.parametrize("words", [[], ["--json"], ["--export"]])
def test_what_a_site_says_cannot_act_on_a_terminal_in_the_history(
    words: list[str], room: Room, capfd: pytest.CaptureFixture[str]
) -> None:
    evil = "fine\x1b[2J\x9b31m\u202e\u2066\x7f é"
    with room.vault.locked():
        room.vault.append(SiteRevoked(site="alice-1", reason=evil))
    charity.main(["history", "--state", str(room.folders.state), *words], standalone_mode=False)
    shown = capfd.readouterr().out
    assert shown.replace("\n", "").isprintable() and "fine" in shown
    if words == ["--export"]:
        lines = [json.loads(line) for line in shown.splitlines()]
        assert lines == [json.loads(line) for line in room.folders.published.read_bytes().splitlines()]
        assert json.loads(lines[-1]["record"])["reason"] == evil


@pytest.mark.parametrize(("classes", "fits"), [(2, True), (60, True), (200, False), (1000, False)])
def test_scores_that_outgrow_a_record_are_refused_at_the_beginning(classes: int, fits: bool) -> None:
    metrics = {"loss": 0.5, "confusion": [[0] * classes] * classes}
    with nullcontext() if fits else pytest.raises(SettingsError, match="a record has room for"):
        _check_room(metrics, 2000)
