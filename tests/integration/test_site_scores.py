"""What releases score at the sites: taken by a coordinator where it was agreed, and said by real sites over SSH."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedssh.bundle import seal_report
from fedssh.charity.cli_read import Recorded
from fedssh.errors import DecisionError
from fedssh.forms import canonical
from fedssh.history import text as texts
from fedssh.history import views
from fedssh.manifest import Scores, new_id, now
from fedssh.models import build, decision, set_weights
from fedssh.rules.events import Measured, Record
from fedssh.rules.replay import Replay
from fedssh.weights import read_header, read_weights
from tests.harness.room import Room, Rooms
from tests.harness.sites import Story


def say(room: Room, site: str, release: int, accuracy: float = 0.75, **changes: Any) -> str:
    """Put what a release scores at a site into its inbox; returns the message's id."""
    fields: dict[str, Any] = {
        "id": new_id(), "sender": site, "builds_on": release, "examples": 40,
        "metrics": Measured(loss=0.5, accuracy=accuracy, balanced_accuracy=0.7), "created": now(),
    }  # fmt: skip
    scores = Scores(**(fields | changes))
    seal_report(scores, room.keys[site], room.arrive(site))
    return scores.id


def scores_of(room: Room) -> dict[str, Any]:
    return views.scores(Recorded(room.vault.ledger))


def test_scores_of_sites_are_recorded_and_shown_beside_the_holdouts(new_room: Rooms) -> None:
    room = new_room(site_scores="on")
    release = room.release()
    said = say(room, "alice-1", release)
    room.work()
    record = room.last()
    assert record.event == "scored" and record.fields["builds_on"] == release
    assert room.verdict("alice-1", said) == record.fields, "its bob gets this line as the receipt"
    say(room, "alice-2", release, 0.5)
    say(room, "alice-1", release, 0.8)  # the later word counts
    room.work()
    [row] = (found := scores_of(room))["releases"]
    assert found["agreed"] and found["sites"] == ["alice-1", "alice-2"] and row["release"] == release
    assert {site: one["accuracy"] for site, one in row["sites"].items()} == {"alice-1": 0.8, "alice-2": 0.5}
    text = texts.TEXTS["scores"](found)
    assert text.splitlines()[2].split() == ["RELEASE", "OF", "HOLDOUT", "alice-1", "alice-2"]
    assert text.splitlines()[3].split() == [str(release), "1", "0.5000", "0.8000", "(40)", "0.5000", "(40)"]
    row = views.history_row({**record.fields, "hash": record.hash})
    assert (row["claim"], row["score"]) == ({"accuracy": 0.75, "loss": 0.5}, None)
    assert row["reason"] == f"what release {release} scores there, on 40 images"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"metrics": Measured(loss=0.1, accuracy=1.2, balanced_accuracy=0.5)}, "no release can score the accuracy 1.2"),
        ({"metrics": Measured(loss=0.1, accuracy=0.5, balanced_accuracy=-1)}, "can score the balanced_accuracy -1"),
        ({"metrics": Measured(loss=-0.1, accuracy=0.5, balanced_accuracy=0.5)}, "no release can score the loss -0.1"),
        ({"metrics": Measured(loss=1e9, accuracy=0.5, balanced_accuracy=0.5)}, "no release can score the loss 1e+09"),
        ({"examples": 0}, "a release cannot be scored on 0 images"),
        ({"builds_on": 1}, "it builds on release 1, which is genesis in the history"),
        ({"builds_on": 999}, "it builds on release 999, which is no record in the history"),
    ],
)
def test_absurd_scores_are_invalid(new_room: Rooms, changes: dict[str, Any], reason: str) -> None:
    room = new_room(site_scores="on")
    say(room, "alice-1", room.release(), **changes)
    room.work()
    assert room.last().event == "invalid" and reason in room.last().fields["reason"]
    assert not scores_of(room)["releases"]


def test_without_an_agreement_scores_are_invalid(new_room: Rooms) -> None:
    room = new_room()
    say(room, "alice-1", room.release())
    room.work()
    assert room.last().fields["reason"] == "no scores of sites were agreed"
    assert texts.TEXTS["scores"](scores_of(room)) == "no scores of sites were agreed: charity init --site-scores on\n"
    assert "site_scores" not in room.vault.ledger.record(1).fields


def test_scores_ask_for_no_turn_and_end_none(new_room: Rooms) -> None:
    room = new_room(site_scores="on", schedule="relay")
    release = room.release()
    assert room.vault.state.turn == "alice-1"
    say(room, "alice-2", release)
    room.work()
    assert room.last().event == "scored" and room.vault.state.turn == "alice-1"
    assert room.vault.state.due_release() is None, "no release is due for a score"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"metrics": {"loss": 0.5, "accuracy": 1.5, "balanced_accuracy": 0.5}}, "no release can score the accuracy"),
        ({"builds_on": 1}, "it builds on record 1, which is no release"),
        ({"site": "alice-9"}, "revoked"),
        ({"examples": 0}, "a release cannot be scored on 0 images"),
    ],
)
def test_who_reads_the_history_sees_what_no_site_can_have_said(
    new_room: Rooms, change: dict[str, Any], reason: str
) -> None:
    room = new_room(site_scores="on")
    say(room, "alice-1", room.release())
    room.work()
    *before, record = room.vault.ledger.records()
    held = Replay()
    for one in before:
        held.follow(one)
    with pytest.raises(DecisionError, match=reason):
        held.follow(Record(record.sequence, record.hash, canonical(record.fields | change), record.signature))
    held.follow(record)
    with pytest.raises(DecisionError, match="judged already"):
        held.follow(Record(record.sequence + 1, record.hash, record.text, record.signature))


SPEC = {"name": "mlp", "depth": 1, "width": 4, "input": [6, 6, 1], "classes": 2}
SITES = ("alice-1", "alice-2")
APART = {"alice-1": 90, "alice-2": 40}  # the second site's images are harder


def images(seed: int, apart: int, **numbers: int) -> dict[str, Any]:
    random, arrays = np.random.default_rng(seed), {"class_names": np.array(["healthy", "ill"])}
    for split, number in numbers.items():
        labels = np.arange(number) % 2
        pixels = random.integers(0, 160, (number, 6, 6)) + apart * labels[:, None, None]
        arrays |= {f"{split}_images": pixels.astype(np.uint8), f"{split}_labels": labels}
    return arrays


def test_real_sites_say_once_what_each_release_scores_there(tmp_path: Path) -> None:
    with Story(tmp_path / "federation") as federation:
        np.savez(federation.holdout, allow_pickle=False, **images(0, 90, train=40, val=60, test=40))
        federation.command(
            "charity", "init", federation.state, f"--data={federation.holdout}", f"--architecture={json.dumps(SPEC)}",
            "--sessions=1", "--epochs=4", "--batch-size=8", "--genesis-epochs=3", f"--address={federation.address}",
            "--threshold=sensitivity>=0.95", "--site-scores=on",
        )  # fmt: skip
        for number, site in enumerate(SITES, 1):
            (federation.site(site) / "data").mkdir(parents=True)
            arrays = images(number, APART[site], train=60, val=50)
            np.savez(federation.site(site) / "data/site.npz", allow_pickle=False, **arrays)
            federation.enrol(site)
        federation.serve("--door=embedded", federation.listen)
        for site in SITES:
            federation.join(site)
        trainers = [agent for agent in federation.agents if agent.name == "alice"]
        federation.until(lambda: all(agent.code() == 0 for agent in trainers), 240)
        federation.until(lambda: not federation.on_the_way())
        found = json.loads(federation.command("charity", "scores", federation.state, "--json"))
        verified = federation.command("charity", "verify", federation.state)
        records = federation.records()
    assert "every hash, link, signature and decision is right" in verified
    said = [(one["site"], one["builds_on"]) for one in records if one["event"] == "scored"]
    assert len(said) == len(set(said)), "once each"
    last = max(one["sequence"] for one in records if one["event"] == "release")
    assert {(site, last) for site in SITES} <= set(said), "also of the last one, which nobody trains from"
    [row] = [one for one in found["releases"] if one["release"] == last]
    (right, _), (_, found_ill) = next(one for one in records if one["sequence"] == last)["metrics"][
        "confusion_at_threshold"
    ]
    assert row["holdout"]["accuracy"] == (right + found_ill) / 60, "at the threshold, too"
    check_scores(federation, row, next(one for one in records if one["sequence"] == last))


def check_scores(federation: Story, row: dict[str, Any], release: dict[str, Any]) -> None:
    """What the sites said is what anybody finds who has their images, by the threshold of the release."""
    model = federation.coordinator / f"vault/models/{release['model']['sha256']}.safetensors"
    network = build(SPEC)
    set_weights(network, read_weights(model, read_header(model).tensors))
    for site in SITES:
        arrays = np.load(federation.site(site) / "data/site.npz")
        outputs = network.predict(arrays["val_images"][..., None] / np.float32(255), verbose=0)[:, 0]
        table = decision.at(outputs, arrays["val_labels"], release["metrics"]["threshold"])
        assert row["sites"][site]["examples"] == 50
        assert row["sites"][site]["accuracy"] == (table[0][0] + table[1][1]) / 50
        assert row["sites"][site]["balanced_accuracy"] == pytest.approx((table[0][0] / 25 + table[1][1] / 25) / 2)
    assert row["sites"]["alice-1"]["accuracy"] != row["sites"]["alice-2"]["accuracy"]
