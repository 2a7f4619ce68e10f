"""The policies through the real vault, with a stand-in judge whose accuracy is a weight: a mix scores the mix."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedssh.charity import enrol, operate
from fedssh.charity.serve import Coordinator
from fedssh.charity.vault import Vault
from fedssh.charity.verify import audit
from fedssh.errors import LedgerError, SettingsError
from fedssh.ledger import Ledger
from fedssh.rules import coordinator
from fedssh.rules.gate import standard_error
from fedssh.weights import read_weights
from tests.harness.judge import SHAPES
from tests.harness.room import Room, Rooms

THREE = ("alice-1", "alice-2", "alice-3")
FEDAVG = "fedavg:fraction=1,minimum=0.5,deadline=60,sites=1"


def rounds(new_room: Rooms, policy: str = FEDAVG, **agreement: Any) -> Room:
    terms = {"policy": policy, "schedule": "rounds", "gate": "on", "margin": 0.01}
    return new_room(agreement.pop("sites", THREE), **terms | agreement)


def accuracy(room: Room) -> float:
    return float(room.vault.state.current.metrics["accuracy"])


def told(room: Room, site: str = "alice-1") -> dict[str, Any]:
    """The state of the federation in the newest release, as a site opens it."""
    return room.opened(site)[0].federation


def rolled_back_while_mixing(room: Room, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Let the operator go back to the genesis while the judge mixes; what it is asked."""
    asked: list[tuple[Any, ...]] = []
    mix = room.judge.mix

    def rolls_back(*arguments: Any, **named: Any) -> list[dict[str, Any]]:
        if not asked:
            operate.roll_back(Vault(room.folders), 1, "while the judge was busy")
        asked.append(arguments)
        return mix(*arguments, **named)

    monkeypatch.setattr(room.judge, "mix", rolls_back)
    return asked


# without rounds


def test_polyak_moves_the_current_model_by_its_share(new_room: Rooms) -> None:
    room = new_room(policy="polyak:keep=0.75", gate="on", margin=0.01)
    submission = room.submit("alice-1", 0.9)
    room.work()
    verdict = room.verdict("alice-1", submission)
    assert verdict["event"] == "accepted"
    assert (verdict["share"], verdict["staleness"]) == (0.25, 0)
    assert accuracy(room) == pytest.approx(0.6)  # 0.75 * 0.5 + 0.25 * 0.9
    stored = room.folders.model(verdict["model"]["sha256"])
    tensors = read_weights(stored, {"dense1/kernel": (4, 2), "output/bias": (1,)})
    assert tensors["output/bias"] == np.float32(0.75 * 0.5 + 0.25 * np.float64(np.float32(0.9)))
    assert not room.folders.model(verdict["candidate"]["sha256"]).exists()
    assert not list(room.folders.opened.iterdir())
    assert list(room.folders.evidence.glob("*.bundle"))  # the bundle as the site signed it
    assert audit(room.folders)["models"] == 2


def test_polyak_behind_the_gate_refuses_what_pulls_the_model_down(new_room: Rooms) -> None:
    room = new_room(policy="polyak:keep=0.5", gate="on", margin=0.01)
    refused, near = room.submit("alice-1", 0.4), room.submit("alice-2", 0.49)
    room.work()
    verdict = room.verdict("alice-1", refused)
    assert verdict["event"] == "refused"
    assert "0.4500 is more than 0.01 below the best so far, 0.5000" in verdict["reason"]
    assert room.verdict("alice-2", near)["event"] == "accepted"
    assert accuracy(room) == pytest.approx(0.495)
    assert not list(room.folders.opened.iterdir())


def test_polyak_without_a_gate_takes_what_comes(new_room: Rooms) -> None:
    room = new_room(policy="polyak:keep=0.5", gate="off", margin=0.01)
    room.submit("alice-1", 0.1)
    room.work()
    assert accuracy(room) == pytest.approx(0.3)


def test_merge_discounts_what_started_from_an_older_release(new_room: Rooms) -> None:
    room = new_room(policy="merge:steps=2,staleness=1", gate="on", margin=0.01)
    old = room.release()
    fresh, stale = room.submit("alice-1", 0.6, builds_on=old), room.submit("alice-2", 1.6, builds_on=old)
    room.work()
    assert room.verdict("alice-1", fresh)["share"] == 1.0
    verdict = room.verdict("alice-2", stale)
    assert (verdict["share"], verdict["staleness"]) == (0.25, 1)
    assert accuracy(room) == pytest.approx(0.85)  # 0.75 * 0.6 + 0.25 * 1.6
    worse = room.submit("alice-1", 0.2)
    room.work()
    assert room.verdict("alice-1", worse)["event"] == "refused"


def test_merge_scores_what_a_site_sent_however_old_its_start(new_room: Rooms) -> None:
    room = new_room(policy="merge:steps=2,staleness=1", gate="on", margin=0.01)
    old = room.release()
    room.submit("alice-1", 0.6, builds_on=old)
    stale = room.submit("alice-2", 0.9, builds_on=old)
    room.work()
    assert room.verdict("alice-2", stale)["share"] == 1.0
    assert accuracy(room) == pytest.approx(0.9)


def changed(room: Room, site: str, accuracy: float, **changes: Any) -> str:
    """Submit the first model with only its last weight changed: every step leaves the others as they are."""
    first = read_weights(room.folders.model(room.vault.state.genesis.model.sha256), SHAPES)
    model = room.model(accuracy, **{"dense1/kernel": first["dense1/kernel"]})
    return room.submit(site, accuracy, model=model, **changes)


def test_a_step_adds_what_a_site_changed_and_its_later_ones_only_the_rest(new_room: Rooms) -> None:
    room = new_room(policy="step:parts=2,staleness=1", gate="on", margin=0.01)
    old = room.release()
    first, other = changed(room, "alice-1", 0.7, builds_on=old), changed(room, "alice-2", 0.6, builds_on=old)
    room.work()
    assert "base" not in room.verdict("alice-1", first)  # the current model is what it started from
    verdict = room.verdict("alice-2", other)
    assert (verdict["share"], verdict["staleness"]) == (0.5, 1)
    assert accuracy(room) == pytest.approx(0.75)  # 0.7 + 0.5 * (0.6 - 0.5): a mix would be below 0.7
    kept = room.folders.update(verdict["candidate"]["sha256"])
    assert kept.exists() and not list(room.folders.opened.iterdir())
    later = changed(room, "alice-2", 0.64, builds_on=old, epoch=2)
    room.work()
    verdict = room.verdict("alice-2", later)
    assert verdict["base"]["sha256"] == kept.stem and not kept.exists()  # another one is the newest of that session
    assert accuracy(room) == pytest.approx(0.77)  # its first step is there already: 0.75 + 0.5 * (0.64 - 0.6)
    assert room.folders.update(verdict["candidate"]["sha256"]).exists()
    room.report("alice-2")
    room.work()
    assert not list(room.folders.updates.iterdir())
    assert audit(room.folders)["models"] == 4


def test_what_sites_cannot_bring_alone_waits_and_is_taken_together(new_room: Rooms) -> None:
    """Their steps spoil what the other's are for: alone each makes the model worse, their mean makes it better."""
    room = new_room(policy="gather:parts=1,staleness=0", gate="on", margin=0.01)
    old = room.release()
    high, low = changed(room, "alice-1", 0.2, builds_on=old), changed(room, "alice-2", 0.3, builds_on=old)
    room.work()
    refused = room.verdict("alice-1", high)
    assert refused["event"] == "refused" and "slots" not in refused
    second = room.verdict("alice-2", low)
    assert second["event"] == "refused" and second["slots"] == [refused["sequence"]]
    kept = {room.folders.update(one["candidate"]["sha256"]) for one in (refused, second)}
    assert set(room.folders.updates.iterdir()) == kept
    vault = Vault(room.folders)
    vault.sweep_models()  # as when she is started again
    assert vault.state.slots == room.vault.state.slots and set(room.folders.updates.iterdir()) == kept
    better = changed(room, "alice-1", 0.62, builds_on=old, epoch=2)
    room.work()
    verdict = room.verdict("alice-1", better)
    assert verdict["event"] == "accepted" and "slots" not in verdict  # its own step alone is better than with the other
    assert set(room.vault.state.slots) == {"alice-2"}
    assert audit(room.folders)["models"] == 2
    room.folders.update(second["candidate"]["sha256"]).unlink()
    last = changed(room, "alice-1", 0.64, builds_on=old, epoch=3)
    room.work()  # what waits and is gone keeps nobody from being judged
    assert room.verdict("alice-1", last)["event"] == "accepted"
    changed(room, "alice-2", 0.1, builds_on=old, epoch=2)
    room.work()
    assert any(room.folders.updates.iterdir()) and set(room.vault.state.slots) == {"alice-2"}
    enrol.revoke(room.vault, "alice-2", "it left")
    assert not list(room.folders.updates.iterdir())  # who is revoked waits no longer


def test_a_step_goes_on_after_the_coordinator_was_started_again(new_room: Rooms) -> None:
    room = new_room(policy="step:parts=1,staleness=0", gate="on", margin=0.01)
    old = room.release()
    changed(room, "alice-1", 0.6, builds_on=old)
    changed(room, "alice-2", 0.6, builds_on=old)
    room.work()
    vault = Vault(room.folders)
    vault.sweep_models()
    assert vault.state.taken == room.vault.state.taken and set(vault.state.taken) == {"alice-1", "alice-2"}
    later = changed(room, "alice-2", 0.65, builds_on=old, epoch=2)
    room.work()
    assert (
        room.verdict("alice-2", later)["base"]["sha256"]
        == room.vault.ledger.record(room.verdict("alice-2", later)["against"]).fields["candidate"]["sha256"]
    )
    assert accuracy(room) == pytest.approx(0.75)


def test_a_site_is_not_stale_for_what_it_sent_itself(new_room: Rooms) -> None:
    room = new_room(policy="merge:steps=2,staleness=1", gate="on", margin=0.01)
    old = room.release()
    room.submit("alice-1", 0.6, builds_on=old)
    later = room.submit("alice-1", 1.4, builds_on=old, epoch=2)
    room.work()
    verdict = room.verdict("alice-1", later)
    assert (verdict["share"], verdict["staleness"]) == (0.5, 0)
    operate.roll_back(Vault(room.folders), 1, "all over again")
    after = room.submit("alice-1", 0.7, builds_on=old, epoch=3)
    room.work()
    assert room.verdict("alice-1", after)["staleness"] == 1


def test_a_candidate_scored_against_a_model_that_was_rolled_back_meanwhile_is_scored_again(
    new_room: Rooms, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = new_room(policy="polyak:keep=0.5", gate="off", margin=0.01)
    room.submit("alice-1", 0.9)
    room.work()
    assert accuracy(room) == pytest.approx(0.7)
    room.submit("alice-2", 0.9)
    asked = rolled_back_while_mixing(room, monkeypatch)
    room.work()
    assert accuracy(room) == pytest.approx(0.7)  # half of genesis' 0.5, not of the 0.7 that was current before
    assert len(asked) == 4  # scored and written, twice
    assert not list(room.folders.opened.iterdir())


def test_merge_does_not_release_a_mix_with_a_model_that_was_rolled_back_meanwhile(
    new_room: Rooms, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = new_room(policy="merge:steps=2,staleness=0", gate="on", margin=0.01)
    room.submit("alice-1", 0.9)
    room.work()
    rolled_back_while_mixing(room, monkeypatch)
    submission = room.submit("alice-2", 0.4)  # half of it and half of 0.9 is better than genesis
    room.work()
    assert room.verdict("alice-2", submission)["event"] == "refused"
    assert accuracy(room) == 0.5


def test_a_judge_that_dies_of_a_mix_refuses_the_candidate_only(new_room: Rooms) -> None:
    room = new_room(policy="merge:steps=2,staleness=1", gate="on", margin=0.01)
    bad, good = room.submit("alice-1", 3.0), room.submit("alice-2", 0.8)
    room.work()
    assert room.verdict("alice-1", bad)["reason"] == "the judge died of SIGKILL"
    assert room.verdict("alice-2", good)["event"] == "accepted"


def test_a_ladder_tells_no_more_than_its_steps(new_room: Rooms) -> None:
    room = new_room(policy="best", gate="ladder", margin=0.1)
    little, much = room.submit("alice-1", 0.57), room.submit("alice-2", 0.84)
    room.work()
    verdict = room.verdict("alice-1", little)
    assert (verdict["event"], verdict["metrics"]) == ("refused", None)
    assert "0.57" not in json.dumps(verdict)
    assert room.verdict("alice-2", much)["metrics"] == {"accuracy": 0.8, "auc": None, "loss": 0.2}
    again = room.submit("alice-1", 0.87)
    room.work()
    assert room.verdict("alice-1", again)["event"] == "refused"  # 0.87 is not above 0.8 + 0.1


def test_a_parameter_free_ladder_tells_what_an_accepted_model_had_to_beat(new_room: Rooms) -> None:
    room = new_room(policy="best", gate="parameter-free-ladder", margin=0.0)  # 100 images, of which the first are right
    little, much = room.submit("alice-1", 0.51), room.submit("alice-2", 0.54)
    room.work()
    refused, accepted = room.verdict("alice-1", little), room.verdict("alice-2", much)
    assert (refused["event"], refused["metrics"], "margin" in refused) == ("refused", None, False)
    assert "0.51" not in json.dumps(refused)
    assert accepted["metrics"] == {"accuracy": 0.54, "auc": None, "loss": 0.46}
    assert accepted["margin"] == standard_error(0, 4, 100)
    again = room.submit("alice-1", 0.55)  # one image above what is the current model now
    room.work()
    assert room.verdict("alice-1", again)["event"] == "refused"


@pytest.mark.parametrize("policy", ["merge:steps=2,staleness=0", "fedavg"])
def test_a_parameter_free_ladder_pairs_mixes_and_rounds(new_room: Rooms, policy: str) -> None:
    rounds = policy == "fedavg"
    room = new_room(policy=policy, gate="parameter-free-ladder", margin=0.0, schedule="rounds" if rounds else "free")
    base = room.release()
    room.submit("alice-1", 0.56, builds_on=base)
    if rounds:
        room.submit("alice-2", 0.6, builds_on=base)
    room.work()
    made = next(one.fields for one in room.vault.ledger.records() if one.event in ("round-accepted", "accepted"))
    assert made["metrics"]["accuracy"] == (0.58 if rounds else 0.56)
    assert made["margin"] == standard_error(0, 8 if rounds else 6, 100)


def test_a_ladder_does_not_tell_which_mix_of_a_refused_candidate_scored_best(new_room: Rooms) -> None:
    room = new_room(policy="merge:steps=2,staleness=0", gate="ladder", margin=0.1)
    said = []
    for number, value in enumerate((0.45, 0.55), 1):  # best as half of it, and as it is
        submission = room.submit(f"alice-{number}", value)
        room.work()
        verdict = room.verdict(f"alice-{number}", submission)
        assert verdict["event"] == "refused"
        said.append((verdict["share"], verdict["reason"]))
    assert said == [(None, "accuracy does not beat 0.5000 by more than 0.1")] * 2


# rounds


def test_a_round_opens_by_itself_and_is_told_in_the_release(new_room: Rooms) -> None:
    room = rounds(new_room)
    room.work()
    federation = told(room)
    assert federation["round"] == {"number": 1, "sites": list(THREE), "of": None}
    assert (federation["turns"], federation["schedule"], federation["sessions"]) == (1, "rounds", None)


def test_a_round_closes_with_the_last_update_and_the_next_one_opens(new_room: Rooms) -> None:
    room = rounds(new_room)
    base = room.release()
    counted = [room.submit(site, value, builds_on=base, examples=n) for site, value, n in
               zip(THREE, (0.6, 0.7, 0.9), (10, 10, 20), strict=True)]  # fmt: skip
    room.work()
    assert [room.verdict(site, one)["event"] for site, one in zip(THREE, counted, strict=True)] == ["counted"] * 3
    closed = next(record for record in room.vault.ledger.records() if record.event == "round-accepted").fields
    assert accuracy(room) == pytest.approx((0.6 * 10 + 0.7 * 10 + 0.9 * 20) / 40, abs=1e-4)
    assert [(part["site"], part["share"]) for part in closed["updates"]] == [
        ("alice-1", 0.25), ("alice-2", 0.25), ("alice-3", 0.5)]  # fmt: skip
    assert room.events()[-4:] == ["counted", "round-accepted", "round-opened", "release"]
    assert told(room)["round"]["number"] == 2
    assert told(room)["last"]["event"] == "round-accepted"
    assert not list(room.folders.updates.iterdir())
    assert not list(room.folders.opened.iterdir())
    assert len(list(room.folders.evidence.glob("*.bundle"))) == 3  # as the sites signed them
    assert audit(room.folders)["models"] == 2


def test_the_order_of_arrival_changes_nothing(new_room: Rooms, tmp_path: Path) -> None:
    models = []
    for order in (THREE, THREE[::-1]):
        room = rounds(new_room)
        base = room.release()
        for site in order:
            room.submit(site, 0.6 + 0.1 * int(site[-1]) / 3, builds_on=base, examples=7 * int(site[-1]))
        room.work()
        models.append(room.vault.state.current.model.sha256)
        room.folders.state.rename(tmp_path / f"done-{len(models)}")
    assert models[0] == models[1]


def test_a_round_closes_at_its_deadline_without_the_missing(new_room: Rooms) -> None:
    room = rounds(new_room)
    base = room.release()
    room.submit("alice-1", 0.7, builds_on=base)
    room.submit("alice-3", 0.7, builds_on=base)
    room.work()
    assert accuracy(room) == 0.5
    room.late = 61
    room.work()
    assert accuracy(room) == pytest.approx(0.7)
    closed = [record for record in room.vault.ledger.records() if record.event == "round-accepted"]
    assert [record.fields["missing"] for record in closed] == [["alice-2"]]
    late = room.submit("alice-2", 0.9, builds_on=base)
    room.work()
    assert room.verdict("alice-2", late)["reason"] == "round 1 is closed; round 2 is open"


def test_a_site_whose_training_diverged_is_not_waited_for(new_room: Rooms) -> None:
    room = rounds(new_room)
    base = room.release()
    room.submit("alice-1", 0.7, builds_on=base)
    room.report("alice-1", builds_on=base)
    room.submit("alice-2", 0.7, builds_on=base)
    room.work()
    assert accuracy(room) == 0.5
    room.report("alice-3", builds_on=base, checkpoints=0, metrics=None)
    room.work()
    assert accuracy(room) == pytest.approx(0.7)
    closed = next(record for record in room.vault.ledger.records() if record.event == "round-accepted")
    assert closed.fields["missing"] == ["alice-3"]
    # What it reports of an older round does not count in this one.
    room.report("alice-2", builds_on=base, checkpoints=0, metrics=None)
    room.work()
    assert room.round.empty == ()


def test_a_site_that_sends_garbage_is_not_waited_for_but_may_still_send_an_update(new_room: Rooms) -> None:
    room = rounds(new_room)
    base = room.release()
    nan = {"output/bias": np.array([np.nan], np.float32)}
    room.submit("alice-3", 0.0, builds_on=base, model=room.model(0.0, **nan))
    room.submit("alice-1", 0.7, builds_on=base)
    room.work()
    assert room.round.awaited == ("alice-2",)
    good = room.submit("alice-3", 0.9, builds_on=base)
    room.submit("alice-2", 0.8, builds_on=base)
    room.work()
    assert room.verdict("alice-3", good)["event"] == "counted"
    assert accuracy(room) == pytest.approx(0.8)


def test_too_few_at_the_deadline_and_all_may_help(new_room: Rooms) -> None:
    room = rounds(new_room, "fedavg:fraction=0.67,minimum=1,deadline=60,sites=1")
    base = room.release()
    chosen = room.round.sites
    (other,) = set(THREE) - set(chosen)
    early = room.submit(other, 0.6, builds_on=base)
    room.submit(chosen[0], 0.7, builds_on=base)
    room.work()
    assert room.verdict(other, early)["reason"] == f"{other} is not among the sites of round 1"
    room.late = 61
    room.work()
    assert "round-extended" in room.events()
    assert set(told(room)["round"]["sites"]) == set(THREE)
    room.submit(other, 0.9)
    room.work()
    assert accuracy(room) == pytest.approx(0.8)


def test_a_site_that_sends_twice_counts_once(new_room: Rooms) -> None:
    room = rounds(new_room)
    base = room.release()
    first, second = room.submit("alice-1", 0.7, builds_on=base), room.submit("alice-1", 0.9, builds_on=base)
    room.work()
    assert room.verdict("alice-1", first)["event"] == "counted"
    assert room.verdict("alice-1", second)["reason"] == "alice-1 has an update in round 1 already"
    assert len(list(room.folders.updates.iterdir())) == 1


def test_a_failed_gate_is_recorded_and_told(new_room: Rooms) -> None:
    room = rounds(new_room)
    base = room.release()
    for site in THREE:
        room.submit(site, 0.3, builds_on=base)
    room.work()
    refused = next(record for record in room.vault.ledger.records() if record.event == "round-refused")
    assert refused.fields["metrics"]["accuracy"] == 0.3
    assert accuracy(room) == 0.5
    last = told(room)["last"]
    assert (last["round"], last["event"]) == (1, "round-refused")
    assert "0.3000 is more than 0.01 below the best so far, 0.5000" in last["reason"]
    assert told(room)["round"]["number"] == 2
    assert not list(room.folders.opened.iterdir())


def test_without_a_gate_the_round_counts(new_room: Rooms) -> None:
    room = rounds(new_room, gate="off")
    base = room.release()
    for site in THREE:
        room.submit(site, 0.3, builds_on=base)
    room.work()
    assert accuracy(room) == pytest.approx(0.3)


def test_a_site_revoked_in_the_middle_has_no_part(new_room: Rooms) -> None:
    room = rounds(new_room)
    base = room.release()
    room.submit("alice-1", 0.1, builds_on=base)
    room.submit("alice-2", 0.7, builds_on=base)
    room.work()
    enrol.revoke(room.vault, "alice-1", "its data are not its own")
    room.submit("alice-3", 0.9, builds_on=base)
    room.work()
    assert accuracy(room) == pytest.approx(0.8)
    closed = next(record for record in room.vault.ledger.records() if record.event == "round-accepted")
    assert [part["site"] for part in closed.fields["updates"]] == ["alice-2", "alice-3"]
    assert not list(room.folders.updates.iterdir())


def test_a_site_that_joins_late_is_in_the_next_round(new_room: Rooms, tmp_path: Path) -> None:
    room = rounds(new_room, sites=("alice-1", "alice-2"))
    base = room.release()
    public = tmp_path / "alice-3.pub"
    public.write_text(f"{room.keys['alice-3'].public.line} alice-3\n")
    enrol.add(room.vault, "alice-3", public, "site")
    room.work()
    assert told(room, "alice-3")["round"]["sites"] == ["alice-1", "alice-2"]
    eager = room.submit("alice-3", 0.9)
    for site in ("alice-1", "alice-2"):
        room.submit(site, 0.7, builds_on=base)
    room.work()
    assert room.verdict("alice-3", eager)["reason"] == "alice-3 is not among the sites of round 1"
    assert told(room, "alice-3")["round"] == {"number": 2, "sites": list(THREE), "of": None}


def test_rounds_end_the_federation_when_as_many_have_closed_as_agreed(new_room: Rooms) -> None:
    room = rounds(new_room, sessions=2)
    for _ in range(2):
        base = room.release()
        for site in THREE:
            room.submit(site, 0.7, builds_on=base)
        room.work()
    assert room.vault.state.finished
    assert told(room)["state"] == "finished"
    assert told(room)["round"] is None
    assert next(r for r in room.vault.ledger.records() if r.event == "finished").fields["reason"] == (
        "2 rounds closed, as agreed"
    )
    operate.reopen(room.vault, 3, "one more")
    room.work()
    assert told(room)["round"] == {"number": 3, "sites": list(THREE), "of": 3}


def test_no_round_opens_before_the_rule_has_enough_sites(new_room: Rooms, caplog: pytest.LogCaptureFixture) -> None:
    room = rounds(new_room, "krum:faulty=1,fraction=1,minimum=0.5,deadline=60,sites=1")
    caplog.set_level("INFO", "charity")
    coordinator = room.coordinator
    for _ in range(3):
        coordinator.work()
    said = [message for message in caplog.messages if "no round" in message]
    assert said == ["no round opens before 2 more sites are enrolled: 3 of 5"]
    assert room.vault.state.round is None
    assert told(room)["round"] is None


def test_a_poisoned_update_does_not_move_the_median(new_room: Rooms) -> None:
    room = rounds(new_room, "median:fraction=1,minimum=0.5,deadline=60,sites=1", gate="off")
    base = room.release()
    for site, value in zip(THREE, (0.7, 0.72, -1e6), strict=True):
        room.submit(site, value, builds_on=base)
    room.work()
    assert accuracy(room) == pytest.approx(0.7)


def test_a_judge_killed_while_it_averages_costs_no_update(new_room: Rooms, monkeypatch: pytest.MonkeyPatch) -> None:
    room = rounds(new_room)
    base = room.release()
    for site in THREE:
        room.submit(site, 0.7, builds_on=base)
    judge, read = room.judge, room.judge._read
    killed: list[int] = []

    def kill_first(*arguments: Any) -> Any:
        if not killed and judge.pid and arguments[1] == "answer":
            killed.append(judge.pid)
            os.kill(judge.pid, signal.SIGKILL)
        return read(*arguments)

    monkeypatch.setattr(judge, "_read", kill_first)
    room.work()
    assert killed and judge.pid != killed[0]
    assert accuracy(room) == pytest.approx(0.7)
    assert [record.event for record in room.vault.ledger.records()].count("round-accepted") == 1


def test_a_round_never_waits_for_more_than_are_left_of_those_it_selected(new_room: Rooms, tmp_path: Path) -> None:
    room = rounds(new_room, "fedavg:fraction=1,minimum=1,deadline=60,sites=1", sites=("alice-1", "alice-2"))
    base = room.release()
    public = tmp_path / "alice-3.pub"
    public.write_text(f"{room.keys['alice-3'].public.line} alice-3\n")
    enrol.revoke(room.vault, "alice-1", "gone")
    enrol.add(room.vault, "alice-3", public, "site")
    room.late = 61
    room.work()
    assert "round-extended" in room.events()
    room.submit("alice-3", 0.9, builds_on=base)
    room.work()  # alice-2 is silent for ever
    assert accuracy(room) == pytest.approx(0.9)


def test_the_server_optimizer_goes_on_where_it_was(new_room: Rooms) -> None:
    options = "fraction=1,minimum=0.5,deadline=60,sites=1,server=momentum,rate=1,momentum=0.5"
    room = rounds(new_room, f"fedavg:{options}", gate="off")
    seen = []
    for value in (0.6, 0.6):
        base = room.release()
        for site in THREE:
            room.submit(site, value, builds_on=base)
        room = restarted(room)
        room.work()
        seen.append(accuracy(room))
    # step 1: 0.5 + 0.1; step 2: momentum 0.5 * 0.1 + (0.6 - 0.6)
    assert seen == [pytest.approx(0.6), pytest.approx(0.65)]
    assert len(list(room.folders.server.iterdir())) == 1
    operate.roll_back(room.vault, 1, "anew")
    base = room.release()
    for site in THREE:
        room.submit(site, 0.6, builds_on=base)
    room.work()
    assert accuracy(room) == pytest.approx(0.6)  # after a rollback the optimizer begins anew


def test_a_rollback_ends_the_round_whose_updates_started_from_what_it_takes_back(new_room: Rooms) -> None:
    room = rounds(new_room)
    for site in THREE:
        room.submit(site, 0.9)
    room.work()
    old = room.release()
    counted = room.submit("alice-1", 0.9, builds_on=old)
    room.work()
    assert room.verdict("alice-1", counted)["round"] == 2
    operate.roll_back(room.vault, 1, "mislabelled images")
    late = [room.submit(site, 0.9, builds_on=old) for site in ("alice-2", "alice-3")]
    room.work()
    assert accuracy(room) == 0.5
    assert told(room)["last"] == {"round": 2, "event": "round-refused", "reason": "rolled back to record 1"}
    assert told(room)["round"]["number"] == 3
    assert room.verdict("alice-2", late[0])["reason"] == "round 2 is closed"
    assert not list(room.folders.updates.iterdir())


def test_a_federation_reopened_after_an_end_in_the_middle_of_a_round_asks_every_site_anew(new_room: Rooms) -> None:
    room = rounds(new_room, "fedavg:minimum=1", sessions=3)
    base = room.release()
    room.submit("alice-1", 0.7, builds_on=base)
    room.work()
    operate.finish(room.vault, "good enough")
    room.work()
    assert told(room)["last"] == {"round": 1, "event": "round-refused", "reason": "the federation was finished"}
    operate.reopen(room.vault, 3, "not yet")
    room.work()
    assert told(room)["round"] == {"number": 2, "sites": list(THREE), "of": 3}  # alice-1 has trained round 1 already


def test_rounds_are_reopened_for_more_than_have_closed(new_room: Rooms) -> None:
    room = rounds(new_room, sessions=2)
    for _ in range(2):
        base = room.release()
        for site in THREE:
            room.submit(site, 0.7, builds_on=base)
        room.work()
    with pytest.raises(SettingsError, match="2 rounds have closed already") as refused:
        operate.reopen(room.vault, 2, "once more")
    assert "--sessions 3" in str(refused.value.hint)


def test_a_judge_whose_disk_is_full_decides_nothing(new_room: Rooms) -> None:
    room = rounds(new_room)
    base = room.release()
    for site in THREE:
        room.submit(site, 5.0, builds_on=base)
    with pytest.raises(OSError, match="No space left"):
        room.work()
    assert room.events()[-3:] == ["counted"] * 3
    assert len(room.round.updates) == 3


@pytest.mark.parametrize("updates", [0, 1])
def test_a_round_that_nobody_can_complete_any_more_is_refused_and_the_next_one_opens(
    new_room: Rooms, updates: int
) -> None:
    room = rounds(new_room)  # two updates suffice
    base = room.release()
    for site in THREE[:updates]:
        room.submit(site, 0.9, builds_on=base)
    for site in THREE[updates:]:
        room.report(site, builds_on=base, checkpoints=0, metrics=None)
    room.work()
    reason = f"{updates} of 2 updates, and no site is left that could send one"
    assert told(room)["last"] == {"round": 1, "event": "round-refused", "reason": reason}
    assert told(room)["round"] == {"number": 2, "sites": list(THREE), "of": None}
    assert accuracy(room) == 0.5


def test_a_site_enrolled_again_with_another_key_is_asked_in_the_next_round(new_room: Rooms, tmp_path: Path) -> None:
    room = rounds(new_room, sites=("alice-1", "alice-2"))
    room.submit("alice-1", 0.7)
    room.work()
    public = tmp_path / "new.pub"
    public.write_text(f"{room.keys['alice-3'].public.line} alice-1\n")
    enrol.revoke(room.vault, "alice-1", "a new key")
    enrol.revoke(room.vault, "alice-2", "gone")
    enrol.add(room.vault, "alice-1", public, "site")
    room.work()
    assert "round-extended" not in room.events()  # alice-1 has trained for round 1: nothing more will come of it there
    assert room.vault.state.last and room.vault.state.last.event == "round-refused"
    assert room.round.number == 2
    assert room.round.sites == ("alice-1",)


def test_a_federation_that_began_before_there_were_gates_goes_on(new_room: Rooms) -> None:
    room = new_room(policy="best")
    room.release()
    records = room.vault.ledger.records()
    room.vault.ledger.close()
    for path in room.folders.ledger.parent.glob(f"{room.folders.ledger.name}*"):
        path.unlink()
    (room.folders.outbox / "ledger.jsonl").unlink()
    ledger = Ledger.create(room.folders.ledger)
    for record in records:
        fields = {name: value for name, value in record.fields.items() if name not in ("gate", "margin", "epochs")}
        if record.event == "release":
            new = ("gate", "margin", "version", "round", "last")
            fields["federation"] = {
                name: fields["federation"][name] for name in fields["federation"] if name not in new
            }
        ledger.append(record.event, fields, room.keys["coordinator"])
    ledger.close()
    old = records[-1].sequence
    restarted(room)
    assert (told(room)["gate"], told(room)["version"]) == ("off", 0)
    better, worse = room.submit("alice-1", 0.7, builds_on=old), room.submit("alice-2", 0.6, builds_on=old)
    room.work()
    assert room.verdict("alice-1", better)["event"] == "accepted"
    assert room.verdict("alice-2", worse)["event"] == "refused"


def restarted(room: Room) -> Room:
    room.vault = Vault(room.folders)
    Coordinator(room.vault, room.judge).recover()
    return room


def test_an_update_that_is_gone_from_the_disk_refuses_the_round_with_a_reason(new_room: Rooms) -> None:
    room = rounds(new_room)
    base = room.release()
    for site, value in (("alice-1", 0.7), ("alice-2", 0.71)):
        room.submit(site, value, builds_on=base)
    room.work()
    next(room.folders.updates.iterdir()).unlink()
    room.submit("alice-3", 0.72, builds_on=base)
    room.work()
    assert told(room)["last"]["event"] == "round-refused"
    assert "No such file" in told(room)["last"]["reason"]
    assert told(room)["round"]["number"] == 2


def test_an_update_equal_to_the_release_does_not_take_the_current_model_away(new_room: Rooms) -> None:
    room = rounds(new_room, sites=("alice-1", "alice-2"))
    base = room.release()
    current = room.folders.model(room.vault.state.current.model.sha256)
    for site in ("alice-1", "alice-2"):
        copy = room.folders.state.parent / f"{site}.safetensors"
        os.link(current, copy)
        room.submit(site, 0.5, builds_on=base, model=copy)
    room.work()
    assert accuracy(room) == 0.5
    assert audit(room.folders)["models"] == 1
    assert told(room)["round"]["number"] == 2


def enroller(room: Room, tmp_path: Path) -> Callable[[str], None]:
    """Enrols a site as another command does, with the key of that name."""

    def enrolled(site: str) -> None:
        public = tmp_path / f"{site}.pub"
        public.write_text(f"{room.keys[site].public.line} {site}\n")
        enrol.add(Vault(room.folders), site, public, "site")

    return enrolled


def test_a_round_is_not_closed_when_somebody_is_enrolled_who_could_still_send_an_update(
    new_room: Rooms, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = rounds(new_room, policy="fedavg:minimum=1,deadline=1000", sites=("alice-1", "alice-2"))
    base, enrolled, combined = room.release(), enroller(room, tmp_path), coordinator._combined

    def meanwhile(*words: Any) -> Any:
        if room.vault.state.member("alice-3") is None:
            enrolled("alice-3")
        return combined(*words)

    monkeypatch.setattr(coordinator, "_combined", meanwhile)
    room.submit("alice-1", 0.7, builds_on=base)
    room.report("alice-2", builds_on=base, checkpoints=0, metrics=None)
    room.work()
    assert "round-refused" not in room.events()
    room.work()
    assert room.round.sites == ("alice-1", "alice-2", "alice-3") and "round-extended" in room.events()
    audit(room.folders)


def test_a_site_that_is_enrolled_again_while_its_bundle_is_looked_at_is_judged(
    new_room: Rooms, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = new_room(policy="best")
    submission, enrolled, refuse = room.submit("alice-1", 0.8), enroller(room, tmp_path), coordinator.refuse
    enrol.revoke(room.vault, "alice-1", "by mistake")

    def meanwhile(*words: Any) -> Any:
        enrolled("alice-1")
        return refuse(*words)

    monkeypatch.setattr(coordinator, "refuse", meanwhile)
    room.work()
    assert room.verdict("alice-1", submission)["event"] == "accepted"
    audit(room.folders)


def test_a_first_model_that_is_damaged_is_the_fault_of_no_site(new_room: Rooms) -> None:
    room = new_room(policy="best")
    first = room.folders.model(room.vault.state.genesis.model.sha256)
    kept = first.read_bytes()
    submission = room.submit("alice-1", 0.8)
    first.write_bytes(b"damaged")
    with pytest.raises(LedgerError, match="the first model cannot be read"):
        room.work()
    assert "invalid" not in room.events()
    first.write_bytes(kept)
    room.work()
    assert room.verdict("alice-1", submission)["event"] == "accepted"
