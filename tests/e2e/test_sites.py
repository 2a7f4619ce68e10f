"""Sites come and go, as plain processes: one is killed in the middle of its work and comes back, another joins late."""

from __future__ import annotations

import datetime
import json
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from tests.harness.sites import Story

CLOSING = ("round-accepted", "round-refused")
DEADLINE_SECONDS = 10
FEDAVG, MERGE = f"fedavg:deadline={DEADLINE_SECONDS}", "merge"


@pytest.fixture(scope="module")
def federation(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """The whole story: two sites; alice-2 is killed while it trains and comes back; alice-3 joins and goes; the end."""
    with Story(tmp_path_factory.mktemp("federation")) as federation:
        begin(federation, request.param)
        lose_a_site(federation)
        gain_sites(federation)
        revoke_a_site(federation)
        federation.command("charity", "finish", federation.state)
        trainers = [agent for agent in federation.agents if agent.name == "alice"]
        federation.until(lambda: all(agent.code() == 0 for agent in trainers) and not federation.on_the_way())
        yield federation


def begin(federation: Story, policy: str) -> None:
    words = ("--sites=2", f"--data-dir={federation.folder}", "--dataset=digits", "--sessions=1000", "--epochs=3")
    agent = federation.set_up(*words, f"--policy={policy}")
    federation.until(lambda: agent.code() is not None)
    federation.agents.remove(agent)
    federation.serve("--door=embedded", federation.listen)
    for site in ("alice-1", "alice-2"):
        federation.join(site)


def lose_a_site(federation: Story) -> None:
    """Kill alice-2 in its second session, and wait until the others have gone on without it."""
    federation.until(lambda: "session 2" in "\n".join(federation.said("alice", "alice-2")))
    federation.kill("alice-2")
    federation.mark("killed")
    federation.until(lambda: went_on(federation))


def went_on(federation: Story) -> bool:
    """Whether alice-1 did a session, or a round closed, without alice-2.

    The update of alice-2 may have been on its way; then it is the round after that which waits for it.
    """
    if federation.records()[0]["schedule"] == "rounds":
        return any("alice-2" in record["missing"] for record in federation.since("killed", *CLOSING))
    return bool(federation.since("killed", "report", site="alice-1"))


def gain_sites(federation: Story) -> None:
    """Start alice-2 again, let alice-3 join, and wait until both have taken part."""
    federation.mark("restarted")
    federation.join("alice-2")
    folder = federation.site("alice-3")
    shutil.copytree(federation.site("alice-1") / "data", folder / "data")
    state = f"--state={folder / 'bob'}"
    federation.command("bob", "keygen", state)
    invitation, key = folder / "data/invitation.json", folder / "bob/site_key.pub"
    where = (f"--address={federation.address}", f"--out={invitation}")
    invitation.unlink()  # that of alice-1
    federation.command("charity", "nodes", "add", federation.state, "alice-3", str(key), *where)
    federation.mark("joined")
    federation.command("bob", "join", state, str(invitation))
    federation.join("alice-3")
    federation.until(lambda: federation.since("restarted", federation.part, site="alice-2"))
    federation.until(lambda: federation.since("joined", federation.part, site="alice-3"))


def revoke_a_site(federation: Story) -> None:
    """Take alice-3 out again, and wait until its trainer has gone home; its bob would go on asking."""
    federation.mark("revoked")
    federation.command("charity", "nodes", "revoke", federation.state, "alice-3")
    trainer = federation.find("alice", "alice-3")
    federation.until(lambda: trainer.code() == 0)
    federation.kill("alice-3")


def seconds_between(one: dict[str, Any], two: dict[str, Any]) -> float:
    first, second = (datetime.datetime.fromisoformat(record["time"]) for record in (one, two))
    return (second - first).total_seconds()


def told_with(*policies: str) -> pytest.MarkDecorator:
    """With which policies the story is told; once each, whatever looks at it."""
    return pytest.mark.parametrize("federation", policies, indirect=True, scope="module")


@told_with(FEDAVG, MERGE)
def test_it_ends_with_a_sound_history_and_a_better_model(federation: Story) -> None:
    federation.command("charity", "verify", federation.state)
    records = federation.records()
    assert [record["event"] for record in records].count("finished") == 1
    best = json.loads(federation.command("charity", "best", federation.state, "--json"))
    assert best["event"] in ("accepted", "round-accepted")
    assert best["metrics"]["accuracy"] > best["genesis"]["accuracy"]


@told_with(FEDAVG)
def test_a_round_closes_at_its_deadline_without_a_killed_site(federation: Story) -> None:
    (first, *_) = [record for record in federation.since("killed", *CLOSING) if "alice-2" in record["missing"]]
    assert [part["site"] for part in first["updates"]] == ["alice-1"]
    opened = next(r for r in federation.records() if r["event"] == "round-opened" and r["round"] == first["round"])
    assert "alice-2" in opened["sites"]
    assert seconds_between(opened, first) >= DEADLINE_SECONDS


@told_with(MERGE)
def test_nobody_waits_for_a_killed_site_without_rounds(federation: Story) -> None:
    assert federation.since("killed", "report", site="alice-1")
    events = [record["event"] for record in federation.records()]
    assert not [event for event in events if event.startswith("round-") or event == "counted"]


@told_with(FEDAVG, MERGE)
def test_a_killed_site_takes_part_again(federation: Story) -> None:
    assert federation.since("restarted", federation.part, site="alice-2")
    lines = (federation.site("alice-2") / "bob/receipts.jsonl").read_text().splitlines()
    told = [json.loads(line) for line in lines]
    judged = {record.get("submission") for record in federation.records() if record.get("site") == "alice-2"}
    assert {receipt["id"] for receipt in told if receipt["record"]} == judged - {None}


@told_with(FEDAVG)
def test_a_late_site_takes_part_from_the_next_round_on(federation: Story) -> None:
    records = federation.records()
    opened = [record for record in records if record["event"] == "round-opened"]
    joined, revoked = federation.marks["joined"], federation.marks["revoked"]
    before = [record for record in opened if record["sequence"] <= revoked]
    assert all(("alice-3" in record["sites"]) == (record["sequence"] > joined) for record in before)
    first = next(record for record in opened if record["sequence"] > joined)
    counted = [record for record in records if record["event"] == "counted" and record["site"] == "alice-3"]
    assert counted and all(record["round"] >= first["round"] for record in counted)


@told_with(FEDAVG, MERGE)
def test_a_late_site_begins_from_the_newest_model(federation: Story) -> None:
    (first, *_) = federation.since("joined", federation.part, site="alice-3")
    assert first["builds_on"] > federation.marks["joined"]


@told_with(FEDAVG, MERGE)
def test_a_revoked_site_goes_home_and_says_why(federation: Story) -> None:
    last = federation.said("alice", "alice-3")[-1]
    assert last.startswith("the coordinator does not let this site in any more, since ")
    assert "not enrolled with this key any more" in last
    assert last.endswith("trained here")


@told_with(MERGE)
def test_mixes_tell_their_share(federation: Story) -> None:
    for record in federation.records():
        if record["event"] == "accepted":
            assert 0 < record["share"] <= 1 and record["staleness"] >= 0
            assert (record["candidate"] == record["model"]) == (record["share"] == 1)
