"""Bob between the exchange folder and a door that is played here: sealing, shipping, releases, and `kill -9`.

The door implements what Bob uses of a connection, on files, so that it outlives a killed Bob.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import re
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
    DecisionError,
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
from fedssh.rules import records
from fedssh.rules.events import (
    Accepted,
    Finished,
    Refused,
    RoundAccepted,
)
from fedssh.signature import RELEASE, verify
from fedssh.transport import Answer, BusyError
from tests.harness.bob import RUN, Door, World, said
from tests.harness.killed import CALLS, Step, killed_counting

LAID_OUT = ["00000003.json", "00000003.safetensors", "genesis.json", "status.json"]


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
    assert "accepted session 1 epoch 1: accuracy 0.5100 beats 0.5000 (record 4)" in world.said[3][1]
    (first, _) = world.receipts
    arrived = world.door.arrived / "0000.bundle"
    assert (first["size"], first["sha256"]) == (arrived.stat().st_size, files.sha256_file(arrived))
    assert first["recipient"] == world.keys["coordinator"].public.fingerprint


ROUNDS = {"policy": "fedavg", "schedule": "rounds"}


@pytest.fixture
def rounds(tmp_path: Path, keys: dict[str, PrivateKey]) -> World:
    """The same in rounds: record 3 opens the first one, record 4 is the release."""
    world = World(tmp_path, keys, ROUNDS)
    world.start()
    return world


def test_an_update_that_is_taken_into_a_round_has_its_receipt(rounds: World) -> None:
    world = rounds
    update, report = world.publish(builds_on=4), world.report(builds_on=4)
    world.ship_all()
    assert world.verdicts() == {update: "counted", report: "report"}
    assert "counted session 1 epoch 1: update 1 of 1 in round 1 (record 5)" in world.said[3][1]
    assert len(world.spool) == 0


def test_the_end_of_a_round_is_told_once(rounds: World) -> None:
    door = rounds.door

    def close(accuracy: float) -> None:
        door.append(door.scored(door.sent(), 0.0))
        door.append(door.closing(accuracy))
        door.open_round()

    def told() -> list[str]:
        door.release()
        assert rounds.fetch()
        return [text for event, text in rounds.said if event == "round"]

    assert rounds.fetch() and told() == []
    close(0.9)
    one = "round 1 accepted: fedavg of 1 update: accuracy 0.9000 beats the best so far, 0.5000"
    assert told() == [one]
    assert told() == [one]
    close(0.3)
    assert told()[1:] == ["round 2 refused: fedavg of 1 update: accuracy 0.3000 is more than 0.01 below the best so "
                          "far, 0.9000"]  # fmt: skip


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
    forged = Door(world.root / "forged", world.keys, "stranger")
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
    note = json.loads((world.exchange / "incoming" / "00000003.json").read_bytes())
    assert note["site"] == "alice-1" and note["manifest"]["sequence"] == 3
    assert (world.exchange / "incoming" / "00000003.safetensors").read_bytes() == world.door.model.read_bytes()
    assert read_seen(world.folder.seen).sequence == 3
    made = []
    for _ in range(3):
        made.append(world.door.release().sequence)
        assert world.fetch()
    releases = [f"{n:08}.{kind}" for n in made[1:] for kind in ("json", "safetensors")]
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
    note = laid_out(world, "00000003.json")
    release = Release.from_bytes(canonical(note["manifest"]))
    verify(canonical(note["manifest"]), note["signature"], RELEASE, coordinator)
    genesis = (world.exchange / "incoming" / "genesis.json").read_bytes()
    assert genesis == world.door.history(0)[0] == world.folder.genesis.read_bytes()
    first, record = (chain.read_line(line, coordinator) for line in (genesis, note["record"].encode()))
    chain.check_release(release, record, first)
    assert release.model.sha256 == files.sha256_file(world.exchange / "incoming" / "00000003.safetensors")


def test_what_an_older_bob_laid_out_is_brought_again_with_its_signature(world: World) -> None:
    world.fetch()
    path = world.exchange / "incoming" / "00000003.json"
    old = {name: value for name, value in laid_out(world, path.name).items() if name in ("site", "manifest")}
    path.write_bytes(canonical(old))
    for genesis in (world.folder.genesis, world.exchange / "incoming" / "genesis.json"):
        genesis.unlink()
    world.start()
    assert world.fetch() and not world.fetch()
    assert world.door.asked == ["history --export --after 0", "history --export --after 2"]
    assert world.names("incoming") == LAID_OUT and "signature" in laid_out(world, path.name)
    world.door.release()
    assert world.fetch() and len(world.door.asked) == 2  # the genesis is kept, the record is among those followed


def test_the_history_begins_with_the_genesis_of_the_invitation(world: World) -> None:
    hashes = [hashlib.sha256(canonical(json.loads(json.loads(line)["record"]))).hexdigest()
              for line in world.door.history(0)]  # fmt: skip

    def invited_to(genesis: str) -> Incoming:
        return world.bob(
            Site("alice-1", "charity", "charity.example", 22, "", world.keys["coordinator"].public, genesis)
        )

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
    assert laid_out(world, "status.json") == nothing | {"newest": 3}
    world.door.later = "charity: later: the coordinator is not ready yet"
    assert not world.fetch() and laid_out(world, "status.json")["confirmed"] is None
    world.door.later = "charity: no release newer than 3 yet"
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
    assert laid_out(world, "status.json") == nothing | {"newest": 3}


def test_the_end_is_confirmed_soon(world: World) -> None:
    world.fetch()
    assert world.incoming.wait_seconds(300) == 300
    world.door.append(Finished(reason="it is good enough"))
    world.door.release()
    world.fetch()
    assert [world.incoming.wait_seconds(most) for most in (300, 5)] == [20, 5]
    again = World(world.root, world.keys)
    again.start()
    assert again.incoming.wait_seconds(300) == 20


def tell_other_history(world: World) -> None:
    """From now on the coordinator has another past, as long as the first and one release longer."""
    shutil.rmtree(world.root / "coordinator")
    world.door = Door(world.root / "coordinator", world.keys)
    for _ in range(2):
        world.door.release()


def tell_other_history_to_a_forgetful_bob(world: World) -> None:
    tell_other_history(world)
    world.folder.followed.unlink()
    world.incoming = world.bob()


def accept(world: World, accuracy: float) -> None:
    """Of a submission that is said to score so much."""
    door = world.door
    door.append(door.scored(door.sent(), accuracy))


def release_what_scores(world: World, accuracy: float, refuse: bool) -> None:
    world.incoming = world.bob(refuse=refuse)
    accept(world, accuracy)
    world.door.release()


FALSE_RELEASES: dict[str, tuple[Callable[[World], object], type[UntrustedError], str]] = {
    "signed by a site": (lambda w: w.door.release(w.keys["alice-2"]), SignatureError, "signed by key"),
    "older": (lambda w: w.door.release(sequence=1), RollbackError, "release 1, this site has seen 3"),
    "another with the same number": (
        lambda w: w.door.release(sequence=3, head="c" * 64), RollbackError, "release 3 has head cccc",
    ),
    "another history": (tell_other_history, RollbackError, "does not follow record 3"),
    "another history, where what was followed is gone": (
        tell_other_history_to_a_forgetful_bob, RollbackError, "record 3 is not the one that this site has seen",
    ),
    "a head that is not in the history": (
        lambda w: w.door.release(head="c" * 64), RollbackError, "head cccc",
    ),
    "a record that is not there": (lambda w: w.door.release(sequence=9), RollbackError, "ends at record 5"),
    "another plan than agreed": (
        lambda w: w.door.release(plan={"batch_size": 1}), BundleError, "'plan' of release 5 is not what record 1 says",
    ),
    "another architecture than agreed": (
        lambda w: w.door.release(architecture="c" * 64), BundleError, "another architecture than the manifest says",
    ),
    "other scores than recorded": (
        lambda w: w.door.release(metrics={"accuracy": 0.9}), BundleError, "'metrics' of release 5 is not what its",
    ),
    "a score that no model can have": (
        lambda w: release_what_scores(w, 1.5, True), DecisionError, "record 4 .* no model can score the accuracy 1.5",
    ),
    "a score that no model can have, where decisions are only told": (
        lambda w: release_what_scores(w, 1.5, False), BundleError, "which no model can have",
    ),
    "the end of the federation, which nobody recorded": (
        lambda w: w.door.release(federation=w.door.state().standing().fields() | {"state": "finished"}),
        BundleError, "'federation' of",
    ),
    "a record that is no release": (
        lambda w: w.door.release(sequence=4), RollbackError, "'site-added', not the release",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FALSE_RELEASES)
def test_a_false_release_is_refused_and_changes_nothing(world: World, case: str) -> None:
    tell, error, words = FALSE_RELEASES[case]
    world.fetch()
    seen, names = world.folder.seen.read_bytes(), world.names("incoming")
    tell(world)
    followed = world.folder.followed.exists() and world.folder.followed.read_bytes()
    world.incoming.after = lambda: 0  # type: ignore[method-assign]
    with pytest.raises(error, match=words):
        world.fetch()
    assert world.folder.seen.read_bytes() == seen and world.names("incoming") == names
    assert (world.folder.followed.exists() and world.folder.followed.read_bytes()) == followed
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


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("given", ["d" * 64, None])
def test_a_verdict_that_is_given_after_its_record_was_followed_is_held_against_it(
    world: World, given: str | None, restarted: bool
) -> None:
    world.fetch()
    world.publish()
    world.ship_all()
    lines = world.folder.receipts.read_text()
    world.folder.receipts.write_text("")  # the answer is still on its way
    world.door.release()
    assert world.fetch()
    (receipt,) = map(json.loads, lines.splitlines())
    assert receipt["sequence"] < read_seen(world.folder.seen).sequence
    world.folder.receipts.write_text(lines.replace(receipt["record"], given or receipt["record"]))
    if restarted:
        world.incoming = world.bob()
        world.start()
    world.door.release()
    if given is None:
        assert world.fetch()
        return
    for _ in range(2):  # it is not forgotten
        with pytest.raises(RollbackError, match=f"record {receipt['sequence']} is not the verdict this site was given"):
            world.fetch()


def test_another_coordinator_begins_with_another_history(world: World) -> None:
    for _ in range(3):
        world.door.release()
    world.fetch()
    world.publish()
    world.ship_all()
    assert world.names("incoming") == ["00000009.json", "00000009.safetensors", *LAID_OUT[2:]]
    invited = Site("alice-1", "charity", "charity.example", 22, "", world.keys["stranger"].public)
    former = (world.exchange / "incoming" / "genesis.json").read_bytes()
    world.folder.seen.rename(world.folder.seen.with_name("seen-former.json"))  # as `bob join --again` does
    world.folder.genesis.unlink()
    world.door, receipts = Door(world.root / "another", world.keys, "stranger"), world.receipts
    world.incoming = world.bob(invited)
    world.start()
    assert world.names("incoming") == ["status.json"]
    assert world.fetch()
    assert world.names("incoming") == LAID_OUT
    assert (world.exchange / "incoming" / "genesis.json").read_bytes() == world.door.history(0)[0] != former
    assert not world.fetch()
    assert len(list(receipts)) == 1
    assert followed_to(world) == read_seen(world.folder.seen).sequence == 3  # the new one's, not the former's
    world.door.release()
    assert world.fetch() and world.door.followed == [0, 3]


def followed_to(world: World) -> int:
    """How far the history was followed, as the file says."""
    value = json.loads(world.folder.followed.read_bytes())
    assert value["state"]["genesis"]["coordinator"] == world.door.key.public.line
    return int(value["sequence"])


# What the rules do not give


def refused_better(world: World) -> int:
    door = world.door
    better = vars(door.scored(door.sent(), 0.9))
    return door.append(Refused(**better | {"reason": "accuracy 0.9000 is below the current 0.5000"})).sequence


def accepted_worse(world: World) -> int:
    door = world.door
    return door.append(Accepted(**vars(door.scored(door.sent(), 0.4)))).sequence


def opened_for_others(world: World) -> int:
    door, state = world.door, world.door.state()
    assert state.round and len(state.round.sites) == 1
    door.append(door.scored(door.sent(state.round.sites[0]), 0.0))
    door.append(door.closing(0.6))
    drawn = records.opening(door.state())
    assert drawn
    [others] = {("alice-1",), ("alice-2",)} - {drawn.sites}
    return door.append(dataclasses.replace(drawn, sites=others)).sequence


def released_to_fewer(world: World) -> int:
    door = world.door
    accept(world, 0.6)
    due = door.due_release()
    assert len(due.recipients) == 2
    return door.release(said=dataclasses.replace(due, recipients=due.recipients[:1])).sequence


def left_out(world: World) -> int:
    door = world.door
    for site in ("alice-1", "alice-2"):
        door.append(door.scored(door.sent(site), 0.0))
    closing = door.closing(0.6)
    assert isinstance(closing, RoundAccepted)
    one = dataclasses.replace(closing.updates[0], share=1.0)
    return door.append(dataclasses.replace(closing, updates=(one,), missing=("alice-2",))).sequence


LIES: dict[str, tuple[dict[str, Any], Callable[[World], int], str]] = {
    "a worse model is accepted": (
        {}, accepted_worse, "accepted, .* refuses it: accuracy 0.4000 is below the current 0.5000",
    ),
    "a better one is refused": ({}, refused_better, "refused, .* accepts it: accuracy 0.9000 beats 0.5000"),
    "a round opens for others than were drawn": (
        ROUNDS | {"policy": "fedavg:fraction=0.5"}, opened_for_others,
        r'round-opened, .* sites is \["alice-.?"\], the record says \["alice-.?"\]',
    ),
    "a release is for fewer sites": ({}, released_to_fewer, r'release, .* recipients is \["SHA256:.*","SHA256'),
    "a round leaves an update out": (ROUNDS, left_out, "round-accepted, .* those of records 6, 7, the record says 6"),
}  # fmt: skip


@pytest.fixture(params=LIES)
def liar(request: pytest.FixtureRequest, tmp_path: Path, keys: dict[str, PrivateKey]) -> tuple[World, int, str]:
    """A site that has followed a history so far, in which record n is a lie now; and what is wrong with it."""
    agreed, lie, words = LIES[request.param]
    world = World(tmp_path, keys, agreed, ("alice-1", "alice-2"))
    world.start()
    assert world.fetch()
    number = lie(world)
    world.door.release()
    return world, number, words


def test_a_decision_that_the_rules_do_not_give_is_refused_and_named(liar: tuple[World, int, str]) -> None:
    world, number, words = liar
    kept = [world.folder.seen, world.folder.followed, *(world.exchange / "incoming").iterdir()]
    before = [path.read_bytes() for path in kept]
    for _ in range(2):  # also the next one who is started
        with pytest.raises(DecisionError, match=f"^record {number} is {words}") as caught:
            world.fetch()
        assert caught.value.exit_code == 3 and caught.value.hint and "its operator" in caught.value.hint
        assert [path.read_bytes() for path in kept] == before
        assert len(world.names("incoming")) == len(kept) - 2
        assert not [path for path in world.folder.path.iterdir() if files.is_part(path)]
        world.incoming = world.bob()


def test_a_decision_that_the_rules_do_not_give_is_only_told_where_that_is_wanted(liar: tuple[World, int, str]) -> None:
    world, number, words = liar
    with pytest.raises(DecisionError):
        world.fetch()
    world.incoming = world.bob(refuse=False)
    assert world.fetch() and not world.fetch()
    newest = world.door.state().sequence
    assert followed_to(world) == read_seen(world.folder.seen).sequence == newest
    [told] = [text for event, text in world.said if event == "decision"]
    assert re.match(f"record {number} is {words}", told)
    world.incoming = world.bob()  # what was told once is not asked again
    world.door.release()
    assert world.fetch() and followed_to(world) == world.door.state().sequence > newest
    assert len([event for event, _ in world.said if event == "decision"]) == 1


@pytest.mark.parametrize("left", [None, b"", b"{", b"[]", b'{"sequence":3}', b"null", b"\xff", b"another record"])
def test_where_nothing_is_known_of_the_state_the_history_is_followed_once_more(
    world: World, left: bytes | None
) -> None:
    """Of an older Bob there is no followed.json; it may be damaged, or of another record than the newest release."""
    world.incoming = world.bob(refuse=False)
    accepted_worse(world)  # an older one did not judge, and what was brought in then stays
    world.door.release()
    assert world.fetch()
    whole = json.loads(world.folder.followed.read_bytes())
    if left is None:
        world.folder.followed.unlink()
    elif left == b"another record":
        world.folder.followed.write_bytes(canonical(whole | {"sequence": 4}))
    else:
        world.folder.followed.write_bytes(left)
    said = len(world.said)
    for turn in range(3):
        world.incoming = world.bob()
        newest = world.door.release().sequence
        assert world.fetch() and followed_to(world) == newest
        assert len(world.door.followed) == 2 + turn
    first, again, *later = world.door.followed
    assert (first, again) == (0, 0) and later == [newest - 4, newest - 2]
    assert {event for event, _ in world.said[said:]} == {"release"}
    refused_better(world)
    world.door.release()
    with pytest.raises(DecisionError, match="best accepts it"):
        world.fetch()


def test_what_is_remembered_no_more_is_asked_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedssh.rules.replay.REMEMBERED", 2)
    early = world.door.sent()
    for _ in range(4):
        world.door.release()
        assert world.fetch()
    world.door.append(world.door.scored(early, 0.6))
    world.door.release()
    world.door.asked.clear()
    world.incoming = world.bob()
    assert world.fetch() and world.door.asked == ["history --export --after 2"]
    world.door.append(world.door.scored(dataclasses.replace(early, submission=new_id(), builds_on=2), 0.7))
    world.door.release()
    with pytest.raises(DecisionError, match="builds on record 2, which is no release"):
        world.fetch()


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
    step, unknown, alive = 0, 0, False
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
        assert read_seen(world.folder.seen).sequence == 3
        again = world.door.release().sequence
        assert world.fetch() and followed_to(world) == read_seen(world.folder.seen).sequence == again
        assert world.door.followed in ([3], [0]), f"killed at step {step}"
        unknown += world.door.followed == [0]
        world.door.release()
        assert world.fetch() and world.door.followed[1] == again
        assert not [event for event, _ in world.said if event == "decision"], f"killed at step {step}"
        assert not [path for path in world.folder.path.iterdir() if files.is_part(path)]
        sent: dict[str, str] = {}
        for path in world.door.arrived.iterdir():
            id, digest = said(path)["id"], files.sha256_file(path)
            assert sent.setdefault(id, digest) == digest, f"two submissions of {id}; killed at step {step}"
        assert sent.keys() == expected.keys() - {old}
        shutil.rmtree(root)
    assert unknown, "nobody was killed between seen.json and followed.json"
    assert step > 40, "hardly any step was counted: are the names still those that Bob uses?"
