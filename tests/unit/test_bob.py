"""Bob between the exchange folder and a door that is played here: sealing, shipping, releases, and `kill -9`.

The door implements what Bob uses of a connection, on files, so that it outlives a killed Bob.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedssh import chain, files
from fedssh.bob.incoming import Incoming, read_seen
from fedssh.bob.site import Site
from fedssh.bob.watch import Backoff
from fedssh.errors import (
    BundleError,
    LedgerError,
    RollbackError,
    SettingsError,
    SignatureError,
    UnreachableError,
    UntrustedError,
)
from fedssh.forms import canonical
from fedssh.keys import PrivateKey
from fedssh.manifest import Release, new_id, now
from fedssh.signature import RELEASE, verify
from fedssh.transport import Answer, BusyError
from tests.harness.bob import RUN, Door, World, said
from tests.harness.killed import CALLS, Step, killed_counting

LAID_OUT = ["00000002.json", "00000002.safetensors", "genesis.json", "status.json"]


@pytest.fixture
def world(tmp_path: Path, keys: dict[str, PrivateKey]) -> World:
    world = World(tmp_path, keys)
    world.start()
    return world


def test_a_checkpoint_and_a_report_go_their_way(world: World) -> None:
    checkpoint, report = world.publish(), world.report()
    world.ship_all()
    assert world.verdicts() == {checkpoint: "accepted", report: "report"}
    assert world.arrivals() == [checkpoint, report]
    assert world.names("outgoing") == [] and len(world.spool) == 0
    assert [event for event, _ in world.said] == ["sealed", "sealed", "shipped", "verdict", "shipped", "verdict"]
    assert "accepted session 1 epoch 1: why not (record 3)" in world.said[3][1]
    (first, _) = world.receipts
    arrived = world.door.arrived / "0000.bundle"
    assert (first["size"], first["sha256"]) == (arrived.stat().st_size, files.sha256_file(arrived))
    assert first["recipient"] == world.keys["coordinator"].public.fingerprint


def test_an_update_that_is_taken_into_a_round_has_its_receipt(world: World) -> None:
    world.door.verdict = "counted"
    update, report = world.publish(), world.report()
    world.ship_all()
    assert world.verdicts() == {update: "counted", report: "report"}
    assert "counted session 1 epoch 1: why not (record 3)" in world.said[3][1]
    assert len(world.spool) == 0


def test_the_end_of_a_round_is_told_once(world: World) -> None:
    def release(last: object) -> list[str]:
        world.door.release(told={"federation": {"name": "lungs", "state": "open", "last": last}})
        assert world.fetch()
        return [text for event, text in world.said if event == "round"]

    one = {"round": 1, "event": "round-accepted", "reason": "accuracy 0.9"}
    assert release(None) == []
    assert release(one) == ["round 1 accepted: accuracy 0.9"]
    assert len(release(one)) == 1
    assert release(one | {"round": 2, "event": "round-refused"})[1:] == ["round 2 refused: accuracy 0.9"]


def test_only_the_newest_of_a_session_is_sent(world: World) -> None:
    old, older, newest, other = (world.publish(1, 1), world.publish(1, 2), world.publish(1, 3), world.publish(2, 1))
    world.ship_all()
    verdicts = {old: "superseded", older: "superseded", newest: "accepted", other: "accepted"}
    assert world.verdicts() == verdicts
    assert world.arrivals() == [newest, other]
    assert [receipt["attempts"] for receipt in world.receipts] == [0, 0, 1, 1]


def test_without_a_network_only_the_newest_is_kept(world: World) -> None:
    for epoch in range(1, 6):
        world.publish(1, epoch)
        world.outgoing.take_all(RUN)
        world.shipping.drop_superseded()
    assert [entry.epoch for entry in world.spool.entries()] == [5]


def link_to_secret(world: World, claim: Path) -> None:
    model = claim.with_suffix(".safetensors")
    model.unlink()
    model.symlink_to(world.keys["alice-1"].path)


BROKEN: dict[str, tuple[Callable[[World, Path], object], str]] = {
    "no json": (lambda w, p: p.write_text("{"), "not canonical JSON"),
    "another id": (lambda w, p: p.write_bytes(p.read_bytes().replace(p.stem.encode(), new_id().encode())), "says that"),
    "unknown kind": (lambda w, p: p.write_bytes(canonical({"kind": "gift"})), "of kind 'gift'"),
    "huge": (lambda w, p: p.write_bytes(b" " * 70_000), "expected at most"),
    "no model": (lambda w, p: p.with_suffix(".safetensors").unlink(), "its model file is missing"),
    "not a model": (lambda w, p: p.with_suffix(".safetensors").write_bytes(b"x" * 99), "header claims"),
    "too large": (lambda w, p: os.truncate(p.with_suffix(".safetensors"), 2 << 20), "expected at most"),
    "other architecture": (
        lambda w, p: p.write_bytes(canonical(json.loads(p.read_bytes()) | {"architecture": "f" * 64})),
        "another architecture",
    ),
    "a link to a secret": (link_to_secret, "is a link"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_broken_is_set_aside_with_its_reason(world: World, case: str) -> None:
    damage, words = BROKEN[case]
    broken, good = world.publish(1), world.publish(2)
    damage(world, world.exchange / "outgoing" / f"{broken}.json")
    world.ship_all()
    assert world.verdicts() == {good: "accepted"}
    assert world.names("outgoing") == []
    assert words in (world.exchange / "rejected" / f"{broken}.reason").read_text()
    assert f"{broken}.json" in world.names("rejected")


def test_the_rejected_do_not_fill_the_disk(world: World) -> None:
    for number in range(14):
        (world.exchange / "outgoing" / f"{number:02}.json").write_text("{}")
    world.ship_all()
    assert len([name for name in world.names("rejected") if name.endswith(".reason")]) == 10


def test_a_checkpoint_that_alice_took_back_is_no_trouble(world: World) -> None:
    path = world.exchange / "outgoing" / f"{world.publish()}.json"
    path.with_suffix(".safetensors").unlink()
    claims = world.outgoing.waiting()
    path.unlink()
    world.outgoing.waiting = lambda: claims  # type: ignore[method-assign]
    assert world.outgoing.take_all(RUN) == 0
    assert world.names("rejected") == []


def test_what_is_judged_already_is_only_cleared_away(world: World) -> None:
    id = world.publish()
    world.ship_all()
    again = World(world.root, world.keys)
    again.start()
    again.publish(id=id)
    (again.exchange / "outgoing" / f"{id}.json").unlink()  # killed between the two removals
    again.ship_all()
    assert again.names("outgoing") == [] and again.arrivals() == [id] and again.verdicts() == {id: "accepted"}


def test_a_cut_connection_is_tried_again(world: World) -> None:
    id = world.publish()
    world.door.trouble = UnreachableError("cut")
    with pytest.raises(UnreachableError):
        world.ship_all()
    assert [entry.attempts for entry in world.spool.entries()] == [1] and world.verdicts() == {}
    world.ship_all()
    assert world.verdicts() == {id: "accepted"} and next(iter(world.receipts))["attempts"] == 2


def test_what_the_door_has_is_not_sent_again(world: World) -> None:
    id = world.publish()
    world.door.answer = Answer(1, b"", "the door failed")
    with pytest.raises(BusyError, match=r"charity\.example:22 answered `verdict` with: the door failed"):
        world.ship_all()
    world.door.answer = None
    again = World(world.root, world.keys)
    again.start()
    newer = again.publish(1, 2)  # does not supersede: the verdict on the first is due
    again.ship_all()
    assert again.verdicts() == {id: "accepted", newer: "accepted"} and again.arrivals() == [id, newer]


def test_what_the_coordinator_lost_is_sent_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    id = world.publish()
    world.door.answer = Answer(1, b"", "the door failed")
    with pytest.raises(BusyError):
        world.ship_all()
    world.door.answer = None
    for path in world.door.arrived.iterdir():
        path.unlink()
    (entry,) = world.spool.entries()
    world.spool.mark(entry, shipped=(entry.shipped or 0) - 3700)
    world.ship_all()
    assert world.verdicts() == {id: "accepted"}


def test_a_bundle_that_the_door_never_takes_does_not_stop_the_others(world: World) -> None:
    bad, good = world.publish(1), world.publish(2)
    world.door.trouble = BundleError("charity.example:22 does not take the bundle: refused: too large")
    world.ship_all()
    assert world.verdicts() == {bad: "refused at the door", good: "accepted"}
    assert "refused: too large" in next(iter(world.receipts))["reason"]


def test_a_revoked_site_loses_no_bundle(world: World) -> None:
    world.publish()
    world.door.trouble = BundleError("refused: alice-1 is not enrolled with this key any more")
    world.door.answer = Answer(3, b"", "charity: refused: alice-1 is not enrolled with this key any more")
    with pytest.raises(SettingsError, match="not enrolled"):
        world.ship_all()
    assert len(world.spool) == 1 and world.verdicts() == {}


def test_a_verdict_by_somebody_else_ends_bob(world: World) -> None:
    id = world.publish()
    forged = Door(world.root / "forged", world.keys["stranger"], world.keys["alice-1"])
    world.outgoing.take_all(RUN)
    forged.ship(world.spool.bundle(id))
    line = forged.judge(id)
    assert line
    world.door.answer = Answer(0, line, "")
    with pytest.raises(SignatureError, match="signed by key"):
        world.ship_all()
    assert len(world.spool) == 1 and world.verdicts() == {}


def test_a_verdict_on_something_else_ends_bob(world: World) -> None:
    other = world.publish(1)
    world.ship_all()
    world.publish(2)
    line = world.door.judge(other)
    assert line
    world.door.answer = Answer(0, line, "")
    with pytest.raises(LedgerError, match="is about"):
        world.ship_all()
    assert len(world.spool) == 1


def test_a_release_is_laid_out_for_alice(world: World) -> None:
    assert world.fetch() and not world.fetch()
    assert world.names("incoming") == LAID_OUT
    note = json.loads((world.exchange / "incoming" / "00000002.json").read_bytes())
    assert note["site"] == "alice-1" and note["manifest"]["sequence"] == 2
    assert (world.exchange / "incoming" / "00000002.safetensors").read_bytes() == world.door.model.read_bytes()
    assert read_seen(world.folder.seen).sequence == 2
    for _ in range(3):
        world.door.release()
        assert world.fetch()
    releases = [f"0000000{n}.{kind}" for n in (4, 5) for kind in ("json", "safetensors")]
    assert world.names("incoming") == [*releases, "genesis.json", "status.json"]


def test_a_release_that_alice_lost_is_brought_again(world: World) -> None:
    world.fetch()
    shutil.rmtree(world.exchange / "incoming")
    world.start()
    assert world.fetch() and world.names("incoming") == LAID_OUT


def laid_out(world: World, name: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((world.exchange / "incoming" / name).read_bytes())
    return value


def test_what_is_laid_out_can_be_checked_without_believing_bob(world: World) -> None:
    coordinator = world.keys["coordinator"].public
    assert world.fetch()
    note = laid_out(world, "00000002.json")
    release = Release.from_bytes(canonical(note["manifest"]))
    verify(canonical(note["manifest"]), note["signature"], RELEASE, coordinator)
    genesis = (world.exchange / "incoming" / "genesis.json").read_bytes()
    assert genesis == world.door.history(0)[0] == world.folder.genesis.read_bytes()
    first, record = (chain.read_line(line, coordinator) for line in (genesis, note["record"].encode()))
    chain.check_release(release, record, first)
    assert release.model.sha256 == files.sha256_file(world.exchange / "incoming" / "00000002.safetensors")


def test_what_an_older_bob_laid_out_is_brought_again_with_its_signature(world: World) -> None:
    world.fetch()
    path = world.exchange / "incoming" / "00000002.json"
    old = {name: value for name, value in laid_out(world, path.name).items() if name in ("site", "manifest")}
    path.write_bytes(canonical(old))
    for genesis in (world.folder.genesis, world.exchange / "incoming" / "genesis.json"):
        genesis.unlink()
    world.start()
    assert world.fetch() and not world.fetch()
    assert world.door.asked == ["history --export --after 0", "history --export --after 1"]
    assert world.names("incoming") == LAID_OUT and "signature" in laid_out(world, path.name)
    world.door.release()
    assert world.fetch() and len(world.door.asked) == 2  # the genesis is kept, the record is among those followed


def test_the_history_begins_with_the_genesis_of_the_invitation(world: World) -> None:
    hashes = [hashlib.sha256(canonical(json.loads(json.loads(line)["record"]))).hexdigest()
              for line in world.door.history(0)]  # fmt: skip

    def invited_to(genesis: str) -> Incoming:
        site = Site("alice-1", "charity", "charity.example", 22, "", world.keys["coordinator"].public, genesis)
        return Incoming(world.exchange, world.folder, site, world.keys["alice-1"], world.say, 1 << 20)

    for wrong in ("c" * 64, hashes[1]):
        with pytest.raises(LedgerError, match=f"begins with {hashes[0]}, this site was invited to {wrong}") as caught:
            invited_to(wrong).fetch(world.door, 0, 1.0)
        assert caught.value.hint and "operator" in caught.value.hint
        assert world.names("incoming") == ["status.json"] and not world.folder.seen.exists()
    assert invited_to(hashes[0]).fetch(world.door, 0, 1.0)
    world.door.release()
    with pytest.raises(LedgerError, match="this site was invited to"):  # also of what was followed before
        invited_to("c" * 64).fetch(world.door, 0, 1.0)


def test_alice_is_told_what_the_door_said(world: World) -> None:
    standing = world.incoming.standing
    nothing = {"newest": None, "confirmed": None, "refused_since": None, "reason": None}
    assert laid_out(world, "status.json") == nothing
    world.fetch()
    assert laid_out(world, "status.json") == nothing | {"newest": 2}
    world.door.later = "charity: later: the coordinator is not ready yet"
    assert not world.fetch() and laid_out(world, "status.json")["confirmed"] is None
    world.door.later = "charity: no release newer than 2 yet"
    before = now()
    assert not world.fetch() and before <= laid_out(world, "status.json")["confirmed"] <= now()
    standing.refuse("no log-in", in_words=False)
    first = laid_out(world, "status.json")
    assert first["reason"] == "no log-in" and before <= first["refused_since"]
    standing.refuse("not enrolled with this key any more", in_words=True)
    standing.refuse("no log-in", in_words=False)
    said = laid_out(world, "status.json")
    assert said == first | {"reason": "not enrolled with this key any more"}
    assert json.loads(world.folder.status.read_bytes()) == said
    standing.let_in()
    assert laid_out(world, "status.json") == said | {"refused_since": None, "reason": None}
    standing.refuse("no log-in", in_words=False)
    world.start()  # a new Bob has heard nothing yet
    assert laid_out(world, "status.json") == nothing | {"newest": 2}


def test_the_end_is_confirmed_soon(world: World) -> None:
    world.fetch()
    assert world.incoming.wait_seconds(300) == 300
    world.door.release(told={"federation": {"name": "lungs", "state": "finished"}})
    world.fetch()
    assert [world.incoming.wait_seconds(most) for most in (300, 5)] == [20, 5]
    again = World(world.root, world.keys)
    again.start()
    assert again.incoming.wait_seconds(300) == 20


def tell_other_history(world: World) -> None:
    """From now on the coordinator has another past, as long as the first and one release longer."""
    shutil.rmtree(world.root / "coordinator")
    world.door = Door(world.root / "coordinator", world.keys["coordinator"], world.keys["alice-1"])
    for _ in range(2):
        world.door.release()


FALSE_RELEASES: dict[str, tuple[Callable[[World], object], type[UntrustedError], str]] = {
    "signed by a site": (lambda w: w.door.release(w.keys["alice-2"]), SignatureError, "signed by key"),
    "older": (lambda w: w.door.release(sequence=1), RollbackError, "release 1, this site has seen 2"),
    "another with the same number": (
        lambda w: w.door.release(sequence=2, head="c" * 64), RollbackError, "release 2 has head cccc",
    ),
    "another history": (tell_other_history, RollbackError, "does not follow record 2"),
    "a head that is not in the history": (
        lambda w: w.door.release(head="c" * 64), RollbackError, "head cccc",
    ),
    "a record that is not there": (lambda w: w.door.release(sequence=9), RollbackError, "ends at record 3"),
    "another plan than agreed": (
        lambda w: w.door.release(plan={"batch_size": 1}), BundleError, "'plan' of release 3 is not what record 1 says",
    ),
    "another architecture than agreed": (
        lambda w: w.door.release(architecture="c" * 64), BundleError, "another architecture than the manifest says",
    ),
    "other scores than recorded": (
        lambda w: w.door.release(metrics={"accuracy": 0.9}), BundleError, "'metrics' of release 3 is not what its",
    ),
    "a score that no model can have": (
        lambda w: w.door.release(told={"metrics": {"accuracy": 10**400}}), BundleError, "which no model can have",
    ),
    "the end of the federation, which nobody recorded": (
        lambda w: w.door.release(federation={"name": "lungs", "state": "finished"}), BundleError, "'federation' of",
    ),
    "a record that is no release": (
        lambda w: [w.door.append("turn-passed"), w.door.release(sequence=3)], RollbackError, "not the release",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FALSE_RELEASES)
def test_a_false_release_is_refused_and_changes_nothing(world: World, case: str) -> None:
    tell, error, words = FALSE_RELEASES[case]
    world.fetch()
    seen, names = world.folder.seen.read_bytes(), world.names("incoming")
    tell(world)
    world.incoming.after = lambda: 0  # type: ignore[method-assign]
    with pytest.raises(error, match=words):
        world.fetch()
    assert world.folder.seen.read_bytes() == seen and world.names("incoming") == names
    assert not [path for path in world.folder.path.iterdir() if files.is_part(path)]


def test_a_verdict_that_the_history_lacks_is_noticed(world: World) -> None:
    world.fetch()
    world.publish()
    world.ship_all()
    text = world.folder.receipts.read_text()
    (receipt,) = world.receipts
    world.folder.receipts.write_text(text.replace(receipt["record"], "d" * 64))
    world.door.release()
    with pytest.raises(RollbackError, match="is not the verdict this site was given"):
        world.fetch()


def test_another_coordinator_begins_with_another_history(world: World) -> None:
    for _ in range(3):
        world.door.release()
    world.fetch()
    world.publish()
    world.ship_all()
    assert world.names("incoming") == ["00000005.json", "00000005.safetensors", *LAID_OUT[2:]]
    invited = Site("alice-1", "charity", "charity.example", 22, "", world.keys["stranger"].public)
    former = (world.exchange / "incoming" / "genesis.json").read_bytes()
    world.folder.seen.rename(world.folder.seen.with_name("seen-former.json"))  # as `bob join --again` does
    world.folder.genesis.unlink()
    world.door = Door(world.root / "another", world.keys["stranger"], world.keys["alice-1"])
    key, receipts = world.keys["alice-1"], world.receipts
    world.incoming = Incoming(world.exchange, world.folder, invited, key, world.say, 1 << 20)
    world.start()
    assert world.names("incoming") == ["status.json"]
    assert world.fetch()
    assert world.names("incoming") == LAID_OUT
    assert (world.exchange / "incoming" / "genesis.json").read_bytes() == world.door.history(0)[0] != former
    assert not world.fetch()
    assert len(list(receipts)) == 1


def test_a_damaged_memory_is_not_guessed_anew(world: World) -> None:
    world.folder.seen.write_text("{")
    with pytest.raises(SettingsError, match=r"seen\.json is damaged"):
        world.fetch()


@pytest.mark.parametrize("module", ["fedssh.bundle.pyrage.encrypt_io", "fedssh.files.os.fsync"])
def test_a_full_disk_loses_nothing(world: World, monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    id = world.publish()

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module, full)
        with pytest.raises(OSError, match="No space left"):
            world.ship_all()
    assert len(world.names("outgoing")) == 2 and len(world.spool) == 0
    assert not [path for path in world.folder.spool.iterdir() if files.is_part(path)]
    world.ship_all()
    assert world.verdicts() == {id: "accepted"}


def test_pauses_double_up_to_the_longest() -> None:
    backoff = Backoff(1.0, 300.0, chance=lambda: 0.0)
    assert [backoff.next() for _ in range(10)] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300]
    backoff.reset()
    assert backoff.next() == 1.0
    assert Backoff(1.0, 300.0, chance=lambda: 0.999).next() == pytest.approx(0.5, abs=0.01)


# kill -9


def killed(step: int, root: Path, keys: dict[str, PrivateKey]) -> bool:
    """Run a Bob from his start until nothing is left to do; he dies at his n-th step, or when the door has done one."""

    def work(count: Step) -> None:
        world = World(root, keys)
        world.door.step = count
        world.start()
        world.ship_all()
        world.fetch()

    return killed_counting(step, work, CALLS)


def test_killed_anywhere_nothing_is_lost_and_nothing_counts_twice(tmp_path: Path, keys: dict[str, PrivateKey]) -> None:
    """Each run dies at its n-th step, and the next one too; the third may finish."""
    (tmp_path / "origin").mkdir()
    origin = World(tmp_path / "origin", keys)
    old, newest, report, other = origin.publish(1, 1), origin.publish(1, 2), origin.report(1), origin.publish(2, 1)
    expected = {old: "superseded", newest: "accepted", report: "report", other: "accepted"}
    step, alive = 0, False
    while not alive:
        step += 1
        root = tmp_path / f"killed-{step}"
        shutil.copytree(origin.root, root)
        alive = not killed(step, root, keys)
        if not alive:
            killed(step, root, keys)
        assert not killed(10_000, root, keys)
        world = World(root, keys)
        found = world.verdicts()
        assert found == expected, f"killed at step {step}"
        assert world.names("outgoing") == [] and not list(world.folder.spool.iterdir()), f"killed at step {step}"
        assert world.names("incoming") == LAID_OUT, f"killed at step {step}"
        assert not [path for path in world.folder.path.iterdir() if files.is_part(path)]
        sent: dict[str, str] = {}
        for path in world.door.arrived.iterdir():
            id, digest = said(path)["id"], files.sha256_file(path)
            assert sent.setdefault(id, digest) == digest, f"two submissions of {id}; killed at step {step}"
        assert sent.keys() == expected.keys() - {old}
        shutil.rmtree(root)
    assert step > 40, "hardly any step was counted: are the names still those that Bob uses?"
