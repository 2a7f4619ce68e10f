"""The coordinator as a whole, with a stand-in judge: verdicts, releases, turns, hostile bundles, operators."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import os
import signal
import sys
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from fedssh import chain, weights
from fedssh.address import parse_address
from fedssh.bundle import seal
from fedssh.charity import enrol, operate, serve
from fedssh.charity.folders import Folders
from fedssh.charity.intake import Waiting
from fedssh.charity.judge.client import Judge, JudgeDownError
from fedssh.charity.monitor import Monitor
from fedssh.charity.release import KEPT, path_of
from fedssh.charity.serve import Coordinator
from fedssh.charity.vault import Vault
from fedssh.charity.verify import audit
from fedssh.errors import LedgerError, SettingsError
from fedssh.forms import canonical
from fedssh.ledger import read_export, verify
from fedssh.manifest import Release
from fedssh.rules.standing import Started
from fedssh.signature import SUBMISSION, read_allowed_signers, sign
from tests.harness.room import Room, Rooms


def test_a_better_model_is_accepted_stored_and_released(room: Room) -> None:
    before = room.release()
    submission = room.submit("alice-1", 0.7)
    room.work()
    verdict = room.verdict("alice-1", submission)
    assert verdict["event"] == "accepted"
    assert verdict["reason"] == "accuracy 0.7000 beats 0.5000"
    assert verdict["current_metrics"]["accuracy"] == 0.5
    manifest, model = room.opened()
    assert manifest.sequence > before
    assert manifest.metrics == verdict["metrics"]
    assert model.read_bytes() == room.folders.model(verdict["model"]["sha256"]).read_bytes()
    assert (manifest.head, manifest.sequence) == (room.last().hash, room.last().sequence)
    assert audit(room.folders)["models"] == 2


def test_a_worse_model_is_refused_with_the_reason_and_not_kept(room: Room) -> None:
    before = room.release()
    submission = room.submit("alice-2", 0.4)
    room.work()
    verdict = room.verdict("alice-2", submission)
    assert (verdict["event"], verdict["reason"]) == ("refused", "accuracy 0.4000 is below the current 0.5000")
    assert room.newest.sequence == before
    assert not room.folders.model(verdict["model"]["sha256"]).exists()
    assert not list(room.folders.opened.iterdir())


def test_bundles_are_judged_in_order_of_arrival_over_all_sites(room: Room) -> None:
    room.release()
    order = [(room.submit(site, score), site) for site, score in [("alice-2", 0.6), ("alice-1", 0.8), ("alice-2", 0.7)]]
    room.work()
    judged = room.vault.ledger.judged()
    assert [record.fields["submission"] for record in judged] == [submission for submission, _ in order]
    assert [record.event for record in judged] == ["accepted", "accepted", "refused"]


def test_every_site_can_open_the_release_and_nobody_else(room: Room) -> None:
    room.release()
    for site in ("alice-1", "alice-2"):
        room.opened(site)
    with pytest.raises(Exception, match="not for SHA256"):
        room.opened("stranger")


def test_only_the_newest_releases_are_kept(room: Room) -> None:
    for accuracy in (0.6, 0.65, 0.7, 0.75, 0.8):
        room.submit("alice-1", accuracy)
        room.work()
    assert len(list(room.folders.releases.glob("*.bundle"))) == KEPT
    assert path_of(room.folders, room.newest.sequence).exists()


def test_the_outbox_tells_the_whole_signed_history(room: Room) -> None:
    room.submit("alice-1", 0.7)
    room.work()
    with open(room.folders.outbox / "ledger.jsonl", "rb") as file:
        records = list(read_export(file))
    assert records == room.vault.ledger.records()
    signers = read_allowed_signers((room.folders.outbox / "allowed_signers").read_text())
    assert set(signers) == {"charity", "alice-1", "alice-2"}
    verify(records, signers["charity"])


# Hostile and broken input. Each becomes an `invalid` record whose reason names the trouble.


def tampered(room: Room, change: Callable[[dict[str, Any]], None] = lambda manifest: None, **submission: Any) -> None:
    """Put a submission with a changed and again well signed manifest into alice-1's inbox."""
    room.submit("alice-1", 0.9, **submission)
    path = max((room.folders.inbox / "alice-1").iterdir())
    with tarfile.open(path) as tar:
        body, text = (tar.extractfile(name).read() for name in ("model.age", "manifest.json"))  # type: ignore[union-attr]
        manifest = json.loads(text)
    change(manifest)
    message = manifest.pop("raw", None) or canonical(manifest)
    armored = sign(message, room.keys["alice-1"], SUBMISSION).encode()
    write_tar(path, [("manifest.json", message), ("manifest.json.sig", armored), ("model.age", body)])


def write_tar(path: Path, entries: list[tuple[str, bytes]]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, content in entries:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def flip(room: Room, name: str, from_end: int) -> None:
    room.submit("alice-1", 0.9)
    path = max((room.folders.inbox / "alice-1").iterdir())
    with tarfile.open(path) as tar:
        member = tar.getmember(name)
    position = member.offset_data + member.size - from_end
    content = bytearray(path.read_bytes())
    # A letter of base64 stays one: what is to be found is a wrong signature, not a malformed one.
    content[position] = ord("B") if content[position] == ord("A") else ord("A")
    path.write_bytes(content)


def unsigned(room: Room) -> None:
    room.submit("alice-1", 0.9)
    path = max((room.folders.inbox / "alice-1").iterdir())
    with tarfile.open(path) as tar:
        content = {entry.name: tar.extractfile(entry).read() for entry in tar}  # type: ignore[union-attr]
    write_tar(path, [*(content | {"manifest.json.sig": b"\n"}).items()])


def link(room: Room) -> None:
    entry = tarfile.TarInfo("manifest.json")
    entry.type, entry.linkname = tarfile.SYMTYPE, "../../vault/coordinator_key"
    with tarfile.open(room.arrive("alice-1"), "w") as tar:
        tar.addfile(entry)


def truncate(room: Room) -> None:
    room.submit("alice-1", 0.9)
    path = max((room.folders.inbox / "alice-1").iterdir())
    path.write_bytes(path.read_bytes()[:3000])


def changed_weights(**changes: Any) -> Callable[[Room], object]:
    return lambda room: room.submit("alice-1", 0.9, model=room.model(0.9, **changes))


def set_field(name: str, value: Any) -> Callable[[Room], None]:
    return lambda room: tampered(room, lambda manifest: manifest.update({name: value}))


def not_canonical(room: Room) -> None:
    tampered(room, lambda manifest: manifest.update(raw=json.dumps(manifest).encode()))


def hide_name(room: Room) -> None:
    write_tar(room.arrive("alice-1"), [("../manifest.json", b"{}")])


HOSTILE: dict[str, tuple[Callable[[Room], object], str]] = {
    "not a bundle": (lambda room: room.arrive("alice-1").write_bytes(b"hello"), "the bundle is not a tar"),
    "empty": (lambda room: room.arrive("alice-1").write_bytes(b""), "the bundle is not a tar"),
    "unsigned": (unsigned, "there is no signature"),
    "a link as member": (link, "the bundle has the member 'manifest.json' of type b'2'"),
    "another member": (lambda room: write_tar(room.arrive("alice-1"), [("model.h5", b"x")]), "the member 'model.h5'"),
    "truncated": (truncate, "truncated"),
    "a letter of the signature changed": (lambda room: flip(room, "manifest.json.sig", 100), "does not match the"),
    "a byte of the model changed": (lambda room: flip(room, "model.age", 50), "model.age does not have the hash"),
    "a path as member": (hide_name, "the bundle has the member '../manifest.json'"),
    "signed by another site": (lambda room: room.submit("alice-1", 0.9, signer="alice-2"), "signed by key SHA256:"),
    "signed by a stranger": (lambda room: room.submit("alice-1", 0.9, signer="stranger"), "signed by key SHA256:"),
    "another site's bundle": (
        lambda room: room.submit("alice-2", 0.9, inbox="alice-1"), "signed by key SHA256:"),
    "another sender": (
        lambda room: room.submit("alice-2", 0.9, signer="alice-1", inbox="alice-1"),
        "the manifest names alice-2 as its sender, it came from alice-1"),
    "sealed for someone else": (lambda room: room.submit("alice-1", 0.9, to="alice-2"), "not for SHA256:"),
    "not canonical": (not_canonical, "the manifest is not canonical JSON"),
    "another kind": (set_field("kind", "release"), "the manifest is of kind 'release'"),
    "another format": (set_field("format", 2), "format 2"),
    "a wrong hash": (set_field("model", {"sha256": "0" * 64, "size": 300}), "hash and size"),
    "an absurd size": (set_field("model", {"sha256": "0" * 64, "size": 10**15}), "the model has 1,000,000,000,000,000"),
    "an unknown release": (lambda room: room.submit("alice-1", 0.9, builds_on=999), "release 999, which is no record"),
    "no release": (lambda room: room.submit("alice-1", 0.9, builds_on=1), "builds on release 1, which is genesis"),
    "another architecture": (
        lambda room: room.submit("alice-1", 0.9, model=room.model(0.9, spec={"name": "other"}),
                                 architecture=weights.architecture_hash({"name": "other"})),
        'the architecture is {"name":"other"}'),
    "a lie about the architecture": (
        lambda room: room.submit("alice-1", 0.9, model=room.model(0.9, spec={"name": "other"})),
        "another architecture than the manifest says"),
    "a missing tensor": (changed_weights(**{"dense1/kernel": None}), "the tensor dense1/kernel is missing"),
    "an extra tensor": (
        changed_weights(extra=np.zeros(1, np.float32)), "the tensor 'extra' does not belong to the architecture"),
    "another shape": (
        changed_weights(**{"dense1/kernel": np.zeros((2, 4), np.float32)}),
        "the tensor dense1/kernel has shape [2, 4], expected [4, 2]"),
    "values that are not finite": (
        changed_weights(**{"dense1/kernel": np.array([[np.nan, 1]] * 3 + [[np.inf, 1]], np.float32)}),
        "4 of 9 weights are not finite"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_bundles_are_invalid_and_the_others_are_served(case: str, room: Room) -> None:
    act, reason = HOSTILE[case]
    room.release()
    act(room)
    good = room.submit("alice-2", 0.6)
    room.work()
    invalid = [record for record in room.vault.ledger.judged() if record.event == "invalid"]
    assert len(invalid) == 1
    assert reason in invalid[0].fields["reason"]
    assert invalid[0].fields["site"] == "alice-1"
    if submission := invalid[0].fields["submission"]:
        assert room.verdict("alice-1", submission)["reason"] == invalid[0].fields["reason"]
    assert room.verdict("alice-2", good)["event"] == "accepted"
    assert room.vault.state.current.metrics["accuracy"] == 0.6
    assert not list(room.folders.opened.iterdir())
    assert not any(folder.iterdir() for folder in room.folders.claimed.iterdir() if any(folder.iterdir()))
    audit(room.folders)


def test_a_replay_changes_nothing_and_gets_the_old_verdict_again(room: Room) -> None:
    room.release()
    submission = room.submit("alice-1", 0.7)
    copy = max((room.folders.inbox / "alice-1").iterdir()).read_bytes()
    room.work()
    head = room.last()
    room.folders.verdict("alice-1", submission).unlink()
    room.arrive("alice-1").write_bytes(copy)
    room.work()
    assert room.last() == head
    assert room.verdict("alice-1", submission)["event"] == "accepted"


def test_an_identifier_used_again_for_another_model_changes_nothing(room: Room) -> None:
    submission = room.submit("alice-1", 0.7)
    room.work()
    head = room.last()
    room.submit("alice-1", 0.9, id=submission)
    room.work()
    assert room.last() == head


def test_the_same_garbage_is_recorded_once(room: Room) -> None:
    for _ in range(3):
        room.arrive("alice-1").write_bytes(b"garbage")
        room.work()
    assert room.events().count("invalid") == 1


def test_what_is_not_a_plain_file_is_never_read(room: Room, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    link = room.arrive("alice-1")
    link.symlink_to(tmp_path / "secret")
    room.arrive("alice-1").mkdir()
    before = room.events()
    room.release()
    assert room.events() == [*before, "release"]
    assert not link.is_symlink()


# The judge


def test_the_judge_may_die_and_the_next_submission_is_scored(room: Room) -> None:
    reasons: list[str] = []
    room.judge._restarted = reasons.append
    dead, alive = room.submit("alice-1", 3), room.submit("alice-2", 0.7)
    room.work()
    refused = room.verdict("alice-1", dead)
    assert (refused["event"], refused["metrics"]) == ("refused", None)
    assert refused["reason"] == "the judge died of SIGKILL"
    assert room.verdict("alice-2", alive)["event"] == "accepted"
    assert reasons == ["the judge died of SIGKILL"] * 2  # asked once more, because it need not be the model's fault


def test_a_judge_that_is_too_slow_is_started_again(room: Room) -> None:
    room.judge.answer_seconds = 0.3
    slow = room.submit("alice-1", 2)
    room.work()
    assert room.verdict("alice-1", slow)["reason"] == "the judge did not answer in 0.3 s"


def test_a_model_that_cannot_be_scored_is_refused_with_the_judges_words(room: Room) -> None:
    odd = room.submit("alice-1", 4)
    room.work()
    assert "3 of the predictions are not finite numbers" in room.verdict("alice-1", odd)["reason"]


def test_a_judge_that_does_not_start_again_decides_nothing(room: Room) -> None:
    submission = room.submit("alice-1", 0.7)
    command, room.judge.command = room.judge.command, [sys.executable, "-c", "raise SystemExit(7)"]
    room.judge.stop()
    for _ in range(4):
        with pytest.raises(JudgeDownError, match="the judge ended with exit code 7"):
            room.work()
    room.judge.command = command
    room.work()
    assert room.verdict("alice-1", submission)["event"] == "accepted"


def test_a_judge_that_finds_another_holdout_is_not_asked(room: Room) -> None:
    submission = room.submit("alice-1", 0.7)
    room.judge.start()
    room.judge.command.append("--examples=3")
    room.judge.stop()
    with pytest.raises(JudgeDownError, match="another holdout than before"):
        room.work()
    room.judge.command.pop()
    room.work()
    assert room.verdict("alice-1", submission)["event"] == "accepted"


def test_the_coordinator_goes_on_when_work_fails_for_a_while() -> None:
    stop, tries = threading.Event(), []

    class Failing:
        rescan_seconds = 0.01

        def work(self) -> None:
            tries.append(1)
            if len(tries) == 1:
                raise JudgeDownError("the judge ended with exit code 7")
            if len(tries) == 2:
                raise OSError(28, "No space left on device")
            stop.set()

    monitor = Monitor(None, Folders(Path()))
    serve._loop(cast(Coordinator, Failing()), stop, threading.Event(), lambda: None, monitor)
    assert monitor._troubles == 2
    assert len(tries) == 3


def test_a_judge_killed_while_idle_costs_no_submission(room: Room) -> None:
    room.judge.start()
    assert room.judge.pid
    os.kill(room.judge.pid, signal.SIGKILL)
    submission = room.submit("alice-1", 0.7)
    room.work()
    assert room.verdict("alice-1", submission)["event"] == "accepted"


# Sites


def test_a_revoked_site_is_refused_and_left_out_of_the_release(room: Room) -> None:
    room.release()
    pending = room.submit("alice-2", 0.9)
    enrol.revoke(Vault(room.folders), "alice-2", "key lost")
    room.work()
    verdict = room.verdict("alice-2", pending)
    assert (verdict["event"], verdict["reason"], verdict["metrics"]) == ("refused", "revoked", None)
    manifest, _ = room.opened()
    assert manifest.federation["sites"] == ["alice-1"]
    assert len(manifest.recipients) == 1
    sites = json.loads((room.folders.outbox / "sites.json").read_text())["sites"]
    assert [row["site"] for row in sites] == ["alice-1"]


def test_a_revocation_whose_command_was_killed_reaches_the_door(room: Room) -> None:
    coordinator = room.coordinator
    coordinator.work()
    other = Vault(room.folders)
    other.ledger.append("site-revoked", {"site": "alice-2", "reason": "key lost"}, other.key)  # and nothing after it
    coordinator.work()
    sites = json.loads((room.folders.outbox / "sites.json").read_text())["sites"]
    assert [row["site"] for row in sites] == ["alice-1"]


def test_a_site_revoked_while_it_is_being_judged_is_refused(room: Room) -> None:
    class Revoking:
        def score(self, model: Path) -> dict[str, Any]:
            enrol.revoke(Vault(room.folders), "alice-1", "just now")
            return {"accuracy": 0.9, "loss": 0.1}

        def check(self, *models: Any) -> dict[str, Any]:
            return {"sound": True, "text": ""}

        def start(self) -> None: ...

    submission = room.submit("alice-1", 0.9)
    Coordinator(room.vault, cast(Judge, Revoking())).work()
    assert room.verdict("alice-1", submission)["reason"] == "revoked"
    assert room.vault.state.current.of == 1


def test_a_revoked_site_can_come_back_with_a_new_key(room: Room, tmp_path: Path) -> None:
    enrol.revoke(room.vault, "alice-2", "key lost")
    public = tmp_path / "new.pub"
    public.write_text(room.keys["stranger"].public.line)
    enrol.add(room.vault, "alice-2", public, "site")
    submission = room.submit("alice-2", 0.8, signer="stranger")
    room.work()
    assert room.verdict("alice-2", submission)["event"] == "accepted"


def test_what_a_site_left_behind_is_not_taken_from_an_auditor_of_its_name(room: Room, tmp_path: Path) -> None:
    room.release()
    left = room.submit("alice-2", 0.8)
    enrol.revoke(room.vault, "alice-2", "only reads from now on")
    public = tmp_path / "x.pub"
    public.write_text("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti me@laptop")
    enrol.add(room.vault, "alice-2", public, "auditor")
    room.work()
    assert room.verdict("alice-2", left)["reason"] == "alice-2 is enrolled as auditor, which submits nothing"


@pytest.mark.parametrize(
    ("name", "key", "message"),
    [
        ("alice-1", "stranger", "alice-1 is enrolled already"),
        ("alice-3", "alice-1", "this key is alice-1's already"),
        ("alice-3", "coordinator", "this key is the coordinator's already"),
        ("Alice", "stranger", "'Alice' cannot be a site's name"),
        ("../x", "stranger", "cannot be a site's name"),
        ("-a", "stranger", "cannot be a site's name"),
        ("a" * 33, "stranger", "cannot be a site's name"),
        ("charity", "stranger", "'charity' is the coordinator's own name"),
    ],
)
def test_enrolling_refuses_what_is_taken_or_malformed(
    name: str, key: str, message: str, room: Room, tmp_path: Path
) -> None:
    public = tmp_path / "x.pub"
    public.write_text(room.keys[key].public.line)
    with pytest.raises(SettingsError, match=message):
        enrol.add(room.vault, name, public, "site")


def test_a_key_that_nobody_can_use_is_not_enrolled_and_stops_nobody(
    room: Room, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    numbers = room.keys["stranger"].public.rsa.public_numbers()
    bad = {}
    for name, e, n in (("even", numbers.e, numbers.n + 1), ("large", 2**34 + 1, numbers.n)):
        parts = (b"ssh-rsa", *(number.to_bytes(number.bit_length() // 8 + 1, "big") for number in (e, n)))
        blob = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
        bad[name] = f"ssh-rsa {base64.b64encode(blob).decode()}"
        (tmp_path / f"{name}.pub").write_text(bad[name])
        with pytest.raises(SettingsError, match="is not a well-formed public key"):
            enrol.add(room.vault, name, tmp_path / f"{name}.pub", "site")
    with room.vault.locked():  # as an older version did
        for name, key in bad.items():
            room.vault.ledger.append("site-added", {"site": name, "role": "site", "key": key}, room.vault.key)
    vault = Vault(room.folders)
    coordinator = Coordinator(vault, room.judge)
    coordinator.recover()
    (room.folders.inbox / "even").mkdir(exist_ok=True)
    seal(room.model(0.9), room.submission("even", 3), room.keys["stranger"], [vault.key.public], room.arrive("even"))
    assert vault.state.release is not None
    good = room.submit("alice-1", 0.7, builds_on=vault.state.release.sequence)
    coordinator.work()
    assert [record.event for record in vault.ledger.judged()] == ["invalid", "accepted"]
    assert "the key of even cannot be used" in vault.ledger.judged()[0].fields["reason"]
    assert room.verdict("alice-1", good)["event"] == "accepted"
    release, _ = room.opened()
    assert len(release.recipients) == 2
    published = (room.folders.outbox / "ledger.jsonl").read_bytes().splitlines()
    record, genesis = (chain.read_line(published[at - 1], vault.key.public) for at in (release.sequence, 1))
    assert len(record.fields["recipients"]) == 4
    chain.check_release(release, record, genesis)  # as every other site does
    sites = json.loads((room.folders.outbox / "sites.json").read_text())["sites"]
    assert [row["site"] for row in sites] == ["alice-1", "alice-2"]
    assert all(caplog.text.count(f"{name} is left out, because its key cannot be used") == 1 for name in bad)


def test_a_release_that_nobody_can_open_is_not_sealed(new_room: Rooms) -> None:
    room = new_room(sites=())
    with room.vault.locked():
        room.vault.ledger.append("site-added", {"site": "bad", "role": "site", "key": "ssh-rsa AAAA"}, room.vault.key)
    room.work()
    room.work()
    assert room.events() == ["genesis", "site-added", "release"]
    assert not list(room.folders.releases.iterdir())


def test_an_auditor_reads_and_gets_no_release(room: Room, tmp_path: Path) -> None:
    public = tmp_path / "x.pub"
    public.write_text("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti me@laptop")
    enrol.add(room.vault, "auditor", public, "auditor")
    room.release()
    manifest, _ = room.opened()
    assert manifest.federation["sites"] == ["alice-1", "alice-2"]
    sites = json.loads((room.folders.outbox / "sites.json").read_text())["sites"]
    assert [row["role"] for row in sites] == ["site", "site", "auditor"]


def test_the_invitation_holds_what_a_site_must_pin(room: Room) -> None:
    value = enrol.invitation(room.vault, "alice-1", "door@charity.example:2222")
    assert (value["user"], value["host"], value["port"]) == ("door", "charity.example", 2222)
    assert value["host_key"].startswith("ssh-ed25519 ")
    assert value["coordinator"] == room.keys["coordinator"].public.line
    assert value["site_key"] == room.keys["alice-1"].public.fingerprint
    first = room.folders.outbox.joinpath("ledger.jsonl").read_bytes().splitlines()[0]
    assert value["genesis"] == json.loads(first)["hash"]


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("charity@host:2222", ("charity", "host", 2222)),
        ("host", ("charity", "host", 22)),
        ("me@host", ("me", "host", 22)),
        ("[2001:db8::1]:2222", ("charity", "2001:db8::1", 2222)),
        ("me@[::1]", ("me", "::1", 22)),
    ],
)
def test_addresses(address: str, parts: tuple[str, str, int]) -> None:
    assert parse_address(address) == parts


# Sessions and turns


def test_the_federation_ends_when_every_site_has_trained_its_sessions(new_room: Rooms) -> None:
    room = new_room(sessions=1)
    room.report("alice-1")
    room.work()
    assert not room.vault.state.finished
    report = room.report("alice-2")
    room.work()
    assert room.verdict("alice-2", report)["event"] == "report"
    assert room.events()[-2:] == ["finished", "release"]
    manifest, _ = room.opened()
    assert manifest.federation["state"] == "finished"
    operate.reopen(Vault(room.folders), 2, "more")
    room.work()
    manifest, _ = room.opened()
    assert (manifest.federation["state"], manifest.federation["sessions"]) == ("open", 2)


def test_in_a_relay_the_turn_goes_round(new_room: Rooms) -> None:
    room = new_room(schedule="relay", sessions=2)
    turns = []
    for site in ("alice-1", "alice-2", "alice-1", "alice-2"):
        room.release()
        manifest, _ = room.opened()
        turns.append(manifest.federation["turn"])
        room.report(site)
        room.work()
    assert turns == ["alice-1", "alice-2", "alice-1", "alice-2"]
    assert room.vault.state.finished
    assert room.vault.state.turn is None


def test_a_site_that_comes_back_has_trained_what_it_had_trained(new_room: Rooms, tmp_path: Path) -> None:
    room = new_room(schedule="relay", sessions=1)
    room.report("alice-1")
    room.work()
    enrol.revoke(room.vault, "alice-1", "a new key")
    public = tmp_path / "new.pub"
    public.write_text(room.keys["stranger"].public.line)
    enrol.add(room.vault, "alice-1", public, "site")
    room.report("alice-2")
    room.work()
    assert room.vault.state.finished, "else it would wait for a session that alice-1 has trained already"


def test_garbage_and_copies_do_not_keep_a_turn(new_room: Rooms) -> None:
    room = new_room(schedule="relay")
    time = [0.0]
    coordinator = Coordinator(room.vault, room.judge, turn_seconds=10, clock=lambda: time[0])
    coordinator.work()
    room.submit("alice-1", 0.6, builds_on=room.newest.sequence)
    copy = max((room.folders.inbox / "alice-1").iterdir()).read_bytes()
    coordinator.work()
    for time[0] in (4, 8):
        room.arrive("alice-1").write_bytes(f"garbage {time[0]}".encode())
        room.arrive("alice-1").write_bytes(copy)
        coordinator.work()
    assert room.vault.state.turn == "alice-1"
    time[0] = 10
    coordinator.work()
    assert room.vault.state.turn == "alice-2"


def test_a_site_that_never_stops_sending_holds_up_neither_turns_nor_the_end(new_room: Rooms) -> None:
    room = new_room(schedule="relay")
    builds_on = room.release()

    class Busy(Coordinator):
        settled = 0

        def _settle(self, waiting: Waiting, give_up: bool = False) -> None:
            self.settled += 1
            assert self.settled < 5, "the coordinator does nothing else any more"
            for _ in range(2):
                room.submit("alice-2", 0.4, builds_on=builds_on)
            super()._settle(waiting, give_up)

    time = [0.0]
    coordinator = Busy(room.vault, room.judge, turn_seconds=10, clock=lambda: time[0])
    coordinator.work()
    time[0] = 10
    room.submit("alice-2", 0.4, builds_on=builds_on)
    coordinator.work()
    assert room.vault.state.turn == "alice-2"
    coordinator.stop.set()
    judged = len(room.vault.ledger.judged())
    coordinator.work()
    assert len(room.vault.ledger.judged()) == judged


def test_in_a_relay_only_the_work_of_the_turn_counts(new_room: Rooms) -> None:
    room = new_room(schedule="relay", sessions=2)
    first = room.release()
    early = room.submit("alice-2", 0.9), room.report("alice-2", builds_on=first)
    room.work()
    for id in early:
        assert room.verdict("alice-2", id)["reason"] == "it is alice-1's turn"
        assert room.verdict("alice-2", id)["event"] == "refused"
    assert (room.vault.state.current.of, room.vault.state.turn) == (1, "alice-1")
    assert [site.sessions for site in room.vault.state.sites] == [0, 0]
    # In the order in which a site ships; what it trained from is the first release of its turn.
    sent = room.submit("alice-1", 0.6, builds_on=first), room.submit("alice-1", 0.7, builds_on=first)
    report = room.report("alice-1", builds_on=first)
    late = room.submit("alice-1", 0.9, builds_on=first), room.report("alice-1", builds_on=first)
    room.work()
    events = [room.verdict("alice-1", id)["event"] for id in (*sent, report, *late)]
    assert events == ["accepted", "accepted", "report", "refused", "refused"]
    for id in late:
        assert room.verdict("alice-1", id)["reason"] == "the turn of alice-1 is over; it is alice-2's turn"
    assert room.vault.state.current.metrics["accuracy"] == 0.7
    room.report("alice-2")
    room.work()
    assert room.vault.state.turn == "alice-1"
    old = room.submit("alice-1", 0.9, builds_on=first)
    new = room.submit("alice-1", 0.8)
    room.work()
    assert room.verdict("alice-1", old)["reason"] == "it was trained in an earlier turn of alice-1"
    assert room.verdict("alice-1", new)["event"] == "accepted"
    older = Started(0, "alice-1", None)
    assert room.vault.state.out_of_turn("alice-1", older) == "", "an older version counted no turns"


def test_work_that_comes_after_its_turn_was_passed_on_is_refused(new_room: Rooms) -> None:
    room = new_room(schedule="relay")
    time = [0.0]
    coordinator = Coordinator(room.vault, room.judge, turn_seconds=10, clock=lambda: time[0])
    coordinator.work()
    assert room.vault.state.release is not None
    builds_on = room.newest.sequence
    time[0] = 10
    coordinator.work()
    late = room.submit("alice-1", 0.9, builds_on=builds_on), room.report("alice-1", builds_on=builds_on)
    coordinator.work()
    for id in late:
        assert room.verdict("alice-1", id)["reason"] == "the turn of alice-1 is over; it is alice-2's turn"


def test_the_turn_of_a_silent_or_revoked_site_passes(new_room: Rooms) -> None:
    room = new_room(schedule="relay")
    time = [0.0]
    coordinator = Coordinator(room.vault, room.judge, turn_seconds=10, clock=lambda: time[0])
    coordinator.work()
    time[0] = 9
    room.submit("alice-1", 0.6, builds_on=room.newest.sequence)
    coordinator.work()
    time[0] = 18
    coordinator.work()
    assert room.vault.state.turn == "alice-1", "a submission is a sign of life"
    time[0] = 19
    coordinator.work()
    assert room.vault.state.turn == "alice-2"
    assert "turn-passed" in room.events()
    manifest, _ = room.opened()
    assert manifest.federation["turn"] == "alice-2"
    enrol.revoke(Vault(room.folders), "alice-2", "gone")
    coordinator.work()
    assert room.vault.state.turn == "alice-1"
    time[0] = 100
    coordinator.work()
    assert room.events().count("turn-passed") == 1, "there is nobody to pass it to"


# Operators


def test_a_rollback_makes_the_earlier_model_current_and_releases_it(room: Room) -> None:
    room.submit("alice-1", 0.7)
    room.work()
    record = operate.roll_back(Vault(room.folders), 1, "mislabelled images")
    room.work()
    assert room.vault.state.current.of == record.sequence
    manifest, _ = room.opened()
    assert manifest.metrics["accuracy"] == 0.5
    again = room.submit("alice-2", 0.6)
    room.work()
    assert room.verdict("alice-2", again)["against"] == record.sequence
    with pytest.raises(SettingsError, match="record 2 is site-added"):
        operate.roll_back(room.vault, 2, "")


def test_a_second_beginning_is_refused(room: Room, new_room: Rooms) -> None:
    with pytest.raises(SettingsError, match="holds a federation already"):
        new_room()


def test_the_outbox_is_derived_and_comes_back(room: Room) -> None:
    submission = room.submit("alice-1", 0.7)
    room.work()
    outbox = room.folders.outbox
    wanted = {
        path: path.read_bytes() for path in outbox.rglob("*") if path.is_file() and path.parent.name != "releases"
    }
    for path in list(outbox.rglob("*")):
        if path.is_file():
            path.unlink()
    (room.folders.verdict("alice-1", submission).parent / ".x.json.00000000.part").write_bytes(b"half")
    Coordinator(Vault(room.folders), room.judge).recover()
    found = {path: path.read_bytes() for path in outbox.rglob("*") if path.is_file() and path.parent.name != "releases"}
    assert found == wanted
    room.opened()


def test_a_cut_off_line_of_the_published_history_is_repaired(room: Room) -> None:
    path = room.folders.outbox / "ledger.jsonl"
    whole = path.read_bytes()
    for damaged in (whole[:-1], whole[:-500], whole + b'{"sequence":99,', whole[:-300] + bytes(200) + b"\n", b""):
        path.write_bytes(damaged)
        Vault(room.folders).repair()
        assert path.read_bytes() == whole


def test_an_older_ledger_put_back_is_noticed(room: Room) -> None:
    copy = room.copy_ledger()
    room.submit("alice-1", 0.7)
    room.work()
    room.put_back(copy)
    with pytest.raises(LedgerError, match="part after record 3"):
        Vault(room.folders).repair()


def test_verify_names_a_damaged_or_missing_model(room: Room) -> None:
    model = room.folders.model(room.vault.state.current.model.sha256)
    content = model.read_bytes()
    model.write_bytes(content[:-1] + b"x")
    with pytest.raises(LedgerError, match="which is not the model of record 1"):
        audit(room.folders)
    model.unlink()
    with pytest.raises(LedgerError, match="the model of record 1 is not at"):
        audit(room.folders)


def test_a_bundle_that_brings_the_coordinator_down_again_and_again_is_given_up(room: Room) -> None:
    class Fatal:
        def score(self, model: Path) -> dict[str, Any]:
            raise KeyboardInterrupt

        def start(self) -> None: ...

    submission = room.submit("alice-1", 0.9)
    coordinator = Coordinator(room.vault, cast(Judge, Fatal()))
    for attempt in (coordinator.work, coordinator.recover, coordinator.recover, coordinator.recover):
        with pytest.raises(KeyboardInterrupt):
            attempt()
    coordinator.recover()
    assert room.verdict("alice-1", submission)["reason"] == "the coordinator failed 3 times while judging it"


def test_a_full_disk_decides_nothing(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    submission = room.submit("alice-1", 0.7)
    before = room.events()

    def full(*arguments: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("fedssh.bundle.adopt", full)
        with pytest.raises(OSError, match="No space left"):
            room.work()
    assert room.events() == before
    room.work()
    assert room.verdict("alice-1", submission)["event"] == "accepted"


def test_starting_on_a_full_disk_is_held_against_no_bundle(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    submission = room.submit("alice-1", 0.7)

    def full(*arguments: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("fedssh.bundle.adopt", full)
        for attempt in (room.work, *[room.coordinator.recover] * 4):
            with pytest.raises(OSError, match="No space left"):
                attempt()
    room.coordinator.recover()
    assert room.verdict("alice-1", submission)["event"] == "accepted"


def test_a_history_that_finds_no_room_decides_nothing(room: Room) -> None:
    submission = room.submit("alice-1", 0.7)
    before = room.events()
    database = room.vault.ledger._database
    database.execute(f"PRAGMA max_page_count = {database.execute('PRAGMA page_count').fetchone()[0]}")

    def fill() -> None:
        for _ in range(20):  # the last page may have room for a record
            room.arrive("alice-2").write_bytes(os.urandom(16))
            room.work()

    with pytest.raises(OSError, match="database or disk is full"):
        fill()
    assert set(room.events()[len(before) :]) <= {"accepted", "release", "invalid"}
    database.execute("PRAGMA max_page_count = 1000000")
    room.work()
    assert room.verdict("alice-1", submission)["event"] == "accepted"
    assert room.events().count("accepted") == 1
    audit(room.folders)


def test_the_claimed_metrics_stand_in_the_record(room: Room) -> None:
    submission = room.submit("alice-1", 0.7)
    room.work()
    assert room.verdict("alice-1", submission)["claim"] == {"loss": 0.1, "accuracy": 0.9}
    assert dataclasses.is_dataclass(Release)
