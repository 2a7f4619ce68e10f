"""Charity and what sites say they have spent: recomposed, invalid where it is less; who has none left is not drawn."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

import pytest

pytest.importorskip("dp_accounting", reason="the extra privacy is not installed")

from fedssh.charity.judge.client import JudgeDownError
from fedssh.errors import DecisionError, JudgeError
from fedssh.history import figures, views
from fedssh.history.text import TEXTS
from fedssh.rules.events import Local, Spent
from fedssh.rules.privacy import Charge, epsilon
from fedssh.rules.replay import PRICE, Replay
from fedssh.rules.stored import from_value, to_value
from fedssh.rules.terms import written_loss
from tests.harness.room import PLAN, JudgeInProcess, Room, Rooms

PRIVACY = {"unit": "image", "clip": 1.0, "noise": 2.0, "delta": 1e-3, "budget": 4.0}
PRIVATE: dict[str, Any] = {
    "plan": written_loss({**PLAN, "epochs": 3, "publish": "session", "privacy": PRIVACY, "loss": ""}, "auto"),
    "policy": "fedavg:fraction=1,minimum=0.5,deadline=600,sites=1", "schedule": "rounds", "gate": "off", "margin": 0.0,
}  # fmt: skip
ONE = Charge(2.0, 8 / 40, 15)  # of 40 images in batches of 8, three epochs


def spent(sessions: int = 1, **changes: Any) -> Spent:
    """What an honest site says after so many sessions here."""
    fields: dict[str, Any] = {
        "unit": "image", "sampling": "poisson", "clip": 1.0, "noise": 2.0, "rate": ONE.rate, "steps": ONE.steps,
        "delta": 1e-3, "spent": epsilon([ONE] * sessions, 1e-3), "next": epsilon([ONE] * (sessions + 1), 1e-3),
        "budget": 4.0,
    }  # fmt: skip
    return Spent(**fields | changes)


def submit(room: Room, site: str, said: Spent | None = None, **changes: Any) -> str:
    fields: dict[str, Any] = {"examples": 40, "metrics": None, "privacy": said or spent()}
    return room.submit(site, 0.7, **fields | changes)


def private(new_room: Rooms, sites: tuple[str, ...] = ("alice-1", "alice-2")) -> Room:
    """A room whose judge counts in this process, which has loaded what that takes."""
    room = new_room(sites, **PRIVATE)
    room.judge = JudgeInProcess()
    return room


def verdict(room: Room, site: str, id: str) -> dict[str, Any]:
    room.work()
    return room.verdict(site, id)


def test_an_honest_site_is_counted_and_its_record_says_what_it_spent(new_room: Rooms) -> None:
    room = new_room(("alice-1",), **PRIVATE)
    found = verdict(room, "alice-1", submit(room, "alice-1"))
    assert (found["event"], found["claim"], found["privacy"]) == ("counted", None, spent().fields())
    state = room.vault.state
    assert state.spent["alice-1"].charges == ((ONE.rate, ONE.steps),)
    value = json.loads(json.dumps(to_value(state)))
    assert from_value(value, state.sequence, state.head) == state
    replay = Replay()
    for record in room.vault.ledger.records():
        replay.follow(record)
    assert replay.unchecked[PRICE] == 1


LOWER: dict[str, Any] = {"spent": spent().spent * 0.9}
CAUGHT: dict[str, tuple[dict[str, Any], str]] = {
    "too little": ({"privacy": spent(**LOWER)}, "alice-1 says epsilon .* is spent, and its sessions here come to"),
    "a cheap next one": ({"privacy": spent(next=spent().spent)}, "is spent after one more session, and its sessions"),
    "next below now": ({"privacy": spent(next=0.1)}, "one more session takes what is spent from"),
    "over the budget": ({"privacy": spent(budget=0.1)}, r"has spent epsilon .*, its budget is 0\.1"),
    "a larger budget": ({"privacy": spent(budget=9.0)}, "has a budget of 9, agreed is at most 4"),
    "less noise": ({"privacy": spent(noise=1.0)}, r"has the noise 1\.0, agreed is 2\.0"),
    "another unit": ({"privacy": spent(unit="patient")}, "has the unit patient, agreed is image"),
    "fewer steps": ({"privacy": spent(steps=5)}, "tells of 5 steps at a rate of 0.2, 40 images make 15 at 0.2"),
    "a smaller rate": ({"privacy": spent(rate=0.1)}, "tells of 15 steps at a rate of 0.1"),
    "fewer images": ({"examples": 10}, "10 images make 6 at 0.8"),
    "what it scored": ({"metrics": Local(0.1, 0.9)}, "it tells what it scored on the site's images"),
}


@pytest.mark.parametrize("case", CAUGHT)
def test_what_cannot_be_so_is_invalid(new_room: Rooms, case: str) -> None:
    changes, reason = CAUGHT[case]
    room = private(new_room, ("alice-1",))
    found = verdict(room, "alice-1", submit(room, "alice-1", changes.get("privacy"), **changes))
    assert found["event"] == "invalid"
    assert re.search(reason, found["reason"]), found["reason"]
    assert room.vault.state.spent == {}


def test_an_agreed_rate_is_every_sites(new_room: Rooms) -> None:
    terms = {**PRIVATE, "plan": {**PRIVATE["plan"], "privacy": PRIVACY | {"rate": 0.2}}}
    room = new_room(("alice-1", "alice-2"), **terms)
    room.judge = JudgeInProcess()
    same = spent(rate=0.2, steps=15)
    for site, count in (("alice-1", 40), ("alice-2", 7_000)):
        assert verdict(room, site, submit(room, site, same, examples=count))["event"] == "counted"
    found = verdict(room, "alice-1", submit(room, "alice-1", spent(2, rate=0.1, steps=30)))
    assert found["event"] == "invalid" and "agreed are 15 at 0.2" in found["reason"]


def test_who_has_trained_before_is_caught_by_the_history(new_room: Rooms) -> None:
    room = private(new_room, ("alice-1",))
    verdict(room, "alice-1", submit(room, "alice-1", spent(2)))  # an interrupted session was charged, too
    found = verdict(room, "alice-1", submit(room, "alice-1", spent(1)))
    assert found["event"] == "invalid" and "and said" in found["reason"]
    found = verdict(room, "alice-1", submit(room, "alice-1", spent(1, spent=spent(2).spent, next=spent(3).next)))
    assert found["event"] == "counted", "as much as two sessions come to, and two are known"
    found = verdict(room, "alice-1", submit(room, "alice-1", spent(1, spent=spent(2).spent, next=spent(3).next)))
    assert found["event"] == "invalid" and "its sessions here come to" in found["reason"]


def test_without_privacy_nothing_of_it_is_taken(new_room: Rooms) -> None:
    room = new_room(("alice-1",))
    found = verdict(room, "alice-1", submit(room, "alice-1"))
    assert (found["event"], found["reason"]) == ("invalid", "it tells of privacy, and none was agreed")
    found = verdict(room, "alice-1", room.submit("alice-1", 0.7, metrics=None))
    assert (found["event"], found["reason"]) == ("invalid", "it does not say what it scored at the site")


def test_with_privacy_it_has_to_be_said(new_room: Rooms) -> None:
    room = private(new_room, ("alice-1",))
    found = verdict(room, "alice-1", room.submit("alice-1", 0.7, examples=40))
    assert found["reason"] == "privacy was agreed, and it does not say what was spent"
    found = verdict(room, "alice-1", room.report("alice-1"))
    assert found["event"] == "invalid" and "it tells what was scored" in found["reason"]


def test_a_judge_that_cannot_count_decides_nothing(new_room: Rooms, monkeypatch: pytest.MonkeyPatch) -> None:
    room = private(new_room, ("alice-1",))
    id = submit(room, "alice-1")

    def cannot(charges: object, delta: float) -> float:
        raise JudgeError("dp-accounting is not installed")

    monkeypatch.setattr(room.judge, "spent", cannot)
    with pytest.raises(JudgeDownError, match="cannot be counted"):
        room.work()
    assert "counted" not in room.events() and "invalid" not in room.events()
    monkeypatch.undo()
    assert verdict(room, "alice-1", id)["event"] == "counted"


def test_who_has_nothing_left_is_drawn_no_more(new_room: Rooms) -> None:
    room = private(new_room)
    all_of_it = spent(budget=spent().next - 0.01)
    submit(room, "alice-1", all_of_it)
    verdict(room, "alice-2", submit(room, "alice-2"))
    assert room.round.number == 2 and room.round.sites == ("alice-2",)
    opened = [record.said for record in room.vault.ledger.records() if record.event == "round-opened"]
    assert opened[-1].reason.endswith("; 1 with no privacy budget left")  # type: ignore[attr-defined]
    assert "budget" not in opened[0].reason  # type: ignore[attr-defined]
    verdict(room, "alice-2", submit(room, "alice-2", spent(2, budget=spent(2).next - 0.01)))
    assert room.vault.state.finished
    said = [record.said for record in room.vault.ledger.records() if record.event == "finished"]
    assert said[0].reason == "0 of 2 sites have privacy budget left, too few for a round"  # type: ignore[attr-defined]


def test_a_rollback_gives_nothing_back(new_room: Rooms) -> None:
    from fedssh.charity import operate

    room = private(new_room, ("alice-1",))
    verdict(room, "alice-1", submit(room, "alice-1"))
    before = room.vault.state.spent
    operate.roll_back(room.vault, 1, "to see")
    assert room.vault.state.current.of != 1 or room.last().event in ("rollback", "release")
    assert room.vault.state.spent == before != {}
    found = verdict(room, "alice-1", submit(room, "alice-1"))
    assert found["event"] == "invalid" and "its sessions here come to" in found["reason"]


def test_a_reader_of_the_history_sees_what_a_coordinator_lets_pass(new_room: Rooms) -> None:
    room = private(new_room, ("alice-1",))
    submit(room, "alice-1")
    room.work()
    records = list(room.vault.ledger.records())
    place = next(place for place, record in enumerate(records) if record.event == "counted")
    told: list[tuple[dict[str, Any], str]] = [({"budget": 0.1}, "its budget is 0.1"), ({"noise": 1.0}, "has the noise")]
    for changes, reason in told:
        fields = {**records[place].fields, "privacy": spent(**changes).fields()}
        lie = dataclasses.replace(records[place], text=json.dumps(fields).encode())
        replay = Replay()
        for record in records[:place]:
            replay.follow(record)
        with pytest.raises(DecisionError, match=reason):
            replay.follow(lie)


def test_the_account_of_each_site_is_shown(new_room: Rooms) -> None:
    room = private(new_room)
    verdict(room, "alice-1", submit(room, "alice-1"))
    value = views.privacy(_History([record.fields for record in room.vault.ledger.records()]))
    one, other = value["sites"]
    assert (one["spent"], one["sessions"], other["spent"], other["price"]) == (spent().spent, 1, 0.0, None)
    assert one["left"] == pytest.approx(4 - spent().spent, abs=1e-4)
    assert one["price"] == pytest.approx(spent().next - spent().spent, abs=1e-4)
    text = TEXTS["privacy"](value)
    assert "hides one image" in text and f"{spent().spent:.4f}" in text and "alice-2" in text
    assert figures.privacy({"agreed": None, "sites": []}).startswith("no privacy was agreed")


class _History:
    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self._rows, self.count = rows, len(rows)

    def row(self, sequence: int) -> dict[str, Any]:
        return self._rows[sequence - 1]

    def rows(self, after: int = 0) -> Any:
        return iter(self._rows[after:])
